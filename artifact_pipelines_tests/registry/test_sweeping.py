"""Planned runs are planned all or none, begin once, and are trained by one process at a time."""

import multiprocessing
import os
import signal
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from artifact_pipelines.catalog.exclusive import exclusively
from artifact_pipelines.errors import (
    ConfigurationError,
    ConflictError,
    InvalidNameError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import Registry, open_registry, opened
from artifact_pipelines.registry.sweeping import Outline
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT

OUTLINE = Outline(
    params={"hidden": 32, "lr": 0.1}, datasets=("images", "held"), trained_on=("images",)
)


def names(registry: Registry) -> list[str]:
    return [run.name for run in registry.planned([PROJECT])]


def test_a_plan_says_what_each_run_is_to_be(registry: Registry) -> None:
    images = building.dataset(registry)
    (found,) = registry.plan_runs(
        PROJECT, "wide", {"wide": {"hidden": 64}}, inputs={"images": "digits/images@latest"}
    )

    assert found.params == {"hidden": 64}
    assert found.inputs == {"images": images.id}
    assert found.resume_from == ""
    assert registry.planned(["other"]) == []


def test_a_run_that_begins_is_no_longer_planned(registry: Registry) -> None:
    building.dataset(registry)
    registry.plan_runs(PROJECT, "sweep", {"a": {}, "b": {}})
    building.run(registry, "a")

    assert names(registry) == ["b"]


def test_a_planned_run_can_be_taken_back_and_planned_again(registry: Registry) -> None:
    building.dataset(registry)
    registry.plan_runs(PROJECT, "sweep", {"a": {}})
    registry.withdraw_run(PROJECT, "a", "too wide")
    with pytest.raises(UnknownArtifactError, match="no run digits/a is planned"):
        registry.withdraw_run(PROJECT, "a", "too wide")
    registry.plan_runs(PROJECT, "again", {"a": {}})

    assert names(registry) == ["a"]


@pytest.mark.parametrize("taken", ["run", "planned", "images"])
def test_a_name_that_is_taken_plans_none(registry: Registry, taken: str) -> None:
    building.run(registry, "run")
    registry.plan_runs(PROJECT, "planned", {"planned": {}})
    with pytest.raises(ConflictError, match=f"the name digits/{taken} is taken"):
        registry.plan_runs(PROJECT, "more", {"free": {}, taken: {}})

    assert names(registry) == ["planned"]


def test_what_cannot_be_planned_is_refused(registry: Registry) -> None:
    building.dataset(registry)
    with pytest.raises(UnknownArtifactError, match="no project 'digts'; there is digits"):
        registry.plan_runs("digts", "a", {"a": {}})
    with pytest.raises(InvalidNameError, match="run name 'a/b'"):
        registry.plan_runs(PROJECT, "a", {"a/b": {}})
    with pytest.raises(ConfigurationError, match="1 to 1000 runs, not 1001"):
        registry.plan_runs(PROJECT, "a", {f"a-{number}": {} for number in range(1001)})
    with pytest.raises(UnknownArtifactError):
        registry.plan_runs(PROJECT, "a", {"a": {}}, resume_from="digits/none@3")

    assert names(registry) == []


def test_an_input_is_a_version_of_the_dataset_that_it_is_given_for(registry: Registry) -> None:
    building.dataset(registry)
    registry.publish_dataset(PROJECT, "held", {"rows.csv": b"1"})
    building.run(registry, "a")
    registry.note_outlines({PROJECT: OUTLINE})
    said = "digits/held@1 is no version of the dataset digits/images; .*images=digits/images@latest"
    with pytest.raises(ConfigurationError, match=said):
        registry.plan_runs(PROJECT, "b", {"b": {}}, inputs={"images": "digits/held@1"})
    with pytest.raises(ConfigurationError, match="digits/a is no version of the dataset"):
        registry.plan_runs(PROJECT, "b", {"b": {}}, inputs={"images": "digits/a"})
    said = "models of digits are measured on held, so none is trained on it; a run takes images"
    with pytest.raises(ConfigurationError, match=said):
        registry.plan_runs(PROJECT, "b", {"b": {}}, inputs={"held": "digits/held@1"})

    assert names(registry) == []


def test_a_run_has_one_trainer(registry: Registry) -> None:
    building.run(registry, "a")
    run = registry.run(PROJECT, "a").artifact
    with registry.sole_trainer(run):
        with (
            pytest.raises(ConflictError, match="being trained by another"),
            registry.sole_trainer(run),
        ):
            pass
        busy = registry.in_training(run)

    assert busy
    assert not registry.in_training(run)


def hold(home: str, url: str, said: Connection) -> None:
    with (
        open_registry(Path(home), catalog_url=url) as registry,
        exclusively(registry.catalog, "work") as mine,
    ):
        said.send(mine)
        signal.pause()


def test_a_lock_ends_with_its_process(registry: Registry, tmp_path: Path) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    home = tmp_path / "home"
    process = multiprocessing.get_context("spawn").Process(
        target=hold, args=(str(home), opened.default_catalog_url(home), theirs)
    )
    process.start()
    theirs.close()  # so that a process that dies says so
    try:
        held = ours.recv()
        with (
            exclusively(registry.catalog, "work") as mine,
            exclusively(registry.catalog, "other work") as other,
        ):
            meanwhile = (mine, other)
    finally:
        os.kill(int(process.pid or 0), signal.SIGKILL)
        process.join()
        ours.close()
    with exclusively(registry.catalog, "work") as mine:
        afterwards = mine

    assert held
    assert meanwhile == (False, True)
    assert afterwards


@pytest.mark.parametrize(
    "asked,inputs,said",
    [
        ({"hiden": 9}, None, "digits declares no parameter 'hiden'; it declares hidden, lr"),
        ({"hidden": "wide"}, None, "'hidden' of digits is a number, 32 by default, and 'wide' is"),
        ({"lr": True}, None, "'lr' of digits is a number, 0.1 by default, and True is none"),
        ({}, {"imges": "digits/images@1"}, "digits has no dataset 'imges'; it has images, held"),
    ],
)
def test_a_plan_asks_for_nothing_that_the_project_does_not_declare(
    registry: Registry, asked: dict[str, object], inputs: dict[str, str] | None, said: str
) -> None:
    building.dataset(registry)
    registry.plan_runs(PROJECT, "before", {"before": asked})
    registry.note_outlines({PROJECT: OUTLINE})

    with pytest.raises((ConfigurationError, UnknownArtifactError), match=said):
        registry.plan_runs(PROJECT, "a", {"a": {}, "b": asked}, inputs=inputs)

    assert names(registry) == ["before"]


def test_a_plan_waits_for_no_dataset_that_does_not_exist(registry: Registry) -> None:
    building.dataset(registry)
    registry.note_outlines({PROJECT: replace(OUTLINE, trained_on=("images", "held"))})

    with pytest.raises(UnknownArtifactError, match="digits/held has no version yet; materialize"):
        registry.plan_runs(PROJECT, "a", {"a": {}})
    registry.publish_dataset(PROJECT, "held", {"rows.csv": b"1"})
    registry.plan_runs(PROJECT, "a", {"a": {}}, inputs={"images": "digits/images@1"})

    assert names(registry) == ["a"]


def test_an_outline_is_what_was_said_last(registry: Registry) -> None:
    registry.note_outlines({PROJECT: replace(OUTLINE, params={}), "other": OUTLINE})
    registry.note_outlines({PROJECT: OUTLINE})

    assert registry.outline(PROJECT) == registry.outline("other") == OUTLINE
    assert registry.outline("none") is None
