"""Whatever a project's code does, it is a sentence, soon, and the next job runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifact_pipelines.errors import ConfigurationError, SandboxError
from artifact_pipelines.gates import sandbox as sandboxes
from artifact_pipelines.gates.sandbox import Sandbox, used_memory

HERE = "artifact_pipelines_tests.gates.misbehaving"
PLENTY = 1_000_000_000


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(60, PLENTY) as made:
        yield made


def ask(sandbox: Sandbox, name: str, folder: Path, **more: Any) -> Any:  # noqa: ANN401 (JSON)
    limits = {key: more.pop(key) for key in ("seconds", "memory") if key in more}
    return sandbox.ask(
        "the gate",
        "custom",
        **limits,
        function=f"{HERE}:{name}",
        name="mine",
        model=str(folder),
        baseline=None,
        evaluation=None,
        metrics={},
        policy={},
        arguments=more,
    )


def test_one_process_does_all_jobs_and_it_is_not_this_one(sandbox: Sandbox, tmp_path: Path) -> None:
    first, second = (ask(sandbox, "fine", tmp_path, limit=0.1) for _ in range(2))

    assert first["passed"] is True
    assert first["values"]["limit"] == 0.1
    assert first["values"]["process"] == second["values"]["process"] != os.getpid()


@pytest.mark.parametrize(
    "name, said",
    [
        ("raises", "the gate raised KeyError: 'colour'"),
        ("exits", "the gate raised SystemExit: enough"),
        ("ends", "the gate ended without an answer, with exit code 7"),
        ("crashes", "the gate was killed by SIGSEGV"),
        ("keeps_nothing", "the gate answered wrongly: a gate gives a mapping"),
        ("half", "the gate answered wrongly: a gate gives at least one reason"),
        ("maybe", "the gate answered wrongly: a gate passed or not, but said 1"),
    ],
)
def test_what_fails_is_a_sentence_and_the_next_job_runs(
    sandbox: Sandbox, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(SandboxError, match=said):
        ask(sandbox, name, tmp_path)

    assert ask(sandbox, "fine", tmp_path)["passed"] is True


def test_a_traceback_shows_the_projects_own_code_alone(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("raises", "half"):
        with pytest.raises(SandboxError):
            ask(sandbox, name, tmp_path)
    shown = "".join(capfd.readouterr())

    assert shown.count("Traceback") == 1
    assert "misbehaving.py" in shown
    assert 'raise KeyError("colour")' in shown
    assert f"artifact_pipelines{os.sep}gates" not in shown


def test_a_reason_is_one_line(sandbox: Sandbox, tmp_path: Path) -> None:
    assert ask(sandbox, "rambles", tmp_path)["reasons"] == ["first second", "third"]


def test_what_hangs_is_killed_in_time(sandbox: Sandbox, tmp_path: Path) -> None:
    ask(sandbox, "fine", tmp_path)
    began = time.monotonic()
    with pytest.raises(SandboxError, match=r"the gate took longer than 0\.3 s"):
        ask(sandbox, "hangs", tmp_path, seconds=0.3)

    assert time.monotonic() - began < 10
    assert ask(sandbox, "fine", tmp_path)["passed"] is True


def test_what_eats_memory_is_killed_before_it_has_eaten_much(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(SandboxError, match="the gate used more than 100 MB of memory"):
        ask(sandbox, "grows", tmp_path, memory=100_000_000)

    assert ask(sandbox, "fine", tmp_path)["passed"] is True


def test_an_answer_that_is_too_long_is_none(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "MAX_ANSWER", 1_000_000)

    with pytest.raises(SandboxError, match="answered more than 1 MB"):
        ask(sandbox, "chatters", tmp_path)


def test_what_a_job_leaves_behind_ends_with_it_whoever_else_is_at_work(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    # While another sandbox works, an orphan could be that one's.
    ask(sandbox, "fine", tmp_path)
    with Sandbox(60, PLENTY) as other:
        ask(other, "breeds", tmp_path)
        child = int((tmp_path / "child").read_text())

    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)
    assert ask(sandbox, "fine", tmp_path)["passed"] is True


@pytest.mark.parametrize("name", ["breeds", "breeds_and_ends"])
def test_what_a_job_leaves_behind_ends_with_it(tmp_path: Path, name: str) -> None:
    with Sandbox(60, PLENTY) as sandbox:
        with contextlib.suppress(SandboxError):
            ask(sandbox, name, tmp_path)
        child = int((tmp_path / "child").read_text())
        assert Path(f"/proc/{child}").exists() == (name == "breeds")

    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_job_writes_is_no_output_of_ours(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(sandbox, "talks", tmp_path)
    out, err = capfd.readouterr()

    assert out == ""
    assert "from Python" in err
    assert "from below" in err


def test_a_job_is_where_its_caller_is_and_sees_no_settings_of_the_registry(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACT_PIPELINES_KEYS", "/somewhere")
    monkeypatch.chdir(tmp_path)

    assert ask(sandbox, "homes", tmp_path)["values"] == {"seen": [], "cwd": str(tmp_path)}


def test_a_function_that_is_not_there_is_a_mistake_in_the_project(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="no_such_gate"):
        ask(sandbox, "no_such_gate", tmp_path)

    assert ask(sandbox, "fine", tmp_path)["passed"] is True


def test_a_warm_process_that_was_killed_is_started_again(tmp_path: Path) -> None:
    with Sandbox(60, PLENTY) as first:
        ask(first, "fine", tmp_path)
        server = sandboxes._nursery._server
        assert server is not None
        server.kill()
        server.wait()
        with pytest.raises(SandboxError, match="was killed by SIGKILL"):
            ask(first, "fine", tmp_path)
        assert ask(first, "fine", tmp_path)["passed"] is True
    server = sandboxes._nursery._server
    assert server is not None
    server.kill()
    server.wait()

    with Sandbox(60, PLENTY) as second:
        assert ask(second, "fine", tmp_path)["passed"] is True


def test_everything_goes_when_whoever_asked_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal, threading, time\n"
        "from pathlib import Path\n"
        "from artifact_pipelines.gates import sandbox as s\n"
        "from artifact_pipelines_tests.gates.test_sandbox import ask\n"
        "box = s.Sandbox(60, 10**9)\n"
        f"found = ask(box, 'fine', Path({str(tmp_path)!r}))\n"
        "print(s._nursery._server.pid, found['values']['process'], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    left = [int(number) for number in done.stdout.split()]
    deadline = time.monotonic() + 10
    while any(alive(process) for process in left) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert done.returncode == -signal.SIGKILL
    assert len(left) == 2
    assert not [process for process in left if alive(process)]


def test_memory_is_told_of_a_process_that_is_there() -> None:
    assert used_memory(os.getpid()) > 1_000_000
    assert used_memory(2**22 + 1, whole=False) == 0
