"""Measure what it takes to say what may go, in a catalog of a long history.

Every figure stands beside the floor in the same run: the bare driver reading the same columns
of the same artifacts, and doing nothing with them. A catalog that was filled before is used
again where `--at` names its folder.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from scale import Filled, Report, open_filled

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.registry import pruning
from artifact_pipelines_tests.databases import Postgres
from artifact_pipelines_tests.histories import analyze

T = TypeVar("T")

HOUR = 3_600.0
ROUNDS = 3
TIMES = 2.0  # how often the floor's time a decision about everything may take

BARE = (
    """select kind, name, coalesce(step, version, 0), seq, tier, there, published from artifact
    where project = '{project}' and state = 'live'""",
    """select seq, value from metric where project = '{project}' and kind = 'checkpoint'
    and name = 'accuracy' and value is not null""",
)


def policy(youngest: float, oldest: float) -> Policy:
    """Return a policy under which the youngest quarter stays, and the oldest half goes."""
    archive, forget = (
        f"{int((youngest + share * (oldest - youngest)) / HOUR)}h" for share in (0.25, 0.5)
    )
    return Policy.of(
        {
            "select": {"metric": "accuracy", "mode": "max"},
            "retention": {
                "keep": {"last": 3, "best": 1, "every": 50},
                "archive_after": archive,
                "forget_after": forget,
                "max_share": 1.0,
                "max_forget": int(
                    time.time() * 1e3
                ),  # so that each run of this has a policy of its own
            },
        }
    )


def best(work: Callable[[], T], rounds: int = ROUNDS) -> tuple[float, float, T]:
    """Return the least time that some work took, by the clock and of this process, and its end."""
    taken = []
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.process_time()
        result = work()
        taken.append((time.perf_counter() - began, time.process_time() - spent, result))
    return min(one[0] for one in taken), min(one[1] for one in taken), taken[-1][2]


def bare(filled: Filled, projects: list[str]) -> int:
    """Read what the plans are made from with nothing but the database's driver."""
    count = 0
    with filled.registry.catalog.engine.connect() as conn:
        raw: Any = conn.connection.dbapi_connection
        for project in projects:
            for statement in BARE:
                cursor = raw.cursor()
                cursor.execute(statement.format(project=project))
                count += len(cursor.fetchall())
    return count


def govern(filled: Filled) -> list[str]:
    """Give every project a policy, and return the projects."""
    registry = filled.registry
    artifact = tables.artifact
    times = sa.select(sa.func.max(artifact.c.published), sa.func.min(artifact.c.published)).where(
        artifact.c.project.startswith("project-")
    )
    youngest, oldest = registry.catalog.read(
        lambda conn: [
            now(conn) - datetime.fromisoformat(text).timestamp()
            for text in conn.execute(times).one()
        ]
    )
    # The documents of plans that an earlier run made went with its memory.
    registry.catalog.write(lambda tx: tx.conn.execute(sa.delete(tables.plan)))
    projects = [one for one in registry.projects() if one.startswith("project-")]
    for project in projects:
        registry.set_policy(project, policy(youngest, oldest))
    return projects


def measure(filled: Filled, report: Report, name: str) -> None:
    """Time a decision about every artifact, and the plan of one project with its document."""
    registry = filled.registry
    projects = govern(filled)
    wall, own, rows = best(lambda: bare(filled, projects))
    report.say(f"{name}: rows of artifacts and metrics", rows, "")
    report.say(f"{name}: floor, bare SELECT of the columns", wall, "s")
    report.say(f"{name}: floor, own processor time", own, "s")
    decided, spent, due = best(registry.due)
    counts = {
        action: sum(due[project][action]["artifacts"] for project in projects)
        for action in ("keep", "archive", "forget")
    }
    artifacts = sum(counts.values())
    print(f"  {artifacts:,} artifacts of {len(projects)} projects: {counts}", flush=True)
    report.say(f"{name}: all of them decided, load included", decided, "s")
    report.say(f"{name}: decided, own processor time", spent, "s")
    report.say(f"{name}: decided, per million", decided / artifacts * 1e6, "s")
    report.say(f"{name}: decided, of the floor", decided / wall, "x", most=TIMES)
    one, _, _ = best(lambda: registry.due(projects[0]))
    report.say(f"{name}: one project decided", 1e3 * one, "ms")
    made, _, plan = best(lambda: registry.plan_retention(projects[0]), 1)
    report.say(f"{name}: its plan of {len(plan.items):,} items, written and shown", made, "s")
    again, _, same = best(lambda: registry.plan_retention(projects[0]), 1)
    if same.id != plan.id:
        raise SystemExit("the same plan was made twice")
    report.say(f"{name}: the same plan found again", again, "s")
    marked, _, unneeded = best(lambda: registry.catalog.read(pruning.unneeded_packs), 1)
    alive, _, living = best(lambda: registry.catalog.read(pruning.living), 1)
    report.say(f"{name}: prune's mark, packs that nothing needs", marked, "s")
    report.say(f"{name}: prune's mark, what is alive", alive, "s")
    print(f"  {len(unneeded):,} packs unneeded, {len(living[1]):,} artifacts alive", flush=True)


@contextlib.contextmanager
def place(name: str, artifacts: int, folder: Path) -> Iterator[str]:
    """Yield the address of a long history's catalog."""
    if name == "sqlite":
        yield f"sqlite:///{folder}/{artifacts}.db"
        return
    server = Postgres(folder / "postgres")
    try:
        yield server.named(f"history_{artifacts}")
    finally:
        server.stop(keep=True)


def main() -> int:
    """Print every figure and return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=int, default=100_000)
    parser.add_argument("--databases", default="sqlite")
    parser.add_argument("--at", type=Path, help="keep the filled catalogs here, for another run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    report = Report()
    with contextlib.ExitStack() as stack:
        folder = asked.at or Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for name in asked.databases.split(","):
            with place(name, asked.artifacts, folder) as url:
                filled = open_filled(url, asked.artifacts, folder / f"{name}-many")
                analyze(filled.registry.catalog)
                measure(filled, report, name)
                filled.registry.close()
    if asked.json:
        asked.json.write_text(json.dumps(report.figures, indent=1) + "\n")
    for broken in report.broken:
        print(f"BROKEN: {broken}", file=sys.stderr)
    return int(bool(report.broken))


if __name__ == "__main__":
    sys.exit(main())
