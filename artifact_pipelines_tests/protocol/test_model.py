"""Every state that the pack protocol can reach is safe, and no state is once a guard is gone."""

import pytest

from artifact_pipelines_tests.protocol.model import GUARDS, Scenario, explore

SCENARIOS = {
    "two writers of one chunk": Scenario(("x", "x")),
    "a writer and a compaction": Scenario(("x", None), compactor=True),
    "a reader": Scenario((None, "y"), reader=True),
    "a writer and an archiver": Scenario(("y", None), archivers=1),
    "two archivers": Scenario((None, None), archivers=2),
}
LARGE = {
    "two writers, a compaction and a reader": Scenario(("x", "y"), compactor=True, reader=True),
    "a writer and two archivers": Scenario(("y", None), archivers=2),
    "two writers and two archivers": Scenario(("x", "y"), archivers=2),
    "a writer, a compaction and an archiver": Scenario(("y", None), True, 1, reader=True),
}
# A guard that loses data by itself stands alone. The others back each other up: data is lost
# only when all of a set are gone, and with any one of them put back it is not.
LETHAL = {
    "need": ({"need"}, "two writers of one chunk"),
    "whole": ({"whole"}, "a writer and an archiver"),
    "fence": ({"fence"}, "two writers of one chunk"),
    "last look": ({"last look"}, "a writer and an archiver"),
    "version": ({"version"}, "a writer and a compaction"),
    "base pack": ({"base pack"}, "a writer and an archiver"),
    "reader": ({"reader"}, "a reader"),
    "claim": ({"claim", "last look"}, "two writers of one chunk"),
    "unmap": ({"unmap", "last look"}, "two writers of one chunk"),
    "row lock": ({"row lock", "last look"}, "two writers of one chunk"),
    "recheck": ({"recheck", "revive"}, "two writers of one chunk"),
    "revive": ({"recheck", "revive"}, "two writers of one chunk"),
    "absent": ({"absent", "unmap"}, "two writers of one chunk"),
    "unclaimed": ({"unclaimed", "last look"}, "a writer and a compaction"),
    "self-contained": ({"self-contained", "no dependents", "version"}, "two archivers"),
    "no dependents": ({"self-contained", "no dependents", "version"}, "two archivers"),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_reachable_state_loses_data(name: str) -> None:
    states, trace = explore(SCENARIOS[name])

    assert trace is None
    assert states > 50


@pytest.mark.deep
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", LARGE)
def test_no_state_of_a_large_world_loses_data(name: str) -> None:
    states, trace = explore(LARGE[name])

    assert trace is None
    assert states > 10_000


@pytest.mark.parametrize("guard", GUARDS)
def test_data_is_lost_once_a_guard_and_those_that_back_it_up_are_gone(guard: str) -> None:
    without, scenario = LETHAL[guard]
    _, trace = explore(SCENARIOS[scenario], frozenset(without))

    assert trace is not None
    assert trace[-1].endswith(("cannot be read", "found A gone"))


@pytest.mark.parametrize(
    "guard", sorted(guard for guard, found in LETHAL.items() if len(found[0]) > 1)
)
def test_a_guard_that_is_put_back_saves_what_the_others_lose(guard: str) -> None:
    without, scenario = LETHAL[guard]
    _, mended = explore(SCENARIOS[scenario], frozenset(without - {guard}))

    alone = next(iter(without - {guard})) if len(without) == 2 else None
    assert mended is None or LETHAL[alone or guard][0] == {alone}
