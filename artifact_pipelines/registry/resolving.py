"""What a stage serves and what proves it, gathered in one view of the catalog.

Nothing here is believed: whoever gathers it verifies it. The statements are made once,
because making them costs more than running them.
"""

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.errors import ArtifactError, LedgerError
from artifact_pipelines.registry import deciding
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.signing_off import Proof

NEWEST: Final = sa.select(tables.tree_head).order_by(tables.tree_head.c.size.desc()).limit(1)
_LEAF: Final = sa.select(tables.leaf.c.envelope, tables.leaf.c.body).where(
    tables.leaf.c.seq == sa.bindparam("seq")
)
_ARTIFACT: Final = sa.select(tables.artifact).where(tables.artifact.c.id == sa.bindparam("id"))
_POINTER: Final = sa.select(tables.stage.c.seq).where(
    tables.stage.c.project == sa.bindparam("project"),
    tables.stage.c.stage == sa.bindparam("stage"),
)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the catalog says of a stage.

    Attributes:
        newest: The row of the newest tree head.
        log_keys: The log's public keys, each with the leaf from which on it signs.
        seq: The leaf that moved the pointer, as the head's pointers have it; or nothing.
        pointer: The leaf that the table of stages names.
        move: The proof of the leaf that moved the pointer.
        model: The model that it moved to.
        published: The proof of the leaf that published the model.
    """

    newest: sa.Row[Any]
    log_keys: list[tuple[int, str]]
    seq: int | None = None
    pointer: int | None = None
    move: Proof | None = None
    model: Artifact | None = None
    published: Proof | None = None


def gather(conn: Connection, project: str, stage: str) -> Gathered | None:
    """Return what the catalog says of a stage, or nothing where no head is signed yet.

    Raises:
        LedgerError: A leaf is missing, or its body was erased.
    """
    newest = conn.execute(NEWEST).first()
    if newest is None:
        return None
    keys = deciding.log_keys(conn)
    seq = digest.parse(newest.pointers.encode()).get(f"{project}/{stage}")
    if seq is None:
        return Gathered(newest, keys)
    if newest.size <= seq:
        raise LedgerError(f"no signed tree head covers leaf {seq} yet.")
    envelope, body = _leaf(conn, seq)
    artifact = _moved_to(seq, body)
    pointer = conn.execute(_POINTER, {"project": project, "stage": stage}).scalar()
    row = conn.execute(_ARTIFACT, {"id": artifact}).first()
    if row is None:
        path, *_ = ledger.inclusions(conn, [seq], newest.size)
        move = Proof(envelope, body, path, newest.note, newest.pointers)
        return Gathered(newest, keys, seq, pointer, move)
    model = Artifact.of(row)
    if newest.size <= model.seq:
        raise LedgerError(f"no signed tree head covers leaf {model.seq} yet.")
    published = _leaf(conn, model.seq)
    paths = ledger.inclusions(conn, [seq, model.seq], newest.size)
    return Gathered(
        newest,
        keys,
        seq,
        pointer,
        Proof(envelope, body, paths[0], newest.note, newest.pointers),
        model,
        Proof(*published, paths[1], newest.note, newest.pointers),
    )


def _moved_to(seq: int, body: bytes) -> str:
    """Return the artifact that a move says it is to."""
    try:
        said = SignedStatement.from_body(digest.parse(body)).payload
        return str(said["artifact"])
    except (ArtifactError, LookupError, TypeError) as error:
        raise LedgerError(f"leaf {seq}, which a signed head cites, is no move.") from error


def _leaf(conn: Connection, seq: int) -> tuple[bytes, bytes]:
    """Return the envelope and body of a leaf."""
    row = conn.execute(_LEAF, {"seq": seq}).first()
    if row is None:
        raise LedgerError(f"the ledger lacks leaf {seq}.")
    if row.body is None:
        raise LedgerError(f"the body of leaf {seq} was erased.")
    return bytes(row.envelope), bytes(row.body)
