"""The append-only log inside the catalog: leaves, tree nodes and the head row.

`append` is the only way in which a fact enters the catalog. It locks the head row last,
gives the change its number, and hands the leaf to `fold.apply`, the same function that
a rebuild runs.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import fold, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest, merkle
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.errors import LedgerError

HASH_BYTES = 32


def create(tx: Transaction, origin: str) -> bool:
    """Make the head row of a new log and return whether there was none before."""
    head = tables.ledger_head
    if tx.conn.execute(sa.select(head.c.id)).first() is not None:
        return False
    tx.conn.execute(
        sa.insert(head).values(id=1, origin=origin, size=0, peaks=b"", time=0.0, exported=0)
    )
    return True


def lock(tx: Transaction) -> sa.Row[Any]:
    """Return the head row, locked: the last lock that a change takes."""
    statement = sa.select(tables.ledger_head).where(tables.ledger_head.c.id == 1).with_for_update()
    return tx.conn.execute(statement).one()


def append(
    tx: Transaction,
    *,
    action: str,
    subject: str,
    body: Mapping[str, Any],
    actor: str,
    publication: Publication | None = None,
) -> Leaf:
    """Append one leaf, apply it to the catalog and return it."""
    head = lock(tx)
    sealed = digest.seal(body)
    at = tx.now()
    leaf = Leaf(
        seq=head.size,
        time=timestamp(at),
        actor=actor,
        action=action,
        subject=subject,
        body=digest.sha256(sealed),
    )
    insert(tx, head, leaf.encode(), sealed, at)
    fold.apply(tx, leaf, digest.parse(sealed), publication)
    return leaf


def insert(
    tx: Transaction, head: sa.Row[Any], envelope: bytes, body: bytes | None, at: float
) -> None:
    """Add a leaf's row and the tree nodes that it completes, and move the head on."""
    leaf = Leaf.decode(envelope)
    if leaf.seq != head.size:
        raise LedgerError(f"leaf {leaf.seq} does not follow leaf {head.size - 1}.")
    hashed = merkle.leaf_hash(envelope)
    tx.conn.execute(
        sa.insert(tables.leaf).values(
            seq=leaf.seq,
            time=leaf.time,
            actor=leaf.actor,
            action=leaf.action,
            subject=leaf.subject,
            project=_project(body),
            envelope=envelope,
            body=body,
            hash=hashed,
        )
    )
    peaks = [
        head.peaks[start : start + HASH_BYTES] for start in range(0, len(head.peaks), HASH_BYTES)
    ]
    nodes: list[dict[str, Any]] = []
    index, node = leaf.seq, hashed
    while index % 2:
        node = merkle.node_hash(peaks.pop(), node)
        index //= 2
        nodes.append({"level": len(nodes) + 1, "index": index, "hash": node})
    if nodes:
        tx.conn.execute(sa.insert(tables.tree_node), nodes)
    peaks.append(node)
    tx.conn.execute(
        sa.update(tables.ledger_head)
        .where(tables.ledger_head.c.id == 1)
        .values(size=leaf.seq + 1, peaks=b"".join(peaks), time=at)
    )


def head(conn: Connection) -> sa.Row[Any]:
    """Return the head row."""
    found = conn.execute(sa.select(tables.ledger_head)).first()
    if found is None:
        raise LedgerError("the catalog has no ledger; it was not made by this program.")
    return found


def root(conn: Connection, size: int) -> bytes:
    """Return the root of the tree of the first leaves."""
    return merkle.root_at(size, _hashes(conn))


def inclusion(conn: Connection, seq: int, size: int) -> list[bytes]:
    """Return the proof that a leaf is in the tree of a size."""
    return merkle.inclusion_proof(seq, size, _hashes(conn))


def consistency(conn: Connection, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of one size is a prefix of the tree of another."""
    return merkle.consistency_proof(old, new, _hashes(conn))


def leaves(conn: Connection, start: int, stop: int) -> list[sa.Row[Any]]:
    """Return the rows of the leaves from one number up to, without, another."""
    table = tables.leaf
    statement = (
        sa.select(table).where(table.c.seq >= start, table.c.seq < stop).order_by(table.c.seq)
    )
    return list(conn.execute(statement))


def mark_exported(tx: Transaction, size: int) -> None:
    """Note that the leaves below a size are in the store."""
    head = tables.ledger_head
    tx.conn.execute(
        sa.update(head).where(head.c.id == 1, head.c.exported < size).values(exported=size)
    )


def timestamp(seconds: float) -> str:
    """Return a time in seconds since 1970 as RFC 3339 text in UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _hashes(conn: Connection) -> merkle.HashOf:
    node, leaf = tables.tree_node, tables.leaf

    def hash_of(level: int, index: int) -> bytes:
        if level:
            statement = sa.select(node.c.hash).where(node.c.level == level, node.c.index == index)
        else:
            statement = sa.select(leaf.c.hash).where(leaf.c.seq == index)
        found = conn.execute(statement).scalar()
        if found is None:
            raise LedgerError(f"the ledger lacks the hash of node {level}/{index}.")
        return bytes(found)

    return hash_of


def _project(body: bytes | None) -> str | None:
    if body is None:
        return None
    found = digest.parse(body)
    statement = found.get("statement")
    if isinstance(statement, str):
        found = digest.parse(statement.encode())
    project = found.get("project")
    return project if isinstance(project, str) else None
