"""The demo tells the whole story, once per home, and says nothing else on standard output."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from artifact_pipelines import demo
from artifact_pipelines.errors import ArtifactError, ConfigurationError, ConflictError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.settings import Settings
from artifact_pipelines_tests.building import dataset

if TYPE_CHECKING:
    from artifact_pipelines_tests.databases import Postgres


def settings(home: Path) -> Settings:
    return Settings.from_environment({"ARTIFACT_PIPELINES_HOME": str(home)})


def run(home: Path, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    script = "from artifact_pipelines.cli import main; main()"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ARTIFACT_PIPELINES_", "DAGSTER_"))
    }
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "ARTIFACT_PIPELINES_HOME": str(home), **more},
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, Any, str]":
    """A home after the demo, its summary, and what was said meanwhile."""
    home = tmp_path_factory.mktemp("demo") / "home"
    done = run(home, "demo", "--json")
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout), done.stderr


pytestmark = pytest.mark.xdist_group("demo")
whole = pytest.mark.timeout(400)


@whole
def test_the_summary_has_its_documented_shape(told: "tuple[Path, Any, str]") -> None:
    _, summary, _ = told
    expected = {
        "production": ["reference", "artifact_id", "content_digest", "metrics", "proof_verified"],
        "rollback": ["from", "to", "seconds"],
        "retention": ["kept", "archived", "forgotten", "bytes_before", "bytes_after"],
        "storage": ["logical_bytes", "stored_bytes"],
        "audit": ["leaves", "root", "verified", "tampering_detected"],
        "gates": ["passed", "failed"],
    }

    assert set(summary) == {"project", "datasets", "runs", "seconds", *expected}
    for name, fields in expected.items():
        assert list(summary[name]) == fields
    for found in summary["datasets"]:
        assert list(found) == ["reference", "content_digest", "rows"]
    for found in summary["runs"]:
        assert {"name", "checkpoints", "resumed_from", "best"} <= set(found)
        assert list(found["best"]) == ["step", "metrics"]


@whole
def test_the_story_is_the_one_that_was_promised(told: "tuple[Path, Any, str]") -> None:
    _, summary, _ = told
    resumed = [found for found in summary["runs"] if found["resumed_from"]]

    assert [found["checkpoints"] for found in summary["runs"]] == [8, 8, 8, 8]
    assert [found["rows"] for found in summary["datasets"]] == [600, 900, 297, 1500]
    assert [found["resumed_exactly"] for found in resumed] == [True]
    assert summary["gates"]["passed"] >= 2
    assert summary["gates"]["failed"] >= 1
    assert summary["production"]["proof_verified"] is True
    assert summary["production"]["reference"] == summary["rollback"]["from"]
    assert summary["rollback"]["to"] != summary["rollback"]["from"]
    assert summary["retention"]["bytes_after"] < summary["retention"]["bytes_before"]
    assert summary["retention"]["forgotten"] > 0
    assert summary["audit"]["verified"] is True
    assert summary["audit"]["tampering_detected"] is True


@whole
def test_the_summary_is_what_the_home_says(told: "tuple[Path, Any, str]") -> None:
    home, summary, _ = told
    with open_registry(home) as registry:
        served = registry.resolve("digits@production").model
        ledger = registry.verify_ledger()

        assert summary["production"]["artifact_id"] == served.id
        assert summary["storage"]["stored_bytes"] == sum(
            path.stat().st_size for path in (home / "store/packs").rglob("*") if path.is_file()
        )
        assert ledger.ok
        assert ledger.leaves >= summary["audit"]["leaves"]


@whole
def test_the_steps_are_told_without_the_noise_of_others(told: "tuple[Path, Any, str]") -> None:
    _, _, said = told

    assert "production refused it" in said
    assert "Traceback" not in said
    assert "DEBUG" not in said
    assert "Calculating Metrics" not in said
    assert len(said.splitlines()) < 100


@whole
def test_a_second_demo_says_how_to_start_over(told: "tuple[Path, Any, str]") -> None:
    home, _, _ = told
    done = run(home, "demo", "--json")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "artifact-pipelines demo --fresh" in done.stderr


@whole
def test_at_most_twenty_dagster_runs(told: "tuple[Path, Any, str]") -> None:
    import dagster as dg

    home, _, _ = told
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        runs = instance.get_runs()

    assert 10 <= len(runs) <= 20
    assert {run.job_name for run in runs} >= {
        f"digits_{name}"
        for name in ("datasets", "train", "promote_staging", "promote_production", "retention")
    }


def test_a_home_of_somebody_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_registry(home) as registry:
        dataset(registry)
    for act in (
        lambda: demo.run_demo(settings(home), print),
        lambda: demo.clear_demo(settings(home)),
    ):
        with pytest.raises(ArtifactError, match="ARTIFACT_PIPELINES_HOME"):
            act()

    assert projects(home) == ["digits"]


def test_starting_over_removes_only_what_the_demo_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_registry(home) as registry:
        dataset(registry)
    (home / demo.MARK).touch()
    (home / "thesis.tex").write_text("years of work")
    demo.clear_demo(settings(home))

    assert [path.name for path in home.iterdir()] == ["thesis.tex"]


def test_starting_over_keeps_a_home_with_other_projects(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_registry(home) as registry:
        registry.publish_dataset("mine", "images", {"data.csv": b"1"}, facts={"rows": 1})
    (home / demo.MARK).touch()
    with pytest.raises(ConflictError, match="also holds mine"):
        demo.clear_demo(settings(home))

    assert projects(home) == ["mine"]


def test_starting_over_where_nothing_is_does_nothing(tmp_path: Path) -> None:
    demo.clear_demo(settings(tmp_path / "home"))

    assert not (tmp_path / "home").exists()


def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("in the way")
    with pytest.raises(ConfigurationError, match="is not a folder"):
        demo.run_demo(settings(home), print)


def test_without_scikit_learn_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"artifact-pipelines\[demo\]"):
        demo.run_demo(settings(tmp_path / "home"), print)

    assert not (tmp_path / "home").exists()


def test_without_a_checkout_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        demo, "__file__", str(tmp_path / "site-packages/artifact_pipelines/demo.py")
    )
    with pytest.raises(ConfigurationError, match="needs a checkout"):
        demo.run_demo(settings(tmp_path / "home"), print)

    assert not (tmp_path / "home").exists()


def projects(home: Path) -> list[str]:
    with open_registry(home) as registry:
        assert isinstance(registry, Registry)
        return registry.projects()


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_the_story_is_told_on_postgres_and_s3_too(
    postgres: "Postgres", s3_url: str, tmp_path: Path
) -> None:
    home, catalog = tmp_path / "home", postgres.catalog()
    done = run(
        home,
        *("demo", "--json"),
        ARTIFACT_PIPELINES_CATALOG_URL=catalog,
        ARTIFACT_PIPELINES_STORE_URL=s3_url,
    )

    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["audit"]["verified"]
    assert summary["production"]["proof_verified"]
    assert summary["retention"]["forgotten"] > 0
    assert not (home / "catalog.db").exists()
    assert not (home / "store").exists()
    with open_registry(home, catalog_url=catalog, store_url=s3_url) as registry:
        assert registry.verify(summary["production"]["reference"]).ok
        assert registry.scrub().ok
