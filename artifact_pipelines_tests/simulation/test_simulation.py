"""A machine that dies at any step, and loses what was not durable, loses nothing acknowledged."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.errors import ArtifactError
from artifact_pipelines_tests.simulation.histories import simulate


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a file system in memory where there is one."""
    shared = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def test_short_histories_lose_nothing(memory: Path) -> None:
    lived = [simulate(memory, seed) for seed in range(8)]

    assert sum(machine.crashes for machine in lived) > len(lived)
    assert sum(machine.disk.lost for machine in lived) > 0
    assert sum(len(machine.acknowledged) for machine in lived) > 3 * len(lived)


def test_a_disk_that_lies_about_what_is_durable_is_found_out(memory: Path) -> None:
    with pytest.raises((AssertionError, ArtifactError)) as found:
        simulate(memory, seed=3, lies=True)

    assert found.value.__notes__ == ["in the history of the seed 3"]


@pytest.mark.deep
@pytest.mark.timeout(7_200)
def test_five_thousand_histories_lose_nothing(memory: Path) -> None:
    for seed in range(1_000, 6_000):
        simulate(memory, seed)
