"""A sweep is every combination of the values that were typed."""

import pytest

from artifact_pipelines.cli.sweeping import combinations
from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.cli.conftest import Command


def test_every_combination_is_planned_and_listed(command: Command, registry: Registry) -> None:
    building.dataset(registry)
    said = command(
        *("run", "start", "digits", "--name", "wide"),
        *("--set", "lr=0.1,1e-2", "--set", "seed=1..3", "--json"),
    )
    listed = command("run", "list", "digits", "--json").json()["planned"]
    shown = command("run", "list", "digits")

    assert said.code == 0
    assert [run["name"] for run in said.json()["runs"]] == [f"wide-{n}" for n in range(1, 7)]
    assert [run["params"] for run in listed] == [
        {"lr": lr, "seed": seed} for lr in (0.1, 0.01) for seed in (1, 2, 3)
    ]
    assert "digits/wide-6" in shown.out


def test_a_sweep_is_listed_in_eighty_columns(command: Command, registry: Registry) -> None:
    building.run(registry, "sweep-20261128T153246Z-12")
    shown = command("run", "list", "digits").out.splitlines()

    assert len(shown) == 3
    assert max(map(len, shown)) <= 80


def test_one_run_has_the_plain_name(command: Command, registry: Registry) -> None:
    building.dataset(registry)
    said = command("run", "start", "digits", "--name", "once", "--json").json()
    back = command("run", "withdraw", "digits/once")
    again = command("run", "withdraw", "digits/once")

    assert [(run["name"], run["params"]) for run in said["runs"]] == [("once", {})]
    assert back.out == "digits/once is not planned any more.\n"
    assert again.code == 2


@pytest.mark.parametrize(
    "text,expected",
    [
        ("a=1,2.5,1e-3,-2", [1, 2.5, 0.001, -2]),
        ("a=relu,true", ["relu", True]),
        ("a=-1..1", [-1, 0, 1]),
        ("a=[[1, 2], [3]]", [[1, 2], [3]]),
        ("a=x=y", ["x=y"]),
        ("a=2026-11-24", ["2026-11-24"]),
    ],
)
def test_values_are_read_as_they_are_meant(text: str, expected: list[object]) -> None:
    assert [found["a"] for found in combinations([text])] == expected


@pytest.mark.parametrize(
    "texts,said",
    [
        (["lr"], "--set 'lr' is not written as name=value"),
        (["lr="], "not written as name=value"),
        (["lr=1", "lr=2"], "--set lr is given twice"),
        (["lr=3..1"], r"the range 3\.\.1 is empty"),
        (["lr=[1"], "no list of values"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        combinations(texts)
