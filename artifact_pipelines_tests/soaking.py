"""Writers, collectors and readers on one home at once, the writers killed now and then.

    python -m artifact_pipelines_tests.soaking --seconds 300 [--servers]

Nothing that was published and not forgotten may ever be unreadable.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import (
    ArtifactError,
    GoneError,
    PlanRefusedError,
    SessionLostError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests import building, crashing
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Postgres
from artifact_pipelines_tests.servers import environment, serving

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

POOL = 60
"""How many contents the writers share, so that most of what they write is there already."""

Counts = dict[str, "Synchronized[int]"]
Work = Callable[[Registry, random.Random, Counts], None]


def write(registry: Registry, chance: random.Random, counts: Counts) -> None:
    """Publish a checkpoint made of a content that others publish too, and one of its own."""
    run = registry.run(PROJECT, f"run-{os.getpid()}").artifact
    step = chance.randrange(1 << 40)
    files: dict[str, Path | bytes] = {
        "model.bin": bytes([chance.randrange(POOL)]) * 4_000,
        "own.bin": chance.randbytes(2_000),
    }
    with contextlib.suppress(SessionLostError):
        registry.publish_checkpoint(run, files, step=step)
        _add(counts, "published")


def read(registry: Registry, chance: random.Random, counts: Counts) -> None:
    """Verify a checkpoint; it may have been forgotten, and may not be damaged."""
    there = registry.ledger(action="publish", limit=40)
    if not there:
        return
    artifact = chance.choice(there).subject
    try:
        damaged = registry.verify(artifact).damaged
    except (GoneError, UnknownArtifactError):
        return
    _add(counts, "read")
    if damaged:
        sys.stderr.write(f"{damaged}\n")
        _add(counts, "unreadable")


def collect(registry: Registry, chance: random.Random, counts: Counts) -> None:
    """Forget what the policy lets go, and delete at once what nothing needs."""
    if chance.random() < 0.3:
        with contextlib.suppress(PlanRefusedError):
            plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
            _add(counts, "forgotten", len(registry.apply_plan(plan.id).forgotten))
    pruned = registry.prune(grace=0)
    _add(counts, "collected")
    _add(counts, "deleted", pruned.deleted)


@dataclass(frozen=True)
class Place:
    """Where the registry is that everybody works on; in the home, where nothing else is said."""

    home: Path
    store_url: str | None = None
    catalog_url: str | None = None

    def open(self) -> Registry:
        """Open it, as each process does for itself."""
        return open_registry(
            self.home, store_url=self.store_url, catalog_url=self.catalog_url, actor="tester"
        )


def soak(
    place: Place, seconds: float, writers: int, collectors: int, readers: int
) -> dict[str, Any]:
    """Return what was counted, the last look at every live artifact included."""
    with place.open() as registry:
        retention = {"keep": {"last": 2, "best": 0}, "forget_after": "0s", "max_share": 1.0}
        document = {**building.POLICY.document(), "retention": retention}
        registry.set_policy(PROJECT, Policy.of(document))
        registry.prune()
    names = ("published", "read", "unreadable", "forgotten", "collected", "deleted", "failed")
    # The client of a bucket does not follow a process into a fork.
    method = "spawn" if place.store_url else "fork"
    context: Any = multiprocessing.get_context(method)
    counts: Counts = {name: context.Value("q", 0) for name in names}
    until = time.time() + seconds

    def begin(work: Work, seed: int) -> BaseProcess:
        process: BaseProcess = context.Process(
            target=_go_on, args=(place, work, counts, until, seed)
        )
        process.start()
        return process

    chance = random.Random(1)
    busy = [begin(write, number) for number in range(writers)]
    others = [begin(collect, number) for number in range(collectors)]
    others += [begin(read, number) for number in range(readers)]
    killed = 0
    while time.time() < until:
        time.sleep(0.5 if method == "fork" else 5.0)
        victim = chance.randrange(writers)
        busy[victim].kill()
        busy[victim].join()
        killed += 1
        busy[victim] = begin(write, killed + 1_000)
        with place.open() as registry:
            crashing.expire(registry)
    for process in (*busy, *others):
        process.join()
        assert process.exitcode == 0, "a process ended before its time"
    found: Counter[str] = Counter({name: value.value for name, value in counts.items()})
    with place.open() as registry:
        crashing.expire(registry)
        disagreements = registry.prune(grace=0).disagreements
        live = [one for one in registry.checkpoints(PROJECT) if one.state == "live"]
        lost = [said for one in live for said in registry.verify(one.id).damaged]
        problems = registry.verify_ledger().problems
    return {
        **found,
        "killed": killed,
        "live": len(live),
        "lost": lost,
        "disagreements": list(disagreements),
        "problems": list(problems),
    }


def _go_on(place: Place, work: Work, counts: Counts, until: float, seed: int) -> None:
    """Do one kind of work until the end."""
    with place.open() as registry:
        if work is write:
            registry.start_run(PROJECT, f"run-{os.getpid()}")
        chance = random.Random(seed)
        while time.time() < until:
            try:
                work(registry, chance, counts)
            except ArtifactError as error:
                _add(counts, "failed")
                sys.stderr.write(f"{work.__name__}: {error}\n")


def _add(counts: Counts, name: str, many: int = 1) -> None:
    with counts[name].get_lock():
        counts[name].value += many


@contextlib.contextmanager
def on_servers(home: Path) -> Iterator[Place]:
    """Yield a place on a Postgres and an S3 server of its own."""
    with serving(home.parent / "seaweedfs") as store, environment(store.environ):
        store.make_bucket("store")
        server = Postgres()
        try:
            yield Place(home, "s3://store/soak", server.catalog())
        finally:
            server.stop()


def main() -> None:
    """Soak a new home and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--collectors", type=int, default=4)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--servers", action="store_true", help="on Postgres and S3")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "home"
        place = stack.enter_context(on_servers(home)) if given.servers else Place(home)
        found = soak(place, given.seconds, given.writers, given.collectors, given.readers)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(bool(found["unreadable"] or found["lost"] or found["disagreements"]))


if __name__ == "__main__":
    main()
