"""Writers, collectors and readers on one home at once, the writers killed now and then.

    python -m artifact_pipelines_tests.soaking --seconds 300

Nothing that was published and not forgotten may ever be unreadable.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
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


def soak(home: Path, seconds: float, writers: int, collectors: int, readers: int) -> dict[str, Any]:
    """Return what was counted, the last look at every live artifact included."""
    with open_registry(home, actor="tester") as registry:
        retention = {"keep": {"last": 2, "best": 0}, "forget_after": "0s", "max_share": 1.0}
        document = {**building.POLICY.document(), "retention": retention}
        registry.set_policy(PROJECT, Policy.of(document))
        registry.prune()
    names = ("published", "read", "unreadable", "forgotten", "collected", "deleted", "failed")
    counts: Counts = {name: multiprocessing.Value("q", 0) for name in names}
    kinds = [(write, writers), (collect, collectors), (read, readers)]
    until = time.monotonic() + seconds
    chance = random.Random(1)
    processes = [
        (kind, _begin(home, kind, counts, until, number))
        for kind, many in kinds
        for number in range(many)
    ]
    killed = 0
    while time.monotonic() < until:
        time.sleep(0.5)
        place = chance.randrange(writers)
        os.kill(processes[place][1], signal.SIGKILL)
        os.waitpid(processes[place][1], 0)
        killed += 1
        processes[place] = (write, _begin(home, write, counts, until, killed + 1_000))
        with open_registry(home, actor="tester") as registry:
            crashing.expire(registry)
    for _, process in processes:
        os.waitpid(process, 0)
    found: Counter[str] = Counter({name: value.value for name, value in counts.items()})
    with open_registry(home, actor="tester") as registry:
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


def _begin(home: Path, work: Work, counts: Counts, until: float, seed: int) -> int:
    """Start a process that does one kind of work until the end, and return its number."""
    child = os.fork()
    if child:
        return child
    try:
        with open_registry(home, actor="tester") as registry:
            if work is write:
                registry.start_run(PROJECT, f"run-{os.getpid()}")
            chance = random.Random(seed)
            while time.monotonic() < until:
                try:
                    work(registry, chance, counts)
                except ArtifactError as error:
                    _add(counts, "failed")
                    sys.stderr.write(f"{work.__name__}: {error}\n")
    finally:
        os._exit(0)


def _add(counts: Counts, name: str, many: int = 1) -> None:
    with counts[name].get_lock():
        counts[name].value += many


def main() -> None:
    """Soak a new home and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--collectors", type=int, default=4)
    parser.add_argument("--readers", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(
            Path(folder) / "home", given.seconds, given.writers, given.collectors, given.readers
        )
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(bool(found["unreadable"] or found["lost"] or found["disagreements"]))


if __name__ == "__main__":
    main()
