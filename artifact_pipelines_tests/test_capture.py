"""What is taken down about a run without anybody typing it."""

import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from artifact_pipelines import start_run
from artifact_pipelines.domain import digest
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.sdk import machine
from artifact_pipelines.sdk.provenance import CODE_DIFF, code_of, packages

WEIGHTS = {"w": np.ones(3)}
Git = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("ARTIFACT_PIPELINES_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with open_registry(home) as opened:
        yield opened


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def git(work: Path) -> Git:
    """Runs Git in a repository with one commit of `train.py`."""

    def run(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=work, check=True, capture_output=True, text=True).stdout

    run("init")
    (work / "train.py").write_text("rate = 1\n")
    run("add", ".")
    run("commit", "-m", "x")
    return run


def test_what_was_changed_since_the_commit_can_be_applied_to_it(
    work: Path, git: Git, tmp_path: Path
) -> None:
    (work / "train.py").write_text("rate = 2\n")
    (work / "néw.py").write_text("new = True\n")
    (work / "notes.txt").write_text("not code")
    before = git("status", "--porcelain")
    code = code_of(work / "train.py", None)
    clone = tmp_path / "clone"
    git("clone", str(work), str(clone))
    apply = ["git", "apply", "-"]
    subprocess.run(apply, cwd=clone, check=True, input=code.diff)

    assert code.facts["diff"] == CODE_DIFF
    assert (clone / "train.py").read_text() == "rate = 2\n"
    assert (clone / "néw.py").read_text() == "new = True\n"
    assert not (clone / "notes.txt").exists()
    assert git("status", "--porcelain") == before


def test_large_files_and_secrets_are_left_out_of_the_kept_change_and_named(
    work: Path, git: Git
) -> None:
    (work / ".env").write_text("TOKEN=old")
    (work / "weights.bin").write_bytes(b"small")
    git("add", "-f", ".")
    git("commit", "-m", "y")
    (work / ".env").write_text("TOKEN=s3cr3t")
    (work / "my_secrets.py").write_text("key = 's3cr3t'")
    (work / "weights.bin").write_bytes(bytes(2**20 + 1))
    (work / "train.py").write_text("rate = 3\n")
    code = code_of(work / "train.py", None)

    assert code.facts["omitted"] == [".env", "my_secrets.py", "weights.bin"]
    assert code.diff is not None
    assert b"rate = 3" in code.diff
    assert b"s3cr3t" not in code.diff


def test_a_shallow_clone_says_so(work: Path, git: Git, tmp_path: Path) -> None:
    git("commit", "--allow-empty", "-m", "y")
    git("clone", "--depth", "1", work.as_uri(), str(tmp_path / "clone"))
    code = code_of(tmp_path / "clone" / "train.py", None)

    assert code.facts["shallow"] is True
    assert code.facts["commit"] == git("rev-parse", "HEAD").strip()


def test_the_origin_is_known_without_who_asks_for_it(work: Path, git: Git) -> None:
    git("remote", "add", "origin", "https://ada:s3cr3t@example.org/digits.git")

    assert code_of(work / "train.py", None).origin == "https://example.org/digits.git"


def test_without_git_the_entry_point_is_known(
    work: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git("rev-parse", "HEAD")

    monkeypatch.setenv("PATH", "")
    assert code_of(work / "train.py", None).facts == {"entry_point": "train.py"}


def test_a_run_says_what_it_was_trained_with(
    registry: Registry, work: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setattr("artifact_pipelines.sdk.running.main_file", lambda: work / "train.py")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    (work / "train.py").write_text("rate = 2\n")
    with start_run("p", "r", params={"seed": 3, "lr": 0.1}, seeds={"loader": 11}) as run:
        run.checkpoint(WEIGHTS, step=1)
    record = run.artifact.record
    (end,) = registry.ledger(action="run_finish")

    assert record.code["commit"] == git("rev-parse", "HEAD").strip()
    assert b"+rate = 2" in registry.read("p/r", CODE_DIFF)
    assert record.facts["packages"]["numpy"] == np.__version__
    assert record.facts["seeds"] == {"seed": 3, "loader": 11, "PYTHONHASHSEED": 7}
    assert record.facts["threads"]["OMP_NUM_THREADS"] == "1"
    annex = registry.annex(run.artifact)
    assert annex is not None
    assert {"user", "host", "python", "cpus", "cpu", "memory_bytes", "argv"} <= annex.keys()
    assert end.body is not None
    used = registry.sealed(f"annexes/{end.body['annex']}")
    assert used is not None
    assert used["peak_memory_bytes"] > 0


def test_no_secret_of_the_environment_or_the_command_line_is_stored(
    registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "pl4nted")
    monkeypatch.setenv("SLURM_JOB_ID", "postgres://ada:pl4nted@db/x")
    monkeypatch.setattr(
        sys, "argv", ["t.py", "--db=postgres://ada:pl4nted@db/x", "--token", "pl4nted"]
    )
    with start_run("p", "r") as run:
        run.checkpoint(WEIGHTS, step=1)
    registry.sign_head()
    stored = [file for file in home.rglob("*") if file.is_file()]

    assert len(stored) > 10
    for file in stored:
        assert b"pl4nted" not in file.read_bytes(), file


def test_an_erased_annex_leaves_the_record(registry: Registry) -> None:
    with start_run("p", "r") as run:
        run.checkpoint(WEIGHTS, step=1)
    for key in list(registry.store.backend.keys("annexes/")):
        registry.store.backend.delete(key)

    assert registry.annex(run.artifact) is None
    assert registry.find("p/r") == run.artifact


def test_gpus_are_asked_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = types.ModuleType("pynvml")
    answers = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlSystemGetCudaDriverVersion_v2": 12040,
        "nvmlSystemGetDriverVersion": b"550.54",
        "nvmlDeviceGetName": "A100",
        "nvmlDeviceGetUUID": "GPU-1",
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(total=85899345920),
    }
    for name, value in answers.items():
        setattr(nvml, name, lambda *_, value=value: value)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    assert machine.gpus() == {
        "driver": "550.54",
        "cuda": "12.4",
        "devices": [{"name": "A100", "uuid": "GPU-1", "memory_bytes": 85899345920}],
    }


def test_taking_it_all_down_is_quick(work: Path, git: Git) -> None:
    (work / "train.py").write_text("rate = 2\n")
    git("status")
    begin = time.process_time()
    code_of(work / "train.py", None)
    found = packages()
    machine.surroundings()

    assert found["numpy"] == np.__version__
    assert time.process_time() - begin < 0.3


def test_the_facts_of_a_run_have_a_form_in_json(home: Path) -> None:
    with start_run("p", "r", home=home) as run:
        run.checkpoint(WEIGHTS, step=1)

    assert digest.parse(json.dumps(dict(run.artifact.record.facts)).encode())
