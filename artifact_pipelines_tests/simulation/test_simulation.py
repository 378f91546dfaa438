"""A machine that dies at any step, and loses what was not durable, loses nothing acknowledged."""

import pytest

from artifact_pipelines.errors import ArtifactError
from artifact_pipelines_tests.simulation.histories import simulate


def test_short_histories_lose_nothing() -> None:
    lived = [simulate(seed) for seed in range(8)]

    assert sum(machine.crashes for machine in lived) > len(lived)
    assert sum(machine.inside for machine in lived) > 0
    assert sum(machine.disk.lost for machine in lived) > 0
    assert sum(len(machine.acknowledged) for machine in lived) > 3 * len(lived)


def test_a_seed_gives_the_same_history() -> None:
    first, second = (simulate(17) for _ in range(2))

    assert first.disk.objects == second.disk.objects
    assert first.acknowledged == second.acknowledged


def test_a_disk_that_lies_about_what_is_durable_is_found_out() -> None:
    with pytest.raises((AssertionError, ArtifactError)) as found:
        simulate(seed=3, lies=True)

    assert found.value.__notes__ == ["in the history of the seed 3"]


@pytest.mark.deep
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("first", range(1_000, 6_000, 500))
def test_five_thousand_histories_lose_nothing(first: int) -> None:
    for seed in range(first, first + 500):
        simulate(seed)
