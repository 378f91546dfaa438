"""Runs, checkpoints, datasets and lineage on the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import PROJECT, dataset, promoted, run, tensors
from artifact_pipelines_tests.cli.conftest import Command, damage


def write(folder: Path, seed: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(tensors(seed))
    return folder


@pytest.mark.parametrize("noun", ["run", "checkpoint", "model", "dataset"])
def test_lists_of_an_empty_home_are_empty_and_make_nothing(
    command: Command, home: Path, noun: str
) -> None:
    said = command(noun, "list", "--json")

    planned: dict[str, list[object]] = {"planned": []} if noun == "run" else {}
    assert (said.code, said.json()) == (0, {f"{noun}s": [], **planned})
    assert not home.exists()


@pytest.mark.parametrize("words", [["run", "show", "digits/a"], ["audit", "verify"]])
def test_what_needs_something_says_that_the_home_is_empty(
    command: Command, words: list[str]
) -> None:
    said = command(*words)

    assert (said.code, said.out) == (2, "")
    assert "is empty: materialize a project's datasets in Dagster" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["checkpoint", "list"]])
def test_what_needs_no_registry_imports_none(home: Path, words: list[str]) -> None:
    script = (
        f"import sys; sys.argv = ['apl', *{words!r}]\n"
        "from artifact_pipelines.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "slow = ('sqlalchemy', 'dagster', 'pandas', 'numpy')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ARTIFACT_PIPELINES_HOME": str(home)},
    )

    assert done.stdout.splitlines()[-1] == "[]"


def test_runs_are_listed_with_their_checkpoints(command: Command, registry: Registry) -> None:
    run(registry, "run-0001", steps=3)
    (row,) = command("run", "list", "--json").json()["runs"]
    shown = command("run", "list").out

    assert row["reference"] == "digits/run-0001"
    assert (row["run_state"], row["checkpoints"], row["last_step"]) == ("finished", 3, 2)
    assert "digits/run-0001" in shown


def test_a_run_is_shown_with_what_it_was_made_from(command: Command, registry: Registry) -> None:
    run(registry, "run-0001", seed=4)
    shown = command("run", "show", "digits/run-0001", "--json").json()

    assert shown["params"] == {"seed": 4}
    assert [item["reference"] for item in shown["inputs"]] == ["digits/images@1"]
    assert [item["step"] for item in shown["checkpoints"]] == [0, 1, 2]


def test_checkpoints_of_one_run_can_be_listed(command: Command, registry: Registry) -> None:
    run(registry, "a", seed=1)
    run(registry, "b", seed=2)
    found = command("checkpoint", "list", "digits/b", "--json").json()["checkpoints"]

    assert [item["reference"] for item in found] == [f"digits/b@{step}" for step in range(3)]


def test_steps_order_as_numbers(command: Command, tmp_path: Path) -> None:
    for step in (10, 9, 100):
        source = write(tmp_path / str(step), step)
        command("checkpoint", "import", source, "--project", "p", "--run", "r", "--step", step)
    found = command("checkpoint", "list", "p/r", "--json").json()["checkpoints"]

    assert [item["step"] for item in found] == [9, 10, 100]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "list", "other"],
        ["checkpoint", "list", "digits/none"],
        ["run", "show", "digits/none"],
        ["checkpoint", "show", "digits/run@7"],
        ["checkpoint", "show", "???"],
        ["model", "show", "digits/images@1"],
    ],
)
def test_what_is_not_there_is_one_sentence(
    command: Command, registry: Registry, words: list[str]
) -> None:
    dataset(registry)
    said = command(*words)

    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("Error: ")
    assert "Traceback" not in said.err


def test_an_imported_checkpoint_comes_back_bit_by_bit(command: Command, tmp_path: Path) -> None:
    source = write(tmp_path / "source")
    (source / "deep").mkdir()
    (source / "deep" / "notes.txt").write_text("kept")
    words = ("--project", "p", "--run", "r", "--step", "120", "--metric", "loss=0.25", "--json")
    made = command("checkpoint", "import", source, *words).json()
    target = tmp_path / "target"
    fetched = command("checkpoint", "fetch", "p/r@120", "--to", target)

    assert (made["reference"], made["metrics"]) == ("p/r@120", {"loss": 0.25})
    assert fetched.code == 0
    for path in ("model.safetensors", "deep/notes.txt"):
        assert (target / path).read_bytes() == (source / path).read_bytes()


def test_importing_the_same_again_changes_nothing(command: Command, tmp_path: Path) -> None:
    words = ("--project", "p", "--run", "r", "--step", "1", "--json")
    source = write(tmp_path / "source")
    first = command("checkpoint", "import", source, *words).json()
    leaves = len(command("audit", "log", "--json").json()["leaves"])
    again = command("checkpoint", "import", source, *words).json()

    assert again == first
    assert len(command("audit", "log", "--json").json()["leaves"]) == leaves


def test_a_step_is_not_overwritten_by_an_import(command: Command, tmp_path: Path) -> None:
    words = ("--project", "p", "--run", "r", "--step", "1")
    command("checkpoint", "import", write(tmp_path / "one", 1), *words)
    said = command("checkpoint", "import", write(tmp_path / "two", 2), *words)

    assert said.code == 2
    assert "registered with other content" in said.err


def test_one_file_can_be_imported(command: Command, tmp_path: Path) -> None:
    source = write(tmp_path) / "model.safetensors"
    command("checkpoint", "import", source, "--project", "p", "--run", "r", "--step", "0")
    shown = command("checkpoint", "show", "p/r@0", "--json").json()

    assert [item["path"] for item in shown["files"]] == ["model.safetensors"]


def test_an_import_names_the_data_it_was_trained_on(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    dataset(registry)
    words = ("--project", "p", "--run", "r", "--step", "0", "--dataset", "digits/images@1")
    command("checkpoint", "import", write(tmp_path / "source"), *words)
    edges = command("lineage", "show", "p/r@0", "--json").json()["edges"]

    found = {(edge["parent"], edge["role"], edge["kind"]) for edge in edges}
    assert ("digits/images@1", "dataset:images", "declared") in found


def test_an_import_does_not_add_to_a_run_that_was_trained_here(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    run(registry, "run-0001")
    words = ("--project", PROJECT, "--run", "run-0001", "--step", "9")
    said = command("checkpoint", "import", write(tmp_path / "source"), *words)

    assert said.code == 2
    assert "was trained here" in said.err


@pytest.mark.parametrize("metric", ["loss", "=1", "loss=low", ""])
def test_a_metric_that_is_no_number_is_refused_before_anything_is_made(
    command: Command, home: Path, tmp_path: Path, metric: str
) -> None:
    words = ("--project", "p", "--run", "r", "--step", "0", "--metric", metric)
    said = command("checkpoint", "import", write(tmp_path / "source"), *words)

    assert said.code == 2
    assert not home.exists()


def test_a_metric_that_is_not_finite_stays_valid_json(command: Command, tmp_path: Path) -> None:
    words = ("--project", "p", "--run", "r", "--step", "0", "--metric", "loss=nan", "--json")
    made = command("checkpoint", "import", write(tmp_path / "source"), *words).json()

    assert made["metrics"] == {"loss": "NaN"}


@pytest.mark.parametrize("kind", ["missing", "empty", "link", "linked_folder"])
def test_sources_that_cannot_be_taken_leave_nothing_behind(
    command: Command, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "source"
    if kind != "missing":
        source.mkdir()
    if kind == "link":
        (source / "model.bin").symlink_to(write(tmp_path / "other") / "model.safetensors")
    if kind == "linked_folder":
        (source / "inside").symlink_to(write(tmp_path / "other"))
    said = command("checkpoint", "import", source, "--project", "p", "--run", "r", "--step", "0")

    assert said.code == 2
    assert said.err.startswith("Error: ")
    assert command("checkpoint", "list", "--json").json() == {"checkpoints": []}


def test_a_whole_checkpoint_verifies(command: Command, registry: Registry) -> None:
    run(registry, "a")
    said = command("checkpoint", "verify", "digits/a@0", "digits/a@1", "--json")

    assert said.code == 0
    assert said.json()["ok"] is True
    assert [item["files"] for item in said.json()["artifacts"]] == [2, 2]


def test_a_damaged_checkpoint_fails_and_is_named(
    command: Command, registry: Registry, home: Path
) -> None:
    run(registry, "a")
    damage(registry, home, "digits/a@1")
    verified = command("checkpoint", "verify", "digits/a@0", "digits/a@1", "digits/a@2")
    said = command("checkpoint", "verify", "digits/a@2", "digits/a@1", "digits/a@0", "--json")

    assert (verified.code, said.code) == (1, 1)
    assert verified.out.count("DAMAGED digits/a@1") == 1
    assert [item["ok"] for item in said.json()["artifacts"]] == [True, False, True]


def test_damage_is_never_fetched(command: Command, registry: Registry, home: Path) -> None:
    run(registry, "a", steps=1)
    damage(registry, home, "digits/a@0")
    said = command("checkpoint", "fetch", "digits/a@0", "--to", home.parent / "target")

    assert said.code == 1
    assert not (home.parent / "target").exists()


def test_the_lineage_of_a_model_reaches_its_data(command: Command, registry: Registry) -> None:
    promoted(registry, "run-0001")
    up = command("lineage", "show", "digits@production", "--json").json()
    down = command("lineage", "show", "digits/images@1", "--down", "--json").json()

    assert {edge["parent"] for edge in up["edges"]} >= {"digits/run-0001@2", "digits/images@1"}
    assert "digits/v1" in {edge["child"] for edge in down["edges"]}


def test_tables_fit_in_eighty_columns(command: Command, registry: Registry) -> None:
    promoted(registry, "run-0001")
    for words in (
        ["run", "list"],
        ["run", "show", "digits/run-0001"],
        ["checkpoint", "list"],
        ["checkpoint", "show", "digits/run-0001@2"],
        ["dataset", "list"],
        ["dataset", "show", "digits/images@1"],
        ["model", "list"],
        ["model", "show", "digits/v1"],
        ["model", "history", "digits"],
        ["lineage", "show", "digits/v1"],
        ["storage", "report"],
        ["audit", "log"],
        ["audit", "verify"],
        ["key", "list"],
        ["doctor"],
    ):
        said = command(*words)

        assert said.code == 0, (words, said.err)
        assert max(map(len, said.out.splitlines())) <= 80, words


def test_text_of_others_cannot_steer_the_terminal(command: Command, registry: Registry) -> None:
    started = registry.start_run(PROJECT, "a", params={"x": "\x1b[2J[red]loud[/red]"})
    registry.finish_run(started, "failed", "\x1b]0;owned\x07")
    said = command("run", "show", "digits/a")

    assert "\x1b" not in said.out
    assert "[red]loud[/red]" in said.out.replace("\n", "").replace(" ", "")


def test_a_run_whose_trainer_was_killed_does_not_look_alive(
    command: Command, registry: Registry
) -> None:
    begun = registry.start_run(PROJECT, "killed")
    with registry.sole_trainer(begun):
        alive = command("run", "list").out, command("run", "show", begun.reference).out
    silent = command("run", "list")
    shown = command("run", "show", begun.reference)

    assert all("running" in said and "no sign of life" not in said for said in alive)
    assert "silent" in silent.out
    assert "silent: no process trains it" in silent.err
    assert "running, no sign of life since" in " ".join(shown.out.split())
