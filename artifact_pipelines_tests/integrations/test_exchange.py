"""What we write for other tools is what their own libraries read."""

import json
from pathlib import Path

import pytest

from artifact_pipelines.registry import open_registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.registry.test_evaluating import holdout, policy, train

pytestmark = pytest.mark.integrations


def test_hugging_face_reads_the_model_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    with open_registry(tmp_path / "home", actor="tester") as registry:
        registry.set_policy("digits", policy())
        holdout(registry)
        train(registry, "run-1", {0.8: 0.7})
        registry.evaluate("digits", "run-1")
        card = ModelCard(registry.model_card("digits/v1"))

    assert card.data.model_name == "digits/v1"
    (result,) = card.data.eval_results
    assert result.metric_type == "score"
    assert result.metric_value == pytest.approx(0.7)
    assert result.dataset_name == "digits/holdout@1"
    assert card.data.library_name == "artifact-pipelines"


def test_openlineage_reads_the_events(tmp_path: Path) -> None:
    from openlineage.client.event_v2 import Dataset, Job, Run, RunEvent, RunState
    from openlineage.client.serde import Serde

    with open_registry(tmp_path / "home", actor="tester") as registry:
        building.run(registry, "a")
        events = registry.run_events("digits/a")
    for event in events:
        made = RunEvent(
            eventType=RunState[event["eventType"]],
            eventTime=event["eventTime"],
            run=Run(runId=event["run"]["runId"]),
            job=Job(namespace=event["job"]["namespace"], name=event["job"]["name"]),
            producer=event["producer"],
            inputs=[
                Dataset(namespace=one["namespace"], name=one["name"]) for one in event["inputs"]
            ],
        )

        again = json.loads(Serde.to_json(made))
        assert again["run"]["runId"] == event["run"]["runId"]
        assert [one["name"] for one in again["inputs"]] == ["digits/images@1"]
