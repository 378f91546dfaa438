"""What an MLflow store holds is brought in once, as it was, or its absence is explained."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from artifact_pipelines.catalog import tables
from artifact_pipelines.cli import app
from artifact_pipelines.errors import SourceError
from artifact_pipelines.integrations.mlflow_store import Item, import_mlflow
from artifact_pipelines.registry import Registry, open_registry

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
    """A store that MLflow 3.17 made, without the tables that are not read."""
    folder = tmp_path / "store"
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


EXPECTED = ["run", "checkpoint", "run", "run", "model", "model", "alias", "alias"]


def check(registry: Registry, database: Path) -> None:
    """Import what `mlflow_maker` made, twice, and look at it."""
    before = database.read_bytes()
    planned = import_mlflow(None, database, "p")
    first = import_mlflow(registry, database, "p")
    leaves = len(registry.catalog.read(_leaves))
    second = import_mlflow(registry, database, "p")
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
    edges = [(edge.role, edge.kind) for edge in registry.lineage(nested.artifact.id)]
    assert ("parent_run", "declared") in edges
    skipped = {item.said for item in first if item.outcome == "skipped"}
    assert any("RUNNING" in said for said in skipped)
    assert any("is a stage, which moves with proof only" in said for said in skipped)
    assert database.read_bytes() == before


def _leaves(conn: sa.Connection) -> list[int]:
    return list(conn.execute(sa.select(tables.leaf.c.seq)).scalars())


def test_a_recorded_store_is_brought_in_once(registry: Registry, recorded: Path) -> None:
    check(registry, recorded)


@pytest.mark.integrations
@pytest.mark.timeout(180)
def test_a_store_that_mlflow_makes_is_brought_in_once(registry: Registry, tmp_path: Path) -> None:
    python = os.environ.get("MLFLOW_PYTHON")
    if python is None and importlib.util.find_spec("mlflow") is None:
        pytest.skip("MLflow is not installed; name an interpreter that has it in MLFLOW_PYTHON")
    folder = tmp_path / "store"
    folder.mkdir()
    maker = HERE / "integrations" / "mlflow_maker.py"
    subprocess.run([python or sys.executable, str(maker)], cwd=folder, check=True)

    check(registry, folder / "mlflow.db")


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
    found = import_mlflow(registry, recorded, "p")
    (tmp_path / "other.db").write_bytes(b"no database at all, but some text")

    assert ("model", "skipped") in outcomes(found)
    assert ("checkpoint", "imported") not in outcomes(found)
    with pytest.raises(SourceError, match="no MLflow database"):
        import_mlflow(registry, tmp_path / "other.db", "p")
    with pytest.raises(SourceError, match="there is no file"):
        import_mlflow(registry, tmp_path / "nowhere.db", "p")
