"""A writer that is paused past its lease wakes up fenced, wherever it was paused."""

import os
import random
import signal
from pathlib import Path

import pytest

from artifact_pipelines.errors import SessionLostError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests import building, crashing
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Databases

FENCED, PUBLISHED, OTHERWISE = 0, 1, 2


def publish(registry: Registry) -> None:
    run = registry.run(PROJECT, "run-1").artifact
    files: dict[str, Path | bytes] = {
        "model.safetensors": building.tensors(77),
        "optimizer.safetensors": building.tensors(500),  # as that of step 0
    }
    registry.publish_checkpoint(run, files, step=9)


def populate(home: Path) -> None:
    with open_registry(home, actor="tester") as registry:
        building.run(registry, "run-1")
        registry.prune()


def between(labels: list[str]) -> list[int]:
    """Return the points at which a session is open and nothing is published yet."""
    first = next(n for n, label in enumerate(labels) if label.endswith("after begin"))
    last = next(n for n, label in enumerate(labels) if label.endswith("before commit"))
    return list(range(first, last + 1))


def paused_at(home: Path, point: int) -> int:
    """Stop a writer at a point, let its lease end and prune, wake it, and say how it ended."""
    child = os.fork()
    if child == 0:
        said = OTHERWISE
        try:
            reached = -1

            def hook(_label: str) -> None:
                nonlocal reached
                reached += 1
                if reached == point:
                    os.kill(os.getpid(), signal.SIGSTOP)

            publish(crashing.watch(open_registry(home, actor="tester"), hook))
            said = PUBLISHED
        except SessionLostError:
            said = FENCED
        finally:
            os._exit(said)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    with open_registry(home, actor="tester") as registry:
        crashing.expire(registry)
        assert registry.prune(grace=0).disagreements == ()
        registry.prune(grace=0)
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status)


def sweep(databases: Databases, home: Path, times: int) -> None:
    populate(home)
    points = between(crashing.points(home, publish, databases))
    chosen = random.Random(5).choices(points, k=times - len(points[:times]))
    for point in (*points[:times], *chosen):
        with crashing.copied(home, databases) as copy:
            assert paused_at(copy, point) == FENCED, point
            with open_registry(copy, actor="tester") as registry:
                assert [one.step for one in registry.checkpoints(PROJECT)] == [0, 1, 2]
                assert all(registry.verify(one.id).ok for one in registry.checkpoints(PROJECT))
                registry.prune(grace=0)
                registry.prune(grace=0)
                assert registry.strays().strays == ()
                publish(registry)
                assert registry.verify("digits/run-1@9").ok


def test_a_writer_paused_past_its_lease_is_fenced(databases: Databases, tmp_path: Path) -> None:
    with crashing.warm_engines():
        sweep(databases, tmp_path / "home", 10)


@pytest.mark.deep
@pytest.mark.timeout(1_800)
def test_two_hundred_paused_writers_are_fenced(databases: Databases, tmp_path: Path) -> None:
    with crashing.warm_engines():
        sweep(databases, tmp_path / "home", 200)
