"""The questions that people and sensors ask every day, and how a database answers them.

Each must be answered through an index: one that reads a whole table takes a thousand times
as long when the history is a thousand times as long.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from artifact_pipelines.catalog import lineage
from artifact_pipelines.registry import Registry

GROWING = frozenset(
    {
        *(
            "artifact",
            "artifact_file",
            "edge",
            "ancestry",
            "metric",
            "chunk",
            "pack",
            "artifact_pack",
        ),
        *("leaf", "verdict", "request", "stage_history"),
    }
)
"""The tables that grow with the history."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement that reached the database.

    Attributes:
        text: The statement.
        values: What its placeholders stand for.
    """

    text: str
    values: Any


@dataclass(frozen=True, slots=True)
class Somewhere:
    """Names in the middle of a history, to ask about.

    Attributes:
        project: A project.
        run: One of its runs.
        model: The id of one of its models.
        leaf: The leaf that published that model.
    """

    project: str
    run: str
    model: str
    leaf: int


QUESTIONS: Mapping[str, Callable[[Registry, Somewhere], object]] = {
    "the projects": lambda registry, _: registry.projects(),
    "a run": lambda registry, at: registry.run(at.project, at.run),
    "the checkpoints of a run": lambda registry, at: registry.checkpoints(at.project, at.run),
    "the models of a run": lambda registry, at: registry.models(at.project, at.run),
    "the newest models": lambda registry, at: registry.models(at.project, above=1),
    "a dataset's versions": lambda registry, at: registry.datasets(at.project, "images"),
    "a checkpoint by step": lambda registry, at: registry.find(f"{at.project}/{at.run}@7"),
    "a run's last checkpoint": lambda registry, at: registry.find(f"{at.project}/{at.run}@latest"),
    "a model by number": lambda registry, at: registry.find(f"{at.project}/v1"),
    "a run by name": lambda registry, at: registry.find(f"{at.project}/{at.run}"),
    "an artifact by id": lambda registry, at: registry.get(at.model),
    "an artifact by a digest's beginning": lambda registry, at: registry.find(at.model[:12]),
    "an artifact's files": lambda registry, at: registry.files(at.model),
    "the stages of a project": lambda registry, at: registry.stages(at.project),
    "a stage's history": lambda registry, at: registry.history(at.project, "production"),
    "a stage's requests": lambda registry, at: registry.requests(at.project, "production"),
    "a model's verdicts": lambda registry, at: registry.verdicts(registry.get(at.model)),
    "what happened since": lambda registry, _: registry.events(after=100, limit=50),
    "the newest leaves": lambda registry, _: registry.ledger(limit=20),
    "what was done to an artifact": lambda registry, at: registry.ledger(subject=at.model),
    "what an artifact was made from": lambda registry, at: registry.catalog.read(
        lineage.reach, at.leaf
    ),
    "what was made from an artifact": lambda registry, at: registry.catalog.read(
        lineage.reach, at.leaf, down=True
    ),
    "a search by project and metric": lambda registry, at: registry.search(
        f'project = "{at.project}" and kind = checkpoint and metrics.accuracy > 0.97 '
        "order by metrics.accuracy desc limit 50"
    ),
    "a search by two metrics": lambda registry, at: registry.search(
        f'project = "{at.project}" and kind = checkpoint and metrics.accuracy > 1.0 '
        "and metrics.loss < 0.99 limit 50"
    ),
    "where chunks are": lambda registry, _: registry.locate(["0" * 64, "f" * 64]),
}


@dataclass
class Listening:
    """The statements that reach a database while this listens.

    Attributes:
        asked: The statements, in order.
    """

    asked: list[Asked] = field(default_factory=list)

    def note(self, *args: Any) -> None:
        """Note a statement, as SQLAlchemy hands it over."""
        if args[2].lstrip().lower().startswith(("select", "with")):
            self.asked.append(Asked(args[2], args[3]))


@contextmanager
def listening(registry: Registry) -> Iterator[Listening]:
    """Yield what notes the statements of a registry."""
    found, engine = Listening(), registry.catalog.engine
    sa.event.listen(engine, "before_cursor_execute", found.note)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", found.note)


def plan_of(registry: Registry, asked: Asked) -> str:
    """Return how a database would answer a statement, in its own words."""
    with registry.catalog.engine.connect() as conn:
        cursor: Any = conn.connection.cursor()
        lite = conn.dialect.name == "sqlite"
        cursor.execute(f"explain {'query plan ' if lite else ''}{asked.text}", asked.values)
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def full_scans(registry: Registry, asked: Asked, *, small: bool = False) -> list[str]:
    """Return where the database would read the whole of a growing table for a statement.

    With `small`, Postgres is asked for the best plan without reading a table from end to
    end, which it would choose for a few thousand rows whatever the indexes.
    """
    with registry.catalog.engine.connect() as conn:
        cursor: Any = conn.connection.cursor()
        if conn.dialect.name == "sqlite":
            cursor.execute(f"explain query plan {asked.text}", asked.values)
            return _scans_of_sqlite([row[3] for row in cursor.fetchall()], asked.text)
        if small:
            cursor.execute("set local enable_seqscan = off")
        cursor.execute(f"explain (format json) {asked.text}", asked.values)
        (document,) = cursor.fetchone()
        found = json.loads(document) if isinstance(document, str) else document
        return list(_scans_of_postgres(found[0]["Plan"], limited=False))


def reads(registry: Registry, asked: Asked) -> tuple[int, int]:
    """Return how many rows of growing tables Postgres reads for a statement, and how many it finds.

    Reading a table from end to end is forbidden to it, as it would not do so for a long one.
    """
    with registry.catalog.engine.connect() as conn:
        cursor: Any = conn.connection.cursor()
        cursor.execute("set local enable_seqscan = off")
        cursor.execute(f"explain (analyze, timing off, format json) {asked.text}", asked.values)
        plan = cursor.fetchone()[0][0]["Plan"]
        return _rows_read(plan), round(plan["Actual Rows"])


def _rows_read(plan: Mapping[str, Any]) -> int:
    read: int = sum(_rows_read(child) for child in plan.get("Plans", ()))
    if plan.get("Relation Name") not in GROWING:
        return read
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    rows = plan["Actual Rows"] + sum(plan.get(name, 0) for name in removed)
    return read + round(float(rows * plan["Actual Loops"]))


def _scans_of_sqlite(details: list[str], text: str) -> list[str]:
    found = []
    for detail in details:
        scanned = re.match(r"SCAN (\w+)", detail)
        if scanned is None:
            continue
        name = scanned.group(1)
        # Reading an index in its order until the limit is reached is no full scan.
        stops = "limit" in text.lower() and "order by" in text.lower()
        aliased = re.search(rf"(\w+) as {name}\b", text, re.IGNORECASE)
        table = aliased.group(1) if aliased else name
        if table in GROWING and not stops:
            found.append(detail)
    return found


def _scans_of_postgres(plan: Mapping[str, Any], *, limited: bool) -> Iterator[str]:
    kind, table = plan["Node Type"], plan.get("Relation Name")
    whole = kind == "Seq Scan" or (
        kind.startswith("Index") and "Index Cond" not in plan and not limited
    )
    if whole and table in GROWING:
        yield f"{kind} on {table}"
    stops = kind == "Limit" or (limited and kind in {"Nested Loop", "Hash Join", "Subquery Scan"})
    for child in plan.get("Plans", ()):
        yield from _scans_of_postgres(child, limited=stops)
