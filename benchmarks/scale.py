"""Measure what a catalog costs as its history grows, on SQLite and on Postgres.

Each figure is a ratio to something measured in the same run where there is such a thing:
to the bare database driver, or to the same work on a history of a thousand artifacts.
A catalog that was filled before is used again where `--at` names its folder.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from artifact_pipelines.catalog import ledger, lineage, tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction
from artifact_pipelines.defs.events import tick
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.manifest import FileEntry, Manifest
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.record import Input, Kind, Record
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.keys import KeyFolder
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines_tests.databases import Postgres
from artifact_pipelines_tests.histories import COLUMNS, METRICS, History, analyze, fill
from artifact_pipelines_tests.questions import QUESTIONS, Somewhere, full_scans, listening

PROJECT = "project-0000"
SMALL = 1_000
EDGES = 5
PUBLISHES = 100
ASKED = 200
CLOSURES = 20
SEARCH = 20.0  # milliseconds that a search may take
LINEAGE = 50.0  # milliseconds that a lineage of 18,000 nodes may take
TICKS = 5


@dataclass
class Report:
    """Figures against their limits.

    Attributes:
        broken: The limits that were not kept.
        figures: Every figure, by name.
    """

    broken: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def say(
        self, name: str, value: float, unit: str, *, least: float = 0.0, most: float = 0.0
    ) -> None:
        """Print a figure and note whether it keeps its limit."""
        limit, kept = "", True
        if least:
            limit, kept = f"  (at least {least:g})", value >= least
        if most:
            limit, kept = f"  (less than {most:g})", value < most
        self.note(name, value)
        print(f"{name:58} {value:12.3f} {unit}{limit}{'' if kept else '  BROKEN'}", flush=True)
        if not kept:
            self.broken.append(name)

    def note(self, name: str, value: float) -> None:
        """Keep a figure that is not printed."""
        self.figures[name] = value


@dataclass
class Filled:
    """A registry over a long history.

    Attributes:
        registry: The registry; its store is in memory.
        somewhere: What can be asked about.
    """

    registry: Registry
    somewhere: Somewhere


def open_filled(url: str, artifacts: int, folder: Path) -> Filled:
    """Return a registry over a catalog, filled unless it was before."""
    catalog = Catalog(url)
    registry = Registry(catalog, MemoryBackend(), KeyFolder(folder / "keys"), "benchmark")
    artifact = tables.artifact
    models = (
        sa.select(artifact.c.id)
        .where(artifact.c.project == PROJECT, artifact.c.kind == "model")
        .order_by(artifact.c.version.desc())
        .limit(1)
    )
    newest = catalog.read(lambda conn: conn.execute(models).scalar())
    if newest is None:
        began = time.monotonic()
        history = History(artifacts)
        counts = fill(catalog, history)
        said = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
        print(f"filled in {time.monotonic() - began:.0f} s: {said}", flush=True)
        newest = history.newest[PROJECT]
    model = registry.get(newest)
    return Filled(registry, Somewhere(PROJECT, "run-00007", model.id, model.seq))


def seconds(work: Callable[[], object], times: int) -> list[float]:
    """Return how long some work took, each time."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


def both(work: Callable[[], object], times: int) -> tuple[list[float], list[float]]:
    """Return how long some work took each time, and how much of this processor's time."""
    taken, own = [], []
    for _ in range(times):
        began, spent = time.perf_counter(), time.process_time()
        work()
        taken.append(time.perf_counter() - began)
        own.append(time.process_time() - spent)
    return taken, own


def p99(taken: list[float]) -> float:
    """Return the time that one in a hundred exceeds."""
    return sorted(taken)[max(0, round(len(taken) * 0.99) - 1)]


# The publish transaction against the bare driver


def publication(number: int, parents: list[str]) -> Publication:
    """Return a checkpoint of five inputs and ten metrics."""
    entries = [
        FileEntry(name, 1_000, digest.sha256(f"{number}/{name}".encode()))
        for name in ("model.safetensors", "optimizer.safetensors")
    ]
    manifest = Manifest(entries)
    record = Record(
        Kind.CHECKPOINT,
        PROJECT,
        f"bench-{number:09d}",
        content=manifest.digest,
        inputs=tuple(Input(f"dataset:d{at}", parent) for at, parent in enumerate(parents[1:])),
        run=parents[0],
        step=number,
        facts={"metrics": {name: number / (at + 1) for at, name in enumerate(METRICS)}},
    )
    return Publication(record, manifest, {entry.sha256: (("0" * 64, 1_000),) for entry in entries})


def append(tx: Transaction, made: Publication) -> None:
    """Publish as the registry does, once the bytes are in place."""
    record = made.record
    ledger.append(
        tx,
        action="publish",
        subject=record.id,
        body={
            "kind": record.kind,
            "project": record.project,
            "name": record.name,
            "step": record.step,
            "attempt": 1,
            "version": None,
            "content": record.content,
            "object": "0" * 32,
            "object_sha256": "0" * 64,
            "annex": None,
        },
        actor="a" * 32,
        publication=made,
    )


def many(values: Any) -> bool:  # noqa: ANN401  as the driver takes them
    """Return whether values are of several rows."""
    return isinstance(values, list | tuple) and any(isinstance(row, dict | tuple) for row in values)


def statements_of(catalog: Catalog, made: Publication) -> list[tuple[str, Any, bool]]:
    """Return what a publish writes, without writing it."""
    found: list[tuple[str, Any, bool]] = []

    def note(*args: Any) -> None:
        if args[2].lstrip().lower().startswith(("insert", "update")):
            found.append((args[2], args[3], many(args[3])))

    class DryError(Exception):
        pass

    def dry(tx: Transaction) -> None:
        append(tx, made)
        raise DryError

    sa.event.listen(catalog.engine, "before_cursor_execute", note)
    try:
        with contextlib.suppress(DryError):
            catalog.write(dry)
    finally:
        sa.event.remove(catalog.engine, "before_cursor_execute", note)
    return found


def bare(
    raw: Any,  # noqa: ANN401  a connection of either driver
    statements: list[tuple[str, Any, bool]],
    *,
    lite: bool,
) -> None:
    """Run statements with nothing but the database's driver."""
    cursor = raw.cursor()
    if lite:
        cursor.execute("begin immediate")
    for text, values, several in statements:
        (cursor.executemany if several else cursor.execute)(text, values)
    if lite:
        cursor.execute("commit")
    else:
        raw.commit()


def publish_ratio(filled: Filled, report: Report, name: str) -> None:
    """Compare publishing with the same inserts of the bare driver, in turns."""
    catalog = filled.registry.catalog
    lite = catalog.url.get_backend_name() == "sqlite"
    edge = tables.edge
    cited = sa.select(edge.c.parent).distinct().where(edge.c.child == filled.somewhere.model)
    parents = sorted(catalog.read(lambda conn: conn.execute(cited).scalars().all()))
    assert len(parents) == EDGES - 1  # noqa: S101  the evaluation data is one of the inputs
    parents.append(filled.somewhere.model)
    start = time.time_ns() // 1_000_000 % 100_000_000  # a name that no earlier run took
    ours, theirs = [], []
    with catalog.engine.connect() as conn:
        raw: Any = conn.connection.dbapi_connection
        for number in range(start, start + 2 * PUBLISHES, 2):
            statements = statements_of(catalog, publication(number, parents))
            theirs += seconds(lambda found=statements: bare(raw, found, lite=lite), 1)  # type: ignore[misc]
            made = publication(number + 1, parents)
            ours += seconds(lambda made=made: catalog.write(append, made), 1)  # type: ignore[misc]
    mine, driver = statistics.median(ours), statistics.median(theirs)
    report.say(f"{name}: publish transaction", 1e3 * mine, "ms")
    report.note(f"{name}: publish transaction, fastest", 1e3 * min(ours))
    report.say(f"{name}: bare driver", 1e3 * driver, "ms")
    report.say(f"{name}: publish, of the bare driver's rate", driver / mine, "x", least=0.5)


# Questions


def ask(filled: Filled, report: Report, name: str) -> None:
    """Time each question, and look at how it is answered."""
    registry, somewhere = filled.registry, filled.somewhere
    lite = registry.catalog.url.get_backend_name() == "sqlite"
    for question, asking in QUESTIONS.items():
        asking(registry, somewhere)
        times = CLOSURES if "made from" in question else ASKED
        taken, own = both(lambda asking=asking: asking(registry, somewhere), times)  # type: ignore[misc]
        most = SEARCH if "search" in question else 0.0
        # What SQLite computes, this process computes; of a server only the clock tells.
        clock, spent = (0.0, most) if lite else (most, 0.0)
        report.say(f"{name}: {question}, p99", 1e3 * p99(taken), "ms", most=clock)
        report.note(f"{name}: {question}, fastest", 1e3 * min(taken))
        if most:
            said = f"{name}: {question}, own processor time, p99"
            report.say(said, 1e3 * p99(own), "ms", most=spent)
        with listening(registry) as heard:
            asking(registry, somewhere)
        for asked in heard.asked:
            for scan in full_scans(registry, asked):
                if not any(f" {table}" in scan for table in COLUMNS):
                    continue  # a table that this history leaves empty is best read whole
                print(f"  FULL SCAN: {scan}: {asked.text}")
                report.broken.append(f"{name}: {question}")


def closure(filled: Filled, report: Report, name: str) -> None:
    """Time the whole lineage of a model at the end of a long chain of runs."""
    catalog, model = filled.registry.catalog, filled.somewhere.leaf
    nodes = len(catalog.read(lineage.reach, model))
    began = time.process_time()
    taken = seconds(lambda: catalog.read(lineage.reach, model), CLOSURES)
    spent = (time.process_time() - began) / CLOSURES
    scale = 1e3 * 18_000 / nodes
    lite = catalog.url.get_backend_name() == "sqlite"
    report.say(f"{name}: nodes of a lineage", nodes, "")
    clock, own = (0, LINEAGE) if lite else (LINEAGE, 0)
    median = scale * statistics.median(taken)
    report.say(f"{name}: lineage, per 18,000 nodes", median, "ms", most=clock)
    report.say(f"{name}: lineage, own processor time", scale * spent, "ms", most=own)


# The sensor


def ticks(many: Filled, few: Filled, report: Report, name: str) -> None:
    """Compare the tick that sees a run of ten new checkpoints, among many and among few."""
    policy = Policy.of({"select": {"metric": "accuracy", "mode": "max"}})
    taken: dict[str, list[float]] = {"many": [], "few": []}
    with contextlib.ExitStack() as stack:
        instances = {
            size: stack.enter_context(dg.DagsterInstance.ephemeral()) for size in ("many", "few")
        }
        for number in range(TICKS):
            for size, filled in (("many", many), ("few", few)):
                registry = filled.registry
                registry.set_policy(PROJECT, policy)
                before = registry.catalog.read(ledger.head).size - 1
                train(registry, f"bench-{time.time_ns()}-{number}")
                cursor = json.dumps({"seq": before, "open": []})
                began = time.perf_counter()
                result = tick(registry, instances[size], "bench", {PROJECT: policy}, cursor)
                taken[size].append(time.perf_counter() - began)
                if not isinstance(result, dg.SensorResult) or not result.run_requests:
                    raise SystemExit(f"the tick asked for nothing: {result}")
    slow, fast = (statistics.median(taken[size]) for size in ("many", "few"))
    report.say(f"{name}: sensor tick, ten new among many", 1e3 * slow, "ms")
    report.note(f"{name}: sensor tick, ten new among many, fastest", 1e3 * min(taken["many"]))
    report.say(f"{name}: sensor tick, ten new among {SMALL:,}", 1e3 * fast, "ms")
    report.say(f"{name}: sensor tick, of the short history's", slow / fast, "x", most=2)


def train(registry: Registry, name: str) -> None:
    """Add a finished run of ten checkpoints."""
    run = registry.start_run(PROJECT, name, params={"lr": 0.1})
    for step in range(10):
        registry.publish_checkpoint(
            run,
            {"model.safetensors": f"{name}/{step}".encode()},
            step=step,
            facts={"metrics": {"accuracy": step / 10}},
        )
    registry.finish_run(run, "finished")


# The command line


def start_up(report: Report) -> None:
    """Time commands on a home where nothing is yet."""
    command = Path(sys.executable).with_name("artifact-pipelines")
    with tempfile.TemporaryDirectory() as home:
        for arguments in (["--help"], ["checkpoint", "list"]):
            run = lambda arguments=arguments, home=home: subprocess.run(  # noqa: E731
                [str(command), *arguments],
                env={"ARTIFACT_PIPELINES_HOME": f"{home}/home", "PATH": "/usr/bin:/bin"},
                check=True,
                capture_output=True,
            )
            taken, spent = [], []
            for _ in range(5):
                before = os.times()
                taken += seconds(run, 1)
                after = os.times()
                spent.append(
                    after.children_user
                    + after.children_system
                    - before.children_user
                    - before.children_system
                )
            what = f"command line: {' '.join(arguments)}"
            report.say(what, statistics.median(taken), "s")
            report.say(f"{what}, processor time", statistics.median(spent), "s", most=0.5)


@contextlib.contextmanager
def places(name: str, artifacts: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the addresses of a long history's catalog and of a short one's."""
    if name == "sqlite":
        yield (f"sqlite:///{folder}/{artifacts}.db", f"sqlite:///{folder}/{SMALL}.db")
        return
    server = Postgres(folder / "postgres")
    try:
        yield server.named(f"history_{artifacts}"), server.named(f"history_{SMALL}")
    finally:
        server.stop(keep=True)


def main() -> int:
    """Print every figure and return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=int, default=100_000)
    parser.add_argument("--databases", default="sqlite,postgres")
    parser.add_argument("--at", type=Path, help="keep the filled catalogs here, for another run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    report = Report()
    before = os.getloadavg()
    start_up(report)
    with contextlib.ExitStack() as stack:
        folder = asked.at or Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for name in asked.databases.split(","):
            with places(name, asked.artifacts, folder) as (url, short):
                many = open_filled(url, asked.artifacts, folder / f"{name}-many")
                few = open_filled(short, SMALL, folder / f"{name}-few")
                analyze(many.registry.catalog)
                publish_ratio(many, report, name)
                ask(many, report, name)
                closure(many, report, name)
                ticks(many, few, report, name)
                many.registry.close()
                few.registry.close()
    if asked.json:
        told = {
            "artifacts": asked.artifacts,
            "at": datetime.now(UTC).isoformat(timespec="minutes"),
            "load": [round(max(pair), 1) for pair in zip(before, os.getloadavg(), strict=True)],
            "figures": report.figures,
        }
        asked.json.write_text(json.dumps(told, indent=1) + "\n")
    print(f"load average {before[0]:.1f} before, {os.getloadavg()[0]:.1f} after")
    for broken in report.broken:
        print(f"BROKEN: {broken}", file=sys.stderr)
    return int(bool(report.broken))


if __name__ == "__main__":
    sys.exit(main())
