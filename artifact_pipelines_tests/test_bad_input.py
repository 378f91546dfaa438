"""What trainers do to a registry: it is registered as it was, or refused in one sentence."""

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from artifact_pipelines import start_run
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import (
    ArtifactError,
    ConfigurationError,
    InvalidFormatError,
    TrainerError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import Registry, open_registry

WEIGHTS = {"w": np.ones(2)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with open_registry(home) as opened:
        yield opened


def test_ten_thousand_metrics_a_step_are_all_there_and_found(registry: Registry) -> None:
    with start_run("p", "r") as run:
        run.checkpoint(WEIGHTS, step=1, metrics={f"layer.{n}/norm": n for n in range(10_000)})
    found = registry.search('metrics."layer.9999/norm" > 9998')

    assert [item.reference for item in found] == ["p/r@1"]
    assert len(registry.find("p/r@1").metrics) == 10_000


def test_numbers_that_are_none_are_recorded_as_such_and_never_best(registry: Registry) -> None:
    with start_run("p", "r") as run:
        for step, loss in enumerate((math.nan, math.inf, -math.inf, 0.5)):
            run.checkpoint(WEIGHTS | {"s": np.full(1, step)}, step=step, metrics={"loss": loss})

    assert math.isnan(registry.find("p/r@0").metrics["loss"])
    assert registry.find("p/r@2").metrics["loss"] == -math.inf
    found = registry.search("metrics.loss < 1 order by metrics.loss")
    assert [item.reference for item in found] == ["p/r@3"]


def test_names_in_any_script_come_back_as_they_were(registry: Registry) -> None:
    params = {"größe": 1, "学習率": 0.1, "мера": "ж", "🙂": True, "a.b": {"c d": 2}}
    tensors = {"重み": np.ones(1), "weights.Ω": np.zeros(1)}
    with start_run("p", "r", params=params) as run:
        run.checkpoint(tensors, step=1, metrics={"точность": 0.5})

    assert run.params == params
    assert registry.find("p/r@1").metrics == {"точность": 0.5}
    assert [item.reference for item in registry.search("metrics.точность = 0.5")] == ["p/r@1"]
    with start_run("p", "next", resume_from="p/r@1") as run:
        assert run.resume is not None
        assert set(run.resume.tensors) == set(tensors)
        run.checkpoint(tensors, step=2)


@pytest.mark.parametrize("name", ["../x", "a b", "v3", "latest", "прогон", "a" * 200, "con"])
def test_a_run_that_cannot_be_named_so_is_refused_in_a_sentence(home: Path, name: str) -> None:
    with (
        pytest.raises(ArtifactError, match=r"run name .*(must|reads|device|may not)"),
        start_run("p", name, home=home),
    ):
        pytest.fail("it should have been refused")


def test_a_clock_that_runs_backwards_moves_no_leaf_back(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr("time.time", lambda: float(next(times)))
    with start_run("p", "r") as run:
        for step in range(3):
            run.checkpoint({"w": np.full(1, step)}, step=step)
    leaves = [event.time for event in registry.events(limit=100)]

    assert leaves == sorted(leaves)
    assert registry.run("p", "r").state == "finished"


def test_a_parent_that_is_not_in_the_repository_is_named(registry: Registry) -> None:
    with (
        pytest.raises(UnknownArtifactError, match="there is no artifact 'p/gone@7'"),
        start_run("p", "r", resume_from="p/gone@7"),
    ):
        pytest.fail("it should have been refused")
    started = registry.start_run("p", "r")
    with pytest.raises(UnknownArtifactError, match=r"the input 'parent' \(0{16}\) of p/r"):
        registry.publish_checkpoint(
            started, {"w": b"1"}, step=1, inputs=[Input("parent", "0" * 64)]
        )

    assert registry.checkpoints("p") == []


def test_two_runs_of_a_name_at_once_are_one_run(home: Path, registry: Registry) -> None:
    both = threading.Barrier(2)
    ids: list[str] = []

    def train(step: int) -> None:
        with open_registry(home) as mine:
            both.wait(20)
            run = mine.start_run("p", "r", params={"lr": 1})
            ids.append(run.id)
            mine.publish_checkpoint(run, {"w": b"%d" % step}, step=step)

    threads = [threading.Thread(target=train, args=(step,)) for step in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(ids)) == 1
    assert [item.step for item in registry.checkpoints("p", "r")] == [1, 2]
    assert len(registry.runs("p")) == 1


def test_what_of_a_training_cannot_be_recorded_is_named(home: Path) -> None:
    with (
        pytest.raises(TrainerError, match="the parameter 'where' cannot be recorded: a value of"),
        start_run("p", "r", home=home, params={"lr": 1, "where": Path("x")}),
    ):
        pytest.fail("it should have been refused")
    with (
        pytest.raises(TrainerError, match="p/r@1: the metric 1 must be named by a text"),
        start_run("p", "r", home=home) as run,
    ):
        run.checkpoint(WEIGHTS, step=1, metrics={1: 2})  # type: ignore[dict-item]


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_character_that_no_database_keeps_is_refused_on_each(
    home: Path,
    database: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if database == "postgres":
        url = request.getfixturevalue("postgres").catalog()
        monkeypatch.setenv("ARTIFACT_PIPELINES_CATALOG_URL", url)
    for params in ({"a\0": 1}, {"a": "b\\\0"}):
        with (
            pytest.raises(InvalidFormatError, match="p/r holds a text with the character NUL"),
            start_run("p", "r", params=params),
        ):
            pytest.fail("it should have been refused")
    with start_run("p", "r", params={"a": "\\u0000"}) as run:
        with pytest.raises(InvalidFormatError, match="holds a text with the character NUL"):
            run.checkpoint(WEIGHTS, step=1, metrics={"a\0b": 1}).wait()
        run.checkpoint(WEIGHTS, step=1)

    with open_registry(home, catalog_url=os.environ.get("ARTIFACT_PIPELINES_CATALOG_URL")) as found:
        assert found.find("p/r").record.params == {"a": "\\u0000"}
        with pytest.raises(ConfigurationError, match="cannot hold the character NUL"):
            found.annotate("p/r", "a\0")
