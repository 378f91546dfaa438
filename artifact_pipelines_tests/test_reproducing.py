"""A recorded run is trained again from what was recorded, and comes to the same bytes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import digits_project
from artifact_pipelines import register_dataset
from artifact_pipelines.errors import ConflictError, UnknownArtifactError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.sdk.opening import settings_of
from artifact_pipelines.sdk.provenance import code_of
from artifact_pipelines.sdk.repeating import write_reproduction
from artifact_pipelines.sdk.running import Request, running
from digits_project import data, train

PACKAGE = Path(digits_project.__file__).parent
PARAMS = {"hidden": 48, "lr": 0.004, "epochs": 24, "seed": 19, "checkpoint_every": 3}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with open_registry(home) as opened:
        yield opened


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    command = ["git", *identity, *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The example in a repository whose commit cannot train: what was changed since does."""
    work = tmp_path / "work"
    place = work / "projects" / PACKAGE.name
    shutil.copytree(PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__"))
    whole = (place / "train.py").read_text()
    (place / "train.py").write_text("raise SystemExit('the commit alone')\n")
    git(work.parent, "init", str(work))
    git(work, "add", ".")
    git(work, "commit", "-m", "x")
    git(work, "remote", "add", "origin", work.as_uri())
    (place / "train.py").write_text(whole)
    return work


def script(
    folder: Path, *words: str, path: str | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(folder / "reproduce.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ if path is None else {**os.environ, "PYTHONPATH": path},
    )


def trained(work: Path, params: dict[str, float]) -> None:
    register_dataset("digits", "images", data.load(0, 900))
    code = code_of(work / "projects" / PACKAGE.name / "train.py", "digits_project.train:fit")
    request = Request("digits", "first", params, ["digits/images@1"], None)
    with running(request, settings_of(None), code=code) as run:
        train.fit(run)


@pytest.mark.timeout(120)
def test_the_model_of_the_demo_is_made_again_to_the_byte(
    registry: Registry, work: Path, tmp_path: Path
) -> None:
    trained(work, PARAMS)
    register_dataset("digits", "images", data.load(0, 800))
    write_reproduction(registry, "digits/first", tmp_path / "again")
    # The example itself is not on the path: only the recorded code can be found.
    root = str(Path(__file__).parent.parent)
    done = script(tmp_path / "again", path=root)
    first, second = (registry.run("digits", name) for name in ("first", "first-again"))

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("  same  ") == len(first.checkpoints) == 8
    assert [one.content for one in second.checkpoints] == [one.content for one in first.checkpoints]
    assert second.artifact.record.params == first.artifact.record.params
    assert second.artifact.record.inputs == first.artifact.record.inputs
    assert (tmp_path / "again/code/projects/digits_project/train.py").read_text() == (
        PACKAGE / "train.py"
    ).read_text()


def test_a_script_is_started_again_with_the_recorded_data_and_parameters(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "one.csv").write_text("1")
    register_dataset("p", "rows", tmp_path / "one.csv")
    file = tmp_path / "fit.py"
    file.write_text(
        "import sys\n"
        "from artifact_pipelines import start_run\n"
        "given = float(sys.argv[1]) if sys.argv[1:] else 0.0\n"
        "inputs = ['p/rows@latest']\n"
        "with start_run('p', 'r', params={'rate': given}, inputs=inputs) as run:\n"
        "    held = sorted(run.dataset('rows').iterdir())[0].read_bytes()\n"
        "    rate = str(run.params['rate']).encode()\n"
        "    run.checkpoint(None, step=1, files={'held': held, 'rate': rate})\n"
    )
    subprocess.run([sys.executable, str(file), "0.5"], check=True, cwd=tmp_path)
    (tmp_path / "one.csv").write_text("2")
    register_dataset("p", "rows", tmp_path / "one.csv")
    write_reproduction(registry, "p/r", tmp_path / "again")
    same = script(tmp_path / "again", "--code", str(tmp_path))
    file.write_text(file.read_text().replace("held, 'rate'", "b'other', 'rate'"))
    other = script(tmp_path / "again", "--code", str(tmp_path), "--name", "third")

    assert (same.returncode, other.returncode) == (0, 1), same.stderr + other.stderr
    assert "  same  " in same.stdout
    assert "p/third@1  different  " in other.stdout


def test_what_is_missing_is_said_in_one_sentence(
    registry: Registry, work: Path, tmp_path: Path
) -> None:
    trained(work, {**PARAMS, "epochs": 3})
    folder = tmp_path / "again"
    write_reproduction(registry, "digits/first", folder)
    lock = folder / "requirements.lock"
    with lock.open("a") as opened:
        opened.write("no-such-package==1.0\n")
    differs = script(folder)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "repository": None}))
    homeless = script(folder, "--any-environment")
    empty = tmp_path / "empty"
    subprocess.run(["git", "init", "--quiet", str(empty)], check=True)  # noqa: S607
    unpushed = script(folder, "--any-environment", "--repository", str(empty))
    nowhere = script(folder, "--any-environment", "--repository", str(tmp_path / "nowhere"))

    assert differs.returncode == homeless.returncode == 2
    assert unpushed.returncode == nowhere.returncode == 2
    assert f"is not in {empty}, or was never pushed to it" in unpushed.stderr
    assert "cannot be cloned" in nowhere.stderr
    assert not (folder / "code").exists()
    assert "no-such-package 1.0 was absent" in differs.stderr
    assert "pass where to clone from as --repository" in homeless.stderr
    with pytest.raises(ConflictError, match="is not empty"):
        write_reproduction(registry, "digits/first", folder)
    with pytest.raises(UnknownArtifactError, match="no training run"):
        write_reproduction(registry, "digits/images@1", tmp_path / "other")
