"""What is handed on can be read without us, and is what was registered."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from artifact_pipelines.errors import ConflictError, UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.registry.test_evaluating import holdout, policy, train


def test_a_project_is_exported_with_records_that_have_their_ids(
    registry: Registry, tmp_path: Path
) -> None:
    building.promoted(registry, "a")
    found = registry.export("digits", tmp_path / "out")
    model = registry.find("digits@production")
    folder = tmp_path / "out" / "model" / "digits_v1"
    manifest = json.loads((folder / "manifest.json").read_bytes())

    assert {one.reference for one in found} == {
        *("digits/images@1", "digits/a", "digits/a@0", "digits/a@1", "digits/a@2", "digits/v1")
    }
    assert hashlib.sha256((folder / "record.json").read_bytes()).hexdigest() == model.id
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == model.content
    for entry in manifest["files"]:
        data = (folder / "files" / entry["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    (edge, *_) = json.loads((folder / "edges.json").read_text())
    assert (edge["parent"], edge["kind"]) == ("digits/a@2", "observed")
    with pytest.raises(ConflictError, match="not empty"):
        registry.export("digits/v1", tmp_path / "out")


def test_a_model_card_says_what_it_was_made_from(registry: Registry) -> None:
    building.promoted(registry, "a")
    text = registry.model_card("digits@production")
    _, head, body = text.split("---\n", 2)

    assert "model-index" not in yaml.safe_load(head)
    assert registry.find("digits@production").id in body
    assert "checkpoint: digits/a@2" in body
    assert "digits/images@1: licence unknown" in body
    assert "## Measured while it trained" in body
    assert "| accuracy | 0.2 |" in body


def test_a_model_card_tells_what_gates_measured_from_what_a_trainer_says(
    registry: Registry,
) -> None:
    registry.set_policy("digits", policy())
    holdout(registry)
    train(registry, "run-1", {0.8: 0.7})
    registry.evaluate("digits", "run-1")
    _, head, body = registry.model_card("digits/v1").split("---\n", 2)
    (result,) = yaml.safe_load(head)["model-index"][0]["results"]

    assert result["dataset"]["name"] == "digits/holdout@1"
    assert [(one["name"], round(one["value"], 6)) for one in result["metrics"]] == [("score", 0.7)]
    evaluated, trained = body.index("## Evaluated on digits/holdout@1"), body.index("## Measured")
    assert evaluated < body.index("| score | 0.7 |") < trained < body.index("| accuracy | 0.8 |")


def test_the_events_of_a_run_have_its_inputs_and_what_it_made(registry: Registry) -> None:
    building.run(registry, "a")
    registry.start_run("digits", "live")
    start, end = registry.run_events("digits/a")

    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == end["run"]["runId"]
    assert [item["name"] for item in end["inputs"]] == ["digits/images@1"]
    assert len(end["outputs"]) == 3
    assert len(registry.run_events("digits/live")) == 1
    with pytest.raises(UnknownArtifactError, match="no training run"):
        registry.run_events("digits/a@1")
