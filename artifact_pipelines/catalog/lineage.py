"""What an artifact was made from, and what was made from it, in one statement each.

The database follows the edges itself: asked level by level, a lineage of a hundred runs
that each went on from the one before would take hundreds of round trips.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables


def reach(conn: Connection, start: int, *, down: bool = False) -> set[int]:
    """Return all that an artifact was made from, or all that was made from it.

    Artifacts are named by the leaves that published them, the start among them.
    """
    # As one text and not row by row: the rows would cost more than following the edges.
    number = sa.cast(_reached(start, down=down).c.seq, sa.Text)
    found = conn.execute(sa.select(sa.func.aggregate_strings(number, ","))).scalar_one()
    return set(map(int, found.split(","))) - {start}


def edges(conn: Connection, start: int, *, down: bool = False) -> list[tuple[sa.Row[Any], int]]:
    """Return the edges of a lineage, each with its distance from the start, nearest first."""
    edge, artifact = tables.edge, tables.artifact
    near, far = ("parent", "child") if down else ("child", "parent")
    reached = _reached(start, down=down)
    statement = (
        sa.select(edge, artifact.c.seq)
        .join(artifact, edge.c[near] == artifact.c.id)
        .join(reached, reached.c.seq == artifact.c.seq)
    )
    rows: dict[str, list[sa.Row[Any]]] = {}
    first = ""
    for row in conn.execute(statement):
        rows.setdefault(getattr(row, near), []).append(row)
        if row.seq == start:
            first = getattr(row, near)
    found: list[tuple[sa.Row[Any], int]] = []
    seen, frontier, depth = {first}, [first], 0
    while frontier:
        depth += 1
        level = [row for one in frontier for row in rows.get(one, ())]
        level.sort(key=lambda row: (row.child, row.role, row.parent))
        found += [(row, depth) for row in level]
        frontier = sorted({getattr(row, far) for row in level} - seen)
        seen.update(frontier)
    return found


def _reached(start: int, *, down: bool) -> sa.CTE:
    """Return the table of an artifact and everything on one side of it."""
    table = tables.ancestry
    near, far = ("parent", "child") if down else ("child", "parent")
    first = sa.select(sa.cast(sa.literal(start), tables.BigInteger).label("seq"))
    reached = first.cte("reached", recursive=True)
    return reached.union(sa.select(table.c[far]).join(reached, table.c[near] == reached.c.seq))
