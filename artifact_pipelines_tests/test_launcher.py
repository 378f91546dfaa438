"""Dagster learns that a run's process has died, and of no other's death."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.events import EngineEventData  # noqa: TID251 (what a run worker reports)

from artifact_pipelines.launcher import WatchedRunLauncher


@dg.job
def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def health(instance: dg.DagsterInstance, pid: int | None) -> str:
    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    if pid is not None:
        said = f"Started process for run (pid: {pid})."
        instance.report_engine_event(said, run, EngineEventData.in_process(pid))
    launcher = WatchedRunLauncher()
    launcher.register_instance(instance)
    assert launcher.supports_check_run_worker_health
    return str(launcher.check_run_worker_health(run).status.value)


def test_a_run_whose_process_is_there_goes_on(instance: dg.DagsterInstance) -> None:
    assert health(instance, os.getpid()) == "RUNNING"


def test_a_run_whose_process_has_died_is_found(instance: dg.DagsterInstance) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    assert health(instance, process.pid) == "NOT_FOUND"


def test_a_process_that_nobody_has_collected_is_dead(instance: dg.DagsterInstance) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        found = health(instance, process.pid)
        for _ in range(100):
            if found == "NOT_FOUND":
                break
            time.sleep(0.05)
            found = health(instance, process.pid)

    assert found == "NOT_FOUND"


def test_a_later_process_of_the_same_number_is_another(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time() + 60
    monkeypatch.setattr("psutil.Process.create_time", lambda _: began)

    assert health(instance, os.getpid()) == "NOT_FOUND"


def test_a_run_that_has_not_said_its_process_goes_on(instance: dg.DagsterInstance) -> None:
    assert health(instance, None) == "RUNNING"
