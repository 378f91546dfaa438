"""What an MLflow store holds is brought in once, as it was, or its absence is explained."""

import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from artifact_pipelines.catalog import tables
from artifact_pipelines.cli import app
from artifact_pipelines.errors import SourceError
from artifact_pipelines.integrations.mlflow_source import shown
from artifact_pipelines.integrations.mlflow_store import Item, import_mlflow
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests.databases import Postgres

HERE = Path(__file__).parent
RECORDED = HERE / "integrations" / "recorded" / "mlflow.sql"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with open_registry(home) as opened:
        yield opened


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return unpacked(tmp_path / "store")


def unpacked(folder: Path) -> Path:
    """Return a store that MLflow 3.17 made, without the tables that are not read."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "mlflow.db")) as conn:
        conn.executescript(RECORDED.read_text().replace("BASE", folder.as_uri()))
        (place,) = conn.execute("SELECT artifact_uri FROM runs WHERE name = 'bold run'").fetchone()
    model = Path(place.removeprefix("file://")) / "model"
    model.mkdir(parents=True)
    (model / "model.pkl").write_bytes(b"weights")
    return folder / "mlflow.db"


def outcomes(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.kind, item.outcome) for item in items]


EXPECTED = ["run", "dataset", "checkpoint", "run", "run", "model", "model", "alias", "alias"]


def content(place: Path) -> dict[str, bytes]:
    """Return the bytes of a file, or of all files of a folder."""
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def check(registry: Registry, source: str, place: Path) -> None:
    """Import what `mlflow_maker` made, twice, and look at it."""
    before = content(place)
    planned = import_mlflow(None, source, "p")
    first = import_mlflow(registry, source, "p")
    leaves = len(registry.catalog.read(_leaves))
    second = import_mlflow(registry, source, "p")
    runs = {view.artifact.record.facts["mlflow"]["name"]: view for view in registry.runs("p")}
    bold, nested = runs["bold run"], runs["nested"]
    (saved,) = bold.checkpoints
    (model,) = registry.models("p")
    history = registry.read(bold.artifact.id, "metrics.jsonl").splitlines()

    assert [item.kind for item in first] == EXPECTED
    assert {item.outcome for item in planned} == {"planned", "skipped"}
    assert outcomes(second) == [
        (kind, "known" if outcome == "imported" else outcome) for kind, outcome in outcomes(first)
    ]
    assert leaves == len(registry.catalog.read(_leaves))
    assert dict(bold.artifact.record.params) == {"lr": "0.1", "depth": "3"}
    assert bold.artifact.record.facts["mlflow"]["tags"] == {"team": "vision"}
    assert (bold.state, nested.state, nested.reason) == (
        "finished",
        "failed",
        "MLflow says FAILED.",
    )
    assert saved.step == 2
    assert saved.metrics["loss"] == pytest.approx(1 / 3)
    assert saved.metrics["broken"] != saved.metrics["broken"]
    assert [json.loads(line)["step"] for line in history] == [1, 0, 1, 2]
    assert registry.read(model.id, "model/model.pkl") == b"weights"
    assert registry.aliases("p") == {"champion": model}
    assert {note.text.split(",")[0] for note in registry.annotations(model.id)} == {
        *("MLflow: digits version 1", "MLflow: digits version 2")
    }
    assert registry.tags(model.id) == {"task": "vision"}
    edges = [(edge.role, edge.kind) for edge in registry.lineage(nested.artifact.id)]
    assert ("parent_run", "declared") in edges
    (rows,) = registry.datasets("p")
    assert rows.record.facts["sources"] == [{"uri": "s3://data/rows", "version": "3efaaf32"}]
    assert json.loads(registry.read(rows.id, "mlflow.json"))["profile"]["features_shape"] == [3, 2]
    edges = [(edge.role, edge.kind) for edge in registry.lineage(bold.artifact.id)]
    assert edges == [("dataset:rows", "declared")]
    trained = registry.search(f"kind = model and dataset = '{rows.reference}'")
    assert [found.id for found in trained] == [model.id]
    skipped = {item.said for item in first if item.outcome == "skipped"}
    assert any("RUNNING" in said for said in skipped)
    assert any("is a stage, which moves with proof only" in said for said in skipped)
    assert content(place) == before


def _leaves(conn: sa.Connection) -> list[int]:
    return list(conn.execute(sa.select(tables.leaf.c.seq)).scalars())


def test_a_recorded_store_is_brought_in_once(registry: Registry, recorded: Path) -> None:
    check(registry, str(recorded), recorded)


def test_a_database_is_also_named_by_a_url(registry: Registry, recorded: Path) -> None:
    check(registry, f"sqlite:///{recorded}", recorded)


@pytest.fixture
def python() -> str:
    """An interpreter that has MLflow."""
    found = os.environ.get("MLFLOW_PYTHON")
    if found is None and importlib.util.find_spec("mlflow") is None:
        pytest.skip("MLflow is not installed; name an interpreter that has it in MLFLOW_PYTHON")
    return found or sys.executable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where MLflow keeps what it makes."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def make(python: str, folder: Path, uri: str) -> None:
    maker = HERE / "integrations" / "mlflow_maker.py"
    subprocess.run([python, "-W", "ignore", str(maker), uri], cwd=folder, env=QUIET, check=True)


QUIET = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}


@pytest.mark.integrations
@pytest.mark.timeout(300)
def test_a_database_that_mlflow_makes_is_brought_in_once(
    registry: Registry, python: str, folder: Path
) -> None:
    make(python, folder, f"sqlite:///{folder}/mlflow.db")

    check(registry, str(folder / "mlflow.db"), folder / "mlflow.db")


@pytest.mark.integrations
@pytest.mark.timeout(300)
def test_a_folder_that_mlflow_makes_is_brought_in_once(
    registry: Registry, python: str, folder: Path
) -> None:
    make(python, folder, (folder / "mlruns").as_uri())

    check(registry, str(folder / "mlruns"), folder)


@pytest.mark.integrations
@pytest.mark.timeout(300)
def test_a_postgres_store_that_mlflow_makes_is_brought_in_once(
    registry: Registry, python: str, folder: Path, postgres: Postgres
) -> None:
    url = postgres.database()
    make(python, folder, url)

    check(registry, url, folder)


@pytest.fixture
def server(python: str, folder: Path) -> Iterator[str]:
    """A tracking server that keeps its artifacts to itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "kept")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=QUIET, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urlopen(f"{address}/health", timeout=5).close()  # noqa: S310 (ours)
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.integrations
@pytest.mark.timeout(300)
def test_what_an_mlflow_server_keeps_is_brought_in_once(
    registry: Registry, python: str, folder: Path, server: str
) -> None:
    make(python, folder, server)

    check(registry, server, folder / "kept")


class _Answers(BaseHTTPRequestHandler):
    """A server that is none of MLflow's."""

    said = (200, b"<html>hello</html>")

    def do_GET(self) -> None:
        code, body = self.said
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    "said, expected",
    [
        ((200, b"<html>hello</html>"), "is no MLflow server: it did not answer in JSON"),
        ((404, b"no"), "answered 404 for .*; is this the address of an MLflow server"),
        ((401, b"no"), "answered 401 .*MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_server_that_is_none_of_mlflows_is_named(
    registry: Registry, said: tuple[int, bytes], expected: str
) -> None:
    handler = type("Answers", (_Answers,), {"said": said})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://somebody:secret@127.0.0.1:{server.server_port}"
        with pytest.raises(SourceError, match=expected) as refused:
            import_mlflow(registry, address, "p")
        server.shutdown()

    assert "secret" not in str(refused.value)
    with pytest.raises(SourceError, match="cannot be reached"):
        import_mlflow(registry, address, "p")


def test_a_password_is_not_shown() -> None:
    assert shown("postgresql://me:secret@db:5432/mlflow") == "postgresql://me@db:5432/mlflow"
    assert shown("https://me:secret@host") == "https://me@host"
    assert shown("/a/mlflow.db") == "/a/mlflow.db"


def test_a_dry_run_and_a_receipt_on_the_command_line(
    home: Path, recorded: Path, tmp_path: Path
) -> None:
    def said(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["import", "mlflow", str(recorded), *words])
        return result.exit_code, result.stdout + result.stderr

    receipt = tmp_path / "receipt.json"
    dry = said("--project", "p", "--dry-run")
    untouched = not home.exists()
    code, text = said("--project", "p", "--receipt", str(receipt), "--json")
    wrong = said("--project", "p", "--experiment", "other")

    assert dry[0] == code == 0
    assert untouched
    assert json.loads(text) == json.loads(receipt.read_text())
    assert set(json.loads(text)) == {"source", "project", "dry_run", "items"}
    assert [item["kind"] for item in json.loads(text)["items"]] == EXPECTED
    assert wrong[0] == 2
    assert "there is no experiment 'other'" in wrong[1]


def test_files_that_are_gone_are_said_and_what_is_no_store_is_refused(
    registry: Registry, recorded: Path, tmp_path: Path
) -> None:
    (file,) = recorded.parent.rglob("model.pkl")
    file.unlink()
    file.parent.rmdir()
    found = import_mlflow(registry, str(recorded), "p")
    (tmp_path / "other.db").write_bytes(b"no database at all, but some text")

    assert ("model", "skipped") in outcomes(found)
    assert ("checkpoint", "imported") not in outcomes(found)
    for source, said in {
        str(tmp_path / "other.db"): "no MLflow database",
        str(tmp_path / "nowhere.db"): "there is no file",
        f"sqlite:///{tmp_path}/nowhere.db": "there is no file",
        str(recorded.parent): "name the folder that is called mlruns",
        "mysql+pymysql://me@db/mlflow": "a store on mysql is not read directly",
        "postgresql://nobody@127.0.0.1:1/mlflow": "is no MLflow database: connection",
        "oh my://": "is no address of an MLflow store",
    }.items():
        with pytest.raises(SourceError, match=said):
            import_mlflow(registry, source, "p")
