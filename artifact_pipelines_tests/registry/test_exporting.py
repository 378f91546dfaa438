"""What is handed on can be read without us, and is what was registered."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from artifact_pipelines.errors import ConflictError, UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building


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
    card = yaml.safe_load(head)

    assert card["model-index"][0]["results"][0]["metrics"] == [
        {"type": "accuracy", "name": "accuracy", "value": 0.2}
    ]
    assert registry.find("digits@production").id in body
    assert "checkpoint: digits/a@2" in body
    assert "digits/images@1: licence unknown" in body


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
