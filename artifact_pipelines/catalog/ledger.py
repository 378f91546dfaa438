"""The append-only log inside the catalog: leaves, tree nodes and the head row.

`append` is the only way in which a fact enters the catalog. It locks the head row last,
gives the change its number, and hands the leaf to `fold.apply`, the same function that
a rebuild runs.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import fold, tables
from artifact_pipelines.catalog.catalog import Transaction, batches, clock_of
from artifact_pipelines.domain import digest, merkle
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.errors import LedgerError

T = TypeVar("T")

HASH_BYTES = 32

_MOVE = (
    sa.update(tables.ledger_head)
    .where(tables.ledger_head.c.id == 1)
    .values(size=sa.bindparam("to"), peaks=sa.bindparam("roots"), time=sa.bindparam("at"))
)
_HEAD = sa.select(tables.ledger_head).where(tables.ledger_head.c.id == sa.literal_column("1"))
_LOCK = _HEAD.add_columns(clock_of("postgresql")).with_for_update()
_LOCK_SQLITE = str(_HEAD.add_columns(clock_of("sqlite")).compile(dialect=sqlite.dialect()))
_MOVE_SQLITE = "update ledger_head set size = ?, peaks = ?, time = ? where id = 1"
_HASHES = sa.select(tables.leaf.c.seq, tables.leaf.c.hash, tables.leaf.c.nodes).where(
    tables.leaf.c.seq.in_(sa.bindparam("seqs", expanding=True))
)
_ADD_SQLITE = str(sa.insert(tables.leaf).compile(dialect=sqlite.dialect()))


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
    if tx.conn.dialect.name == "sqlite":
        # The transaction holds the database's only lock; there is nothing to convert.
        return tx.conn.exec_driver_sql(_LOCK_SQLITE).one()
    return tx.conn.execute(_LOCK).one()


def _time(head: sa.Row[Any]) -> float:
    """Return the time of the next leaf: the clock's when the head was locked, never back."""
    return max(float(head.clock), float(head.time))


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
    ((sealed, said),) = digest.seal_all([body])
    at = _time(head)
    leaf = Leaf(
        seq=head.size,
        time=timestamp(at),
        actor=actor,
        action=action,
        subject=subject,
        body=digest.sha256(sealed),
    )
    # A body is applied as a rebuild would read it.
    _write(tx, head, leaf, sealed, _project_of(said), at)
    fold.apply(tx, leaf, said, publication)
    return leaf


def append_many(
    tx: Transaction, entries: Sequence[tuple[str, str, Mapping[str, Any]]], actor: str
) -> list[Leaf]:
    """Append leaves of an action, a subject and a body each, apply them and return them.

    They are numbered in this order under one lock, and written in a few statements.
    """
    head = lock(tx)
    at = _time(head)
    time = timestamp(at)
    peaks = _peaks(head)
    leaves, rows = [], []
    sealed = digest.seal_all([body for _, _, body in entries])
    for seq, ((action, subject, _), (body, said)) in enumerate(
        zip(entries, sealed, strict=True), head.size
    ):
        leaf = Leaf(seq, time, actor, action, subject, digest.sha256(body))
        rows.append(_row(leaf, body, _project_of(said), peaks))
        leaves.append(leaf)
    if leaves:
        _insert(tx.conn, rows)
        _move_head(tx, leaves[-1].seq + 1, peaks, at)
    for leaf, (_, said) in zip(leaves, sealed, strict=True):
        fold.apply(tx, leaf, said)
    return leaves


def _insert(conn: Connection, rows: list[tuple[Any, ...]]) -> None:
    """Insert leaves, each with every column in the table's order."""
    if conn.dialect.name == "sqlite":
        # There is nothing to convert: the driver takes the rows as they are.
        conn.exec_driver_sql(_ADD_SQLITE, rows)
        return
    names = [column.name for column in tables.leaf.columns]
    conn.execute(sa.insert(tables.leaf), [dict(zip(names, row, strict=True)) for row in rows])


def insert(
    tx: Transaction, head: sa.Row[Any], envelope: bytes, body: bytes | None, at: float
) -> None:
    """Add a leaf's row and the tree nodes that it completes, and move the head on."""
    leaf = Leaf.decode(envelope)
    if leaf.seq != head.size:
        raise LedgerError(f"leaf {leaf.seq} does not follow leaf {head.size - 1}.")
    project = None if body is None else _project_of(digest.parse(body))
    _write(tx, head, leaf, body, project, at)


def _write(
    tx: Transaction,
    head: sa.Row[Any],
    leaf: Leaf,
    body: bytes | None,
    project: str | None,
    at: float,
) -> None:
    peaks = _peaks(head)
    _insert(tx.conn, [_row(leaf, body, project, peaks)])
    _move_head(tx, leaf.seq + 1, peaks, at)


def _row(
    leaf: Leaf, body: bytes | None, project: str | None, peaks: list[bytes]
) -> tuple[Any, ...]:
    """Return a leaf's columns, in the table's order, and add its hash to the peaks."""
    hashed = leaf.hash
    return (
        leaf.seq,
        leaf.time,
        leaf.actor,
        leaf.action,
        leaf.subject,
        project,
        leaf.encode(),
        body,
        hashed,
        _grow(peaks, leaf.seq, hashed),
    )


def _peaks(head: sa.Row[Any]) -> list[bytes]:
    """Return the roots of the complete subtrees that the head row keeps."""
    return [
        head.peaks[start : start + HASH_BYTES] for start in range(0, len(head.peaks), HASH_BYTES)
    ]


def _grow(peaks: list[bytes], index: int, node: bytes) -> bytes:
    """Add a leaf's hash to the peaks, and return the tree nodes that it completes, in a row."""
    nodes = b""
    while index % 2:
        node = merkle.node_hash(peaks.pop(), node)
        index //= 2
        nodes += node
    peaks.append(node)
    return nodes


def _move_head(tx: Transaction, size: int, peaks: list[bytes], at: float) -> None:
    roots = b"".join(peaks)
    if tx.conn.dialect.name == "sqlite":
        tx.conn.exec_driver_sql(_MOVE_SQLITE, (size, roots, at))
    else:
        tx.conn.execute(_MOVE, {"to": size, "roots": roots, "at": at})


def head(conn: Connection) -> sa.Row[Any]:
    """Return the head row."""
    found = conn.execute(sa.select(tables.ledger_head)).first()
    if found is None:
        raise LedgerError("the catalog has no ledger; it was not made by this program.")
    return found


def root(conn: Connection, size: int) -> bytes:
    """Return the root of the tree of the first leaves."""
    return _over_nodes(conn, lambda hash_of: merkle.root_at(size, hash_of))


def inclusion(conn: Connection, seq: int, size: int) -> list[bytes]:
    """Return the proof that a leaf is in the tree of a size."""
    return _over_nodes(conn, lambda hash_of: merkle.inclusion_proof(seq, size, hash_of))


def inclusions(conn: Connection, seqs: Sequence[int], size: int) -> list[tuple[bytes, ...]]:
    """Return the proofs that leaves are in the tree of a size, read together."""
    return _over_nodes(
        conn,
        lambda hash_of: [tuple(merkle.inclusion_proof(seq, size, hash_of)) for seq in seqs],
    )


def consistency(conn: Connection, old: int, new: int) -> list[bytes]:
    """Return the proof that the tree of one size is a prefix of the tree of another."""
    return _over_nodes(conn, lambda hash_of: merkle.consistency_proof(old, new, hash_of))


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


def _over_nodes(conn: Connection, make: Callable[[merkle.HashOf], T]) -> T:
    """Return what is made of the hashes of complete nodes, which are read all at once."""
    wanted: set[tuple[int, int]] = set()

    def note(level: int, index: int) -> bytes:
        wanted.add((level, index))
        return b""

    make(note)
    # A node is kept with the leaf that completes it: the last one under it.
    last = sorted({((index + 1) << level) - 1 for level, index in wanted})
    found: dict[int, bytes] = {}
    for part in batches(last):
        rows = conn.execute(_HASHES, {"seqs": part})
        found |= {seq: bytes(hashed) + bytes(nodes) for seq, hashed, nodes in rows}

    def hash_of(level: int, index: int) -> bytes:
        hashes = found.get(((index + 1) << level) - 1, b"")
        hashed = hashes[level * HASH_BYTES : (level + 1) * HASH_BYTES]
        if len(hashed) != HASH_BYTES:
            raise LedgerError(f"the ledger lacks the hash of node {level}/{index}.")
        return hashed

    return make(hash_of)


def _project_of(said: Mapping[str, Any]) -> str | None:
    """Return the project that a body is about, or None."""
    statement = said.get("statement")
    if isinstance(statement, str):
        said = digest.parse(statement.encode())
    project = said.get("project")
    return project if isinstance(project, str) else None
