"""A project that `init` began loads, trains and is listed as it stands; nothing is overwritten."""

import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from artifact_pipelines.cli import starting
from artifact_pipelines.components.candidates import POLICY
from artifact_pipelines.errors import ConfigurationError, ConflictError
from artifact_pipelines.registry import open_registry
from artifact_pipelines_tests.cli.conftest import Command, Said

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to begin in."""
    assert home.parent == tmp_path

    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_project_is_begun_and_listed(place: Path, command: Command) -> None:
    said = command("init", "churn", "--json")

    assert said.code == 0
    assert said.json() == {
        "project": "churn",
        "folder": str(place / "churn"),
        "workspace": str(place / "workspace.yaml"),
    }
    assert {name for name in files(place) if name.endswith((".py", "defs.yaml", ".toml"))} == {
        "churn/pyproject.toml",
        "churn/churn_project/__init__.py",
        "churn/churn_project/data.py",
        "churn/churn_project/definitions.py",
        "churn/churn_project/defs/churn/defs.yaml",
        "churn/churn_project/model.py",
        "churn/churn_project/train.py",
    }
    # A server imports it, and has no registry.
    assert "artifact_pipelines" not in (place / "churn/churn_project/model.py").read_text()
    locations = yaml.safe_load((place / "workspace.yaml").read_text())["load_from"]
    assert [found["python_module"]["location_name"] for found in locations] == [
        "artifact_pipelines",
        "churn_project",
    ]


def test_a_second_project_joins_the_first(place: Path, command: Command) -> None:
    command("init", "churn")
    before = (place / "workspace.yaml").read_text()
    command("init", "fraud-2")
    after = (place / "workspace.yaml").read_text()

    assert after.startswith(before)
    assert yaml.safe_load(after)["load_from"][-1]["python_module"] == {
        "module_name": "fraud_2_project.definitions",
        "location_name": "fraud_2_project",
        "working_directory": "fraud-2",
    }


def test_a_project_is_begun_beside_others_and_not_in_one(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("init", "churn")
    before = files(place)
    monkeypatch.chdir(place / "churn")
    said = command("init", "nested")

    assert said.code != 0
    assert f"is inside of the workspace {place}" in said.err
    assert files(place) == before


@pytest.mark.parametrize("taken", ["churn", "workspace"])
def test_nothing_is_overwritten(place: Path, command: Command, taken: str) -> None:
    command("init", "churn")
    if taken == "workspace":
        (place / "churn").rename(place / "moved")
    before = files(place)
    said = command("init", "churn")

    assert said.code == 2
    assert "churn" in said.err
    assert "already" in said.err
    assert files(place) == before


@pytest.mark.parametrize("name", ["../churn", "registry", "3rd", "a" * 64])
def test_a_name_that_cannot_be_used_makes_nothing(place: Path, command: Command, name: str) -> None:
    said = command("init", name)

    assert said.code == 2
    assert said.err.startswith("Error: ")
    assert files(place) == {}


def test_a_folder_that_cannot_be_written_keeps_nothing_half_done(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(starting, "_replace", full)
    said = command("init", "churn")

    assert said.code == 2
    assert f"{place} cannot be written: No space left on device." in said.err
    assert files(place) == {}


WORKSPACE = """\
# ours
load_from:
- python_module: team.definitions   # theirs

# what follows is kept
- python_file:
    relative_path: old.py
# the end

settings: {}
"""


def test_a_workspace_keeps_its_comments_and_what_follows() -> None:
    after = starting.listed(WORKSPACE, "churn_project", "churn")

    lines = after.splitlines()
    assert [line for line in lines if line in WORKSPACE.splitlines()] == WORKSPACE.splitlines()
    assert lines[7] == "- python_module:"
    assert len(yaml.safe_load(after)["load_from"]) == 3


@pytest.mark.parametrize(
    "text", ["", "load_from:\n", "load_from: {}\n", "[]", "load_from: [a: b", "load_from: []"]
)
def test_a_workspace_that_cannot_be_added_to_says_what_to_add(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"python_module:\n.*churn_project\.definitions"):
        starting.listed(text, "churn_project", "churn")


@pytest.mark.parametrize(
    "entry",
    [
        "python_module: churn_project.definitions",
        "python_module: {module_name: x, location_name: churn_project}",
    ],
)
def test_a_workspace_that_lists_the_project_is_left(entry: str) -> None:
    with pytest.raises(ConflictError, match="lists churn_project already"):
        starting.listed(f"load_from:\n  - {entry}\n", "churn_project", "churn")


def test_the_project_trains_and_arrives_in_staging(
    place: Path, home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("init", "begun")
    monkeypatch.syspath_prepend(str(place / "begun"))
    with dg.DagsterInstance.ephemeral() as instance:
        definitions = importlib.import_module("begun_project.definitions").defs
        instance.add_dynamic_partitions("begun_runs", ["first"])
        for job, partition in (
            ("begun_datasets", None),
            ("begun_train", "first"),
            ("begun_promote_staging", None),
        ):
            ran = definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                partition_key=partition,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            assert ran.success

    with open_registry(home) as registry:
        assert registry.stages("begun")["staging"].reference == "begun/v1"
        assert len(registry.checkpoints("begun", "first")) == 5
    candidate = definitions.resolve_asset_graph().get(dg.AssetKey(["begun", "candidate"]))
    assert POLICY in candidate.metadata


def test_an_edited_policy_judges_the_next_model(
    place: Path, home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("init", "edited")
    file = place / "edited/edited_project/defs/edited/defs.yaml"
    monkeypatch.setattr(sys, "path", [*sys.path, str(place / "edited")])
    rows = io.BytesIO()
    importlib.import_module("edited_project.data").load("holdout").to_parquet(rows, index=False)
    with open_registry(home) as registry:
        registry.publish_dataset("edited", "holdout", {"data.parquet": rows.getvalue()})
        run = registry.start_run("edited", "one")
        weights = save({"weights": np.array([-0.48, -2.88, 1.4, 0.0])})
        registry.publish_checkpoint(run, {"model.safetensors": weights}, step=1)
        registry.finish_run(run, "finished")

    def judged(text: str) -> Said:
        file.write_text(text)
        for name in [name for name in sys.modules if name.startswith("edited_project")]:
            monkeypatch.delitem(sys.modules, name)
        return command("model", "evaluate", "edited/one", "--json")

    easy = file.read_text()
    passed, failed = judged(easy), judged(easy.replace("min: 0.75", "min: 0.99"))
    broken = judged(easy.replace("min: 0.75", "min: [0.99"))
    wrong = judged(easy.replace("min: 0.75", "mim: 0.75"))
    (place / "workspace.yaml").unlink()
    monkeypatch.chdir(place / "edited")
    alone = judged(easy)
    (place / "edited/pyproject.toml").unlink()
    elsewhere = judged(easy.replace("min: 0.75", "min: 0.99"))

    assert (passed.code, failed.code) == (0, 1), passed.err + failed.err
    assert "files is in force now." in passed.err
    was = passed.json()["policy"]
    assert f"is in force now, in place of {was[:12]}." in failed.err
    assert (broken.code, wrong.code) == (2, 2)
    assert "defs.yaml" in broken.err
    assert "defs.yaml" in wrong.err
    assert "mim" in wrong.err
    assert (alone.code, alone.json()["policy"]) == (0, was)
    assert (elsewhere.code, elsewhere.json()["policy"]) == (0, was)


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_dagsters_commands_accept_the_project(place: Path, command: Command) -> None:
    command("init", "churn")
    folder = Path(sys.executable).parent
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "DAGSTER_HOME": str(place / ".artifact-pipelines" / "dagster"),
    }

    def run(where: Path, *words: str) -> str:
        ran = subprocess.run(
            [str(folder / words[0]), *words[1:]],
            cwd=where,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    assert "All definitions loaded successfully" in run(place / "churn", "dg", "check", "defs")
    assert "validated successfully" in run(place / "churn", "dg", "check", "yaml")
    assert "churn_train" in run(place / "churn", "dg", "list", "defs", "--json")
    listed = run(place / "churn", "dg", "list", "components", "--json")
    assert "artifact_pipelines.components.ModelPipeline" in listed
    assert "One model family: datasets, training runs" in listed
    validated = run(place, "dagster", "definitions", "validate", "-w", "workspace.yaml")
    assert "All code locations passed validation" in validated
