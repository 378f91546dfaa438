"""Dagster's own daemon, as a process: what trained elsewhere arrives in staging, once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import dagster as dg
import pytest

from artifact_pipelines.registry import Registry, open_registry

ROOT = Path(__file__).parent.parent
PROJECT = "churn"
PATIENCE = 150.0  # seconds, of a machine that is busy with other things

LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name locationOrLoadError { __typename ... on PythonError { message } }
} } } }
"""
TRAINER = """\
import sys

import artifact_pipelines
from churn_project.train import fit

with artifact_pipelines.start_run(
    "churn", sys.argv[1], params={"epochs": 5, "lr": 0.5}, inputs=["churn/customers@latest"]
) as run:
    fit(run)
assert not [name for name in sys.modules if name.split(".")[0] == "dagster"]
"""
DATA = """\
from artifact_pipelines.registry import open_registry
from artifact_pipelines.settings import Settings
from churn_project.data import load

settings = Settings.from_environment()
with open_registry(
    settings.home, catalog_url=settings.catalog_url, store_url=settings.store_url
) as registry:
    for name, part in (("customers", "train"), ("holdout", "holdout")):
        files = {"data.parquet": load(part).to_parquet(index=False)}
        registry.publish_dataset("churn", name, files, facts={"rows": len(load(part))})
"""


class Workspace:
    """A folder as a user has it: a project that `init` made, and a home.

    Attributes:
        folder: The folder.
        log: What Dagster said.
        environment: What its processes are started with.
    """

    def __init__(self, folder: Path, **more: str) -> None:
        self.folder = folder / "place"
        self.log = folder / "dagster.log"
        self.folder.mkdir()
        self.environment = {
            **{name: text for name, text in os.environ.items() if "DAGSTER" not in name},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "ARTIFACT_PIPELINES_SENSOR_SECONDS": "1",
            **more,
        }
        del self.environment["ARTIFACT_PIPELINES_HOME"]
        self.run("-m", "artifact_pipelines.cli", "init", PROJECT)
        for words in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *words], cwd=self.folder, check=True)  # noqa: S607

    @property
    def home(self) -> Path:
        """Where everything is."""
        return self.folder / ".artifact-pipelines"

    def run(self, *words: str, where: str = ".") -> str:
        """Run Python in the folder, or in one of its folders, and return what it printed."""
        ran = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder / where,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    @contextmanager
    def dagster(self, *words: str, where: str = ".") -> Iterator[Callable[[], str]]:
        """Run `dagster dev`, or another command that opens the UI, and yield what reads its output.

        Everything of it is killed.
        """
        port = _free_port()
        log = self.log
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *(words or ("dagster", "dev", "-w", "workspace.yaml")),
                    *("-h", "127.0.0.1", "-p", str(port)),
                ],
                cwd=self.folder / where,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_for(lambda: _answers(port) or process.poll() is not None, log.read_text)
            assert process.poll() is None, log.read_text()
            yield log.read_text
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def strays(self) -> str:
        """Return the files that are neither the project's nor ignored, and what was changed."""
        said = subprocess.run(
            ["git", "status", "--porcelain", "-uall"],  # noqa: S607 (whichever git there is)
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
        )
        return "\n".join(line for line in said.stdout.splitlines() if not line.startswith("A  "))

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        """Open the registry."""
        with open_registry(
            self.home,
            catalog_url=self.environment.get("ARTIFACT_PIPELINES_CATALOG_URL"),
            store_url=self.environment.get("ARTIFACT_PIPELINES_STORE_URL"),
            actor="tester",
        ) as registry:
            yield registry

    def staging(self) -> str:
        """Return what staging points at, or nothing."""
        with self.registry() as registry:
            model = registry.stages(PROJECT).get("staging")
            return "" if model is None else model.reference

    def judged(self) -> bool:
        """Return whether any model has been judged."""
        with self.registry() as registry:
            return any(registry.verdicts(model) for model in registry.models(PROJECT))


@pytest.fixture(params=["files", pytest.param("servers", marks=pytest.mark.deep)])
def workspace(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "unused"))
    if request.param == "files":
        return Workspace(tmp_path)
    return Workspace(
        tmp_path,
        ARTIFACT_PIPELINES_STORE_URL=request.getfixturevalue("s3_url"),
        ARTIFACT_PIPELINES_CATALOG_URL=request.getfixturevalue("postgres").catalog(),
    )


@pytest.mark.timeout(600)
def test_a_model_trained_elsewhere_arrives_in_staging_once_though_the_daemon_is_killed(
    workspace: Workspace,
) -> None:
    workspace.run("-c", DATA, where=PROJECT)
    with workspace.dagster() as log:
        workspace.run("-c", TRAINER, "elsewhere", where=PROJECT)
        _wait_for(workspace.judged, log)
    killed_before = workspace.staging()
    with workspace.dagster() as log:
        _wait_for(lambda: bool(workspace.staging()), log)
        _wait_for(lambda: not _going_on(workspace.home), log)

    assert workspace.strays() == ""
    assert workspace.staging() == "churn/v1"
    with workspace.registry() as registry:
        assert len(registry.models(PROJECT)) == 1
        assert len(registry.history(PROJECT, "staging")) == 1
        assert [view.state for view in registry.runs(PROJECT)] == ["finished"]
        assert registry.verify_ledger().ok
    assert killed_before in {"", "churn/v1"}
    with dg.DagsterInstance.from_config(str(workspace.home / "dagster")) as instance:
        assert instance.get_dynamic_partitions("churn_runs") == ["elsewhere"]
        for asset in ("training_run", "checkpoints", "candidate"):
            wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey([PROJECT, asset]))
            shown = instance.fetch_materializations(wanted, limit=10).records
            assert {record.partition_key for record in shown} == {"elsewhere"}, asset


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_dg_dev_trains_a_project_that_was_just_made_again_by_cron(workspace: Workspace) -> None:
    declared = workspace.folder / PROJECT / "churn_project" / "defs" / PROJECT / "defs.yaml"
    text = declared.read_text()
    asleep = '# schedule: "0 3 * * *"'
    assert asleep in text
    declared.write_text(text.replace(asleep, 'schedule: "* * * * *"'))
    workspace.run("-c", DATA, where=PROJECT)
    with workspace.dagster("dg", "dev", where=PROJECT) as log:
        _wait_for(lambda: bool(workspace.staging()), log)

    with workspace.registry() as registry:
        trained = [view.artifact.name for view in registry.runs(PROJECT)]
        assert trained
        assert all(name.startswith("sched-") for name in trained)
        assert len(trained) == len(set(trained))
        assert registry.verify_ledger().ok


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_make_dev_shows_the_platform_and_the_example(tmp_path: Path) -> None:
    port = _free_port()
    environment = {name: text for name, text in os.environ.items() if "PYTHONPATH" not in name}
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(
            ["make", "dev", f"PORT={port}", "ARGS=-h 127.0.0.1"],  # noqa: S607 (whichever make)
            cwd=ROOT,
            env=environment | {"ARTIFACT_PIPELINES_HOME": str(tmp_path / "home")},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(lambda: _answers(port), (tmp_path / "log").read_text)
        asked = json.dumps({"query": LOCATIONS}).encode()
        address = f"http://127.0.0.1:{port}/graphql"
        request = Request(address, asked, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:  # noqa: S310 (ours)
            said = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    assert {entry["name"]: entry["locationOrLoadError"]["__typename"] for entry in said} == {
        "artifact_pipelines": "RepositoryLocation",
        "digits_project": "RepositoryLocation",
    }, said


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _going_on(home: Path) -> bool:
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        return any(not run.is_finished for run in instance.get_runs())


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _wait_for(done: Callable[[], bool], log: Callable[[], str]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, log()[-4000:]
        time.sleep(0.5)
