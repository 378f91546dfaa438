"""One command runs Postgres and Dagster for a team, and leaves nothing running."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import sqlalchemy as sa

from artifact_pipelines.cli import up
from artifact_pipelines.registry import open_registry
from artifact_pipelines.settings import Settings
from artifact_pipelines_tests import building

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "artifact_pipelines.cli", "up"]
PATIENCE = 180.0

WORKSPACE = """\
load_from:
  - python_module:
      module_name: artifact_pipelines.definitions
      location_name: artifact_pipelines
"""


def environment(home: Path) -> dict[str, str]:
    return {
        **{name: text for name, text in os.environ.items() if "DAGSTER" not in name},
        "ARTIFACT_PIPELINES_HOME": str(home),
        "PYTHONPATH": str(ROOT),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refused(folder: Path, *words: str) -> str:
    ran = subprocess.run(
        [*COMMAND, *words],
        cwd=folder,
        env=environment(folder / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert not (folder / "home").exists()
    return ran.stderr


def test_an_encrypted_project_is_brought_over_with_its_keys(tmp_path: Path) -> None:
    found = Settings.from_environment({"ARTIFACT_PIPELINES_HOME": str(tmp_path / "home")})
    with open_registry(found.home, actor="tester") as registry:
        registry.encrypt(building.PROJECT)
        made = building.trained(registry, steps=1)
        expected = registry.read(made[0].reference, "model.safetensors")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    up._bring_over(found, other)

    with open_registry(found.home, catalog_url=other, actor="tester") as registry:
        assert registry.read(made[0].reference, "model.safetensors") == expected


def test_without_a_workspace_nothing_is_started(tmp_path: Path) -> None:
    assert "artifact-pipelines init" in " ".join(refused(tmp_path).split())


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    (tmp_path / "workspace.yaml").write_text(WORKSPACE)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refused(tmp_path, "--port", str(taken.getsockname()[1]))

    assert "is taken" in said


def exported(file: Path) -> dict[str, str]:
    """Return the variables that people are told to source."""
    pairs = (line.removeprefix("export ").split("=", 1) for line in file.read_text().splitlines())
    return {name: text.strip("'") for name, text in pairs}


def ask(port: int, query: str) -> Mapping[str, object]:
    request = Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query}).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=60) as answer:  # noqa: S310  our own server
        found: Mapping[str, object] = json.load(answer)["data"]
    return found


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the processes that have to do with a folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if any(str(folder) in word for word in words):
                found.append(" ".join(words))
    return found


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_a_team_starts_works_stops_and_starts_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "workspace.yaml").write_text(WORKSPACE)
    with open_registry(home, actor="tester") as registry:
        building.promoted(registry, "run-1")
    for rows in (4, 5):
        port = free_port()
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(
                [*COMMAND, "--port", str(port)],
                cwd=tmp_path,
                env=environment(home),
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        try:
            until = time.monotonic() + PATIENCE
            while "Ctrl-C stops" not in (tmp_path / "said").read_text():
                assert process.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < until
                time.sleep(0.25)
            variables = exported(home / "up" / "environment")
            url = variables["ARTIFACT_PIPELINES_CATALOG_URL"]
            with open_registry(home, catalog_url=url, actor="tester") as registry:
                building.dataset(registry, rows=rows)
                assert registry.resolve("digits@production").model.reference == "digits/v1"
            nodes = ask(port, "{assetNodes {assetKey {path}}}")["assetNodes"]
            health = ask(port, "{instance {daemonHealth {allDaemonStatuses {daemonType}}}}")
            engine = sa.create_engine(variables["ARTIFACT_PIPELINES_DAGSTER_URL"])
            with engine.connect() as conn:
                tables = set(sa.inspect(conn).get_table_names())
            engine.dispose()

            assert {"assetKey": {"path": ["registry", "tree_head"]}} in list(nodes)  # type: ignore[call-overload]
            assert health
            assert {"runs", "event_logs", "job_ticks"} <= tables
        finally:
            process.send_signal(signal.SIGTERM)
            ended = process.wait(timeout=90)

        assert ended == 0, (tmp_path / "said").read_text()
        assert processes_of(home) == []
