"""What an artifact was made from, and what was made from it, in one statement each.

The database follows the edges itself: asked level by level, a lineage of a hundred runs
that each went on from the one before would take hundreds of round trips.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables


def reach(conn: Connection, start: str, *, down: bool = False) -> set[str]:
    """Return the ids of all that an artifact was made from, or of all that was made from it."""
    found = set(conn.execute(sa.select(_reached(start, down=down))).scalars())
    return found - {start}


def edges(conn: Connection, start: str, *, down: bool = False) -> list[tuple[sa.Row[Any], int]]:
    """Return the edges of a lineage, each with its distance from the start, nearest first."""
    table = tables.edge
    near, far = ("parent", "child") if down else ("child", "parent")
    reached = _reached(start, down=down)
    rows: dict[str, list[sa.Row[Any]]] = {}
    for row in conn.execute(sa.select(table).join(reached, table.c[near] == reached.c.id)):
        rows.setdefault(getattr(row, near), []).append(row)
    found: list[tuple[sa.Row[Any], int]] = []
    seen, frontier, depth = {start}, [start], 0
    while frontier:
        depth += 1
        level = [row for one in frontier for row in rows.get(one, ())]
        level.sort(key=lambda row: (row.child, row.role, row.parent))
        found += [(row, depth) for row in level]
        frontier = sorted({getattr(row, far) for row in level} - seen)
        seen.update(frontier)
    return found


def _reached(start: str, *, down: bool) -> sa.CTE:
    """Return the table of an artifact and everything on one side of it."""
    table = tables.edge
    near, far = ("parent", "child") if down else ("child", "parent")
    reached = sa.select(sa.cast(sa.literal(start), sa.Text).label("id")).cte(
        "reached", recursive=True
    )
    return reached.union(sa.select(table.c[far]).join(reached, table.c[near] == reached.c.id))
