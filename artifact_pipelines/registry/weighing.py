"""What is stored, what it would be without deduplication, coding and rules, and for whom."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.registry.reading import Reading

_OF_A_RUN: Final = (Kind.TRAINING_RUN.value, Kind.CHECKPOINT.value)


class Weighing(Reading):
    """The registry, as far as its bytes are counted."""

    def storage_report(self) -> dict[str, Any]:
        """Return logical and stored bytes, in all, per project and per run, and what saved them.

        Stored bytes of a project or run count every pack that it uses; packs that several share
        count in each of them.

        What is saved adds up, with what is stored, to every byte that was ever published:
        `rules`, the bytes that forgetting and slimming gave up, by rule; `deduplication`, what
        files have beyond the chunks that are kept; `compression` and `tier`, what chunks have
        beyond their stored bytes where they stand for themselves, and where they are differences;
        less `overhead`, what packs have beyond those: footers, and chunks that have moved on.
        Chunks that nobody needs any more count against deduplication until they are freed.
        """
        return self.catalog.read(_report)


def _report(conn: Connection) -> dict[str, Any]:
    artifact, pack = tables.artifact, tables.pack
    logical = _logical(conn, [artifact.c.project])
    stored = _stored(conn, [artifact.c.project])
    of_run = artifact.c.kind.in_(_OF_A_RUN)
    run_logical = _logical(conn, [artifact.c.project, artifact.c.name], of_run)
    run_stored = _stored(conn, [artifact.c.project, artifact.c.name], of_run)
    total = int(conn.execute(sa.select(sa.func.sum(pack.c.size))).scalar() or 0)
    every = sum(size for _, size in logical.values())
    return {
        "totals": {
            "artifacts": sum(count for count, _ in logical.values()),
            "logical_bytes": every,
            "stored_bytes": total,
            "saved_bytes": max(every - total, 0),
        },
        "saved": _saved(conn, total),
        "projects": [
            {
                "project": project,
                "artifacts": count,
                "logical_bytes": size,
                "stored_bytes": stored.get((project,), 0),
            }
            for (project,), (count, size) in sorted(logical.items())
        ],
        "runs": [
            {
                "project": project,
                "run": name,
                "artifacts": count,
                "logical_bytes": size,
                "stored_bytes": run_stored.get((project, name), 0),
            }
            for (project, name), (count, size) in sorted(run_logical.items())
        ],
    }


def _logical(
    conn: Connection, by: list[sa.ColumnElement[str]], *where: sa.ColumnElement[bool]
) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return how many live artifacts there are, and their bytes, by some columns."""
    artifact = tables.artifact
    statement = (
        sa.select(*by, sa.func.count(), sa.func.sum(artifact.c.size))
        .where(artifact.c.state == "live", *where)
        .group_by(*by)
    )
    width = len(by)
    return {
        tuple(row[:width]): (int(row[width]), int(row[width + 1] or 0))
        for row in conn.execute(statement)
    }


def _stored(
    conn: Connection, by: list[sa.ColumnElement[str]], *where: sa.ColumnElement[bool]
) -> dict[tuple[str, ...], int]:
    """Return the bytes of the packs that live artifacts use, by some columns."""
    artifact, pack, link = tables.artifact, tables.pack, tables.artifact_pack
    used = (
        sa.select(*by, link.c.pack)
        .join(artifact, artifact.c.id == link.c.artifact)
        .where(artifact.c.state == "live", *where)
        .distinct()
        .subquery()
    )
    columns = [used.c[column.name] for column in by]
    statement = (
        sa.select(*columns, sa.func.sum(pack.c.size))
        .join(pack, pack.c.id == used.c.pack)
        .group_by(*columns)
    )
    return {tuple(row[: len(by)]): int(row[len(by)]) for row in conn.execute(statement)}


def _saved(conn: Connection, stored: int) -> dict[str, Any]:
    artifact, file, chunk = tables.artifact, tables.artifact_file, tables.chunk
    files = (
        sa.select(sa.func.sum(file.c.size))
        .join(artifact, artifact.c.id == file.c.artifact)
        .where(artifact.c.state == "live", file.c.state != "removed")
    )
    kept = int(conn.execute(files).scalar() or 0)
    alone = _sum(conn, chunk.c.base.is_(None))
    differing = _sum(conn, chunk.c.base.is_not(None))
    return {
        "deduplication": kept - alone[0] - differing[0],
        "compression": alone[0] - alone[1],
        "tier": differing[0] - differing[1],
        "rules": _given_up(conn),
        "overhead": stored - alone[1] - differing[1],
    }


def _sum(conn: Connection, which: sa.ColumnElement[bool]) -> tuple[int, int]:
    """Return the bytes and the stored bytes of some mapped chunks."""
    chunk = tables.chunk
    statement = sa.select(sa.func.sum(chunk.c.length), sa.func.sum(chunk.c.stored)).where(which)
    row = conn.execute(statement).one()
    return int(row[0] or 0), int(row[1] or 0)


def _given_up(conn: Connection) -> dict[str, int]:
    """Return the bytes of files that were removed, by the rule that asked for it."""
    artifact, file, tomb = tables.artifact, tables.artifact_file, tables.tombstone
    forgotten = (
        sa.select(tomb.c.rule, sa.func.sum(artifact.c.size))
        .join(artifact, artifact.c.id == tomb.c.artifact)
        .group_by(tomb.c.rule)
    )
    found = {str(row[0]): int(row[1] or 0) for row in conn.execute(forgotten)}
    slimmed = (
        sa.select(sa.func.sum(file.c.size))
        .join(artifact, artifact.c.id == file.c.artifact)
        .where(artifact.c.state == "live", file.c.state == "removed")
    )
    size = int(conn.execute(slimmed).scalar() or 0)
    if size:
        found["slim"] = found.get("slim", 0) + size
    return dict(sorted(found.items()))
