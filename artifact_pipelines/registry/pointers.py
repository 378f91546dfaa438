"""Where a stage points and pointed, as the ledger's leaves say it.

The tables of stages are answers worked out beforehand, and whoever can write to the database
can edit them: nothing that a move rests on is read from them alone.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.errors import ArtifactError, LedgerError

_MOVES = ("promote", "rollback")


@dataclass(frozen=True, slots=True)
class Moved:
    """What a leaf says of a pointer's move.

    Attributes:
        seq: The leaf.
        time: When.
        action: `promote` or `rollback`.
        artifact: What the stage points at from then on.
        actor: The id of who moved it.
        policy: The digest of the policy in force.
    """

    seq: int
    time: str
    action: str
    artifact: str
    actor: str
    policy: str


def moves(conn: Connection, project: str, stage: str) -> list[Moved]:
    """Return the moves of a pointer, oldest first.

    Raises:
        LedgerError: The table of moves, or a leaf's row, is not what the leaves say.
    """
    table, leaf = tables.stage_history, tables.leaf
    found = [_moved(row) for row in conn.execute(_leaves(project, stage).order_by(leaf.c.seq))]
    rows = conn.execute(
        sa.select(table.c.seq, table.c.action, table.c.artifact, table.c.policy)
        .where(table.c.project == project, table.c.stage == stage)
        .order_by(table.c.seq)
    )
    kept = {tuple(row) for row in rows}
    said = {(one.seq, one.action, one.artifact, one.policy) for one in found}
    wrong = sorted({seq for seq, *_ in kept ^ said})
    if wrong:
        raise LedgerError(
            f"the catalog's history of {project}@{stage} is not what the ledger says of leaf "
            f"{wrong[0]}; run: artifact-pipelines audit verify"
        )
    return found


def pointer(conn: Connection, project: str, stage: str) -> tuple[str | None, int]:
    """Return what a stage points at and the leaf that moved it there, 0 where nothing did.

    Raises:
        LedgerError: The table of stages is not what the newest move says.
    """
    table, leaf = tables.stage, tables.leaf
    row = conn.execute(
        sa.select(table.c.artifact, table.c.seq).where(
            table.c.project == project, table.c.stage == stage
        )
    ).first()
    newest = conn.execute(_leaves(project, stage).order_by(leaf.c.seq.desc()).limit(1)).first()
    kept = (None, 0) if row is None else (row.artifact, row.seq)
    moved = None if newest is None else _moved(newest)
    if kept != ((None, 0) if moved is None else (moved.artifact, moved.seq)):
        there = "nothing" if moved is None else f"{moved.artifact[:16]} (leaf {moved.seq})"
        here = "nothing" if row is None else row.artifact[:16]
        raise LedgerError(
            f"the catalog says that {project}@{stage} points at {here}, and the ledger says "
            f"{there}; run: artifact-pipelines audit verify"
        )
    return kept


def stages(conn: Connection, project: str) -> set[str]:
    """Return the stages of a project that a pointer was ever moved to."""
    table = tables.stage_history
    rows = conn.execute(sa.select(table.c.stage).where(table.c.project == project).distinct())
    return set(rows.scalars())


def is_alias(conn: Connection, project: str, name: str) -> bool:
    """Return whether a name stands beside the stages, as an alias does."""
    table = tables.alias
    statement = sa.select(table.c.name).where(table.c.project == project, table.c.name == name)
    return conn.execute(statement).first() is not None


def _leaves(project: str, stage: str) -> sa.Select[tuple[bytes, bytes | None]]:
    leaf = tables.leaf
    return sa.select(leaf.c.envelope, leaf.c.body).where(
        leaf.c.subject == f"{project}/{stage}", leaf.c.action.in_(_MOVES)
    )


def _moved(row: sa.Row[tuple[bytes, bytes | None]]) -> Moved:
    leaf = Leaf.decode(bytes(row.envelope))
    body = b"" if row.body is None else bytes(row.body)
    if digest.sha256(body) != leaf.body:
        raise LedgerError(f"the body of leaf {leaf.seq} is not the one that the ledger cites.")
    try:
        said = SignedStatement.from_body(digest.parse(body)).payload
        artifact, policy = str(said["artifact"]), str(said["policy"])
    except (ArtifactError, LookupError, TypeError) as error:
        raise LedgerError(f"leaf {leaf.seq} moves a pointer and does not say where.") from error
    return Moved(leaf.seq, leaf.time, leaf.action, artifact, leaf.actor, policy)
