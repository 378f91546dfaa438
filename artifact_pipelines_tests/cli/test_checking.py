"""The doctor says what is wrong with Dagster here, and what to do about it."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from artifact_pipelines.cli import checking
from artifact_pipelines.cli.checking import dagster_checks
from artifact_pipelines.settings import Settings, prepare_dagster_home
from artifact_pipelines_tests.cli.conftest import Command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a workspace, as `init` leaves it."""
    for name in ("DAGSTER_HOME", "ARTIFACT_PIPELINES_HOME", "ARTIFACT_PIPELINES_DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DG_CLI_CONFIG", str(tmp_path / "dg.toml"))
    (tmp_path / "workspace.yaml").write_text(
        "load_from: [{python_module: {module_name: artifact_pipelines.definitions}}]\n"
    )
    monkeypatch.chdir(tmp_path)
    prepare_dagster_home(Settings.from_environment(), tmp_path)
    return tmp_path


def found(here: Path) -> dict[str, tuple[str, str]]:
    checks = dagster_checks(Settings.from_environment(), here)
    return {name: (state, said) for name, state, said in checks}


def test_a_prepared_folder_is_in_order(here: Path) -> None:
    (here / "dg.toml").write_text("[cli.telemetry]\nenabled = false\n")
    checks = found(here)

    assert {state for state, _ in checks.values()} == {"ok"}
    assert checks["dagster instance"] == ("ok", "0 runs.")
    assert checks["workspace"] == ("ok", "1 code locations.")


def test_packages_that_do_not_belong_together_are_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "version", lambda _: "0.11.14")
    state, said = found(here)["dagster family"]

    assert state == "fail"
    assert "dagster-aws is 0.11.14 and should be " in said


def test_a_missing_env_is_told_and_made(here: Path, command: Command) -> None:
    (here / ".env").unlink()
    state, said = found(here)[".env"]
    command("dagster", "prepare")
    again, _ = found(here)[".env"]

    assert state == "warn"
    assert said.endswith("would make a temporary home: artifact-pipelines dagster prepare")
    assert again == "ok"


def test_preparing_says_which_home_the_commands_here_go_to(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARTIFACT_PIPELINES_HOME")
    plain = command("dagster", "prepare")
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(here / "other"))
    other = command("dagster", "prepare")
    (here / ".env").write_text("DAGSTER_HOME=/mine\n")
    own = command("dagster", "prepare")

    ready = f"{here / 'other' / 'dagster'} is ready"
    assert plain.out.endswith("is ready, and .env names it for the commands that start here.\n")
    assert other.out == f"{ready}, as the variables of this shell ask for it.\n"
    assert str(here / ".artifact-pipelines" / "dagster") in "".join(other.err.split())
    assert own.out == f"{ready}. The .env here is your own: it has to set DAGSTER_HOME to that.\n"


def test_an_env_of_another_place_is_told(here: Path) -> None:
    text = (here / ".env").read_text().replace(str(here), "/elsewhere")
    (here / ".env").write_text(text)

    state, said = found(here)[".env"]
    assert state == "warn"
    assert "names another home" in said


def test_a_stale_link_is_told_and_mended(here: Path) -> None:
    configuration = here / ".artifact-pipelines" / "dagster" / "dagster.yaml"
    configuration.unlink()
    configuration.symlink_to(here / "gone.yaml")
    state, said = found(here)["dagster home"]
    prepare_dagster_home(Settings.from_environment(), here)

    assert state == "fail"
    assert "links to" in said
    assert "which is gone: artifact-pipelines dagster prepare" in said
    assert found(here)["dagster home"][0] == "ok"


def test_an_instance_that_does_not_open_is_told(here: Path) -> None:
    configuration = here / ".artifact-pipelines" / "dagster" / "dagster.yaml"
    configuration.write_text("telemetri: {}\n")

    state, said = found(here)["dagster instance"]
    assert state == "fail"
    assert "telemetri" in said
    assert "\n" not in said


def test_another_dagster_home_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "/elsewhere")

    assert found(here)["DAGSTER_HOME"][0] == "warn"


@pytest.mark.parametrize(
    "text,said",
    [
        ("load_from: [{python_module: nowhere.definitions}]", "lists what is not there: nowhere"),
        ("load_from: 7", "cannot be read"),
    ],
)
def test_a_workspace_that_cannot_load_is_told(here: Path, text: str, said: str) -> None:
    (here / "workspace.yaml").write_text(text)

    state, told = found(here)["workspace"]
    assert state == "fail"
    assert said in told


def test_an_instance_of_another_dagster_is_told(here: Path) -> None:
    before = found(here)["dagster instance"]
    (database,) = (here / ".artifact-pipelines" / "dagster").rglob("runs.db")
    with contextlib.closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("update alembic_version set version_num = '000000000000'")
    state, said = found(here)["dagster instance"]

    assert before == ("ok", "0 runs.")
    assert state == "fail"
    assert "was migrated by another Dagster than" in said
    assert "(000000000000 and not " in said
    assert "dagster instance migrate" in said


@pytest.mark.parametrize(
    "version,state,said",
    [
        ("echo 1.9.0", "fail", "has Dagster 1.9.0, and here is"),
        (f"echo {version('dagster')}", "ok", "has Dagster"),
        ("exit 1", "warn", "does not say which Dagster it has"),
    ],
)
def test_a_location_with_a_python_of_its_own_is_asked(
    here: Path, version: str, state: str, said: str
) -> None:
    python = here / "python"
    python.write_text(f"#!/bin/sh\n{version}\n")
    python.chmod(0o755)
    (here / "workspace.yaml").write_text(
        "load_from: [{python_module: {module_name: artifact_pipelines.definitions, "
        f"executable_path: '{python}'}}}}]\n"
    )
    found_state, told = found(here)["code location"]

    assert found_state == state
    assert said in told


def test_a_code_server_is_asked(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (here / "workspace.yaml").write_text(
        f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}, location_name: away}}}}]\n"
    )
    before = found(here)["code location"]
    module = here / "served.py"
    module.write_text("import dagster as dg\n\ndefs = dg.Definitions()\n")
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster", "api", "grpc", "-p", str(port), "-f", str(module)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while found(here)["code location"][0] == "warn" and time.monotonic() < until:
            time.sleep(0.2)
        after = found(here)["code location"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    assert before == (
        "warn",
        "away does not say which Dagster it has: start it, or look at its log.",
    )
    assert after == ("ok", f"away has Dagster {version('dagster')}.")


def test_usage_statistics_are_told(here: Path) -> None:
    state, said = found(here)["dg"]

    assert state == "warn"
    assert "[cli.telemetry] with enabled = false" in said
