"""A run name trains once; what a trainer does wrong is one sentence, and nothing is lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from artifact_pipelines.components.declaration import Dataset
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.resources import PodTrainer
from artifact_pipelines_tests.cluster import Cluster, serving
from artifact_pipelines_tests.world import PROJECT, SAMPLE, World, fields


def trained(world: World, run: str = "run-1", **config: object) -> None:
    world.materialize("datasets")
    outcome = world.materialize("train", run, train=config)
    assert outcome.success, outcome.failure


def test_a_run_is_trained_reported_and_judged(world: World) -> None:
    world.apart = True
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1")

    assert outcome.assets() == ["training_run", "checkpoints", "candidate"]
    with world.registry() as registry:
        view = registry.run(PROJECT, "run-1")
        assert view.state == "finished"
        assert [found.step for found in view.checkpoints] == [1, 2, 3]
        annex = registry.annex(view.artifact) or {}
        assert annex["dagster_run"] == outcome.result.run_id
        assert annex["dagster_events"][f"{PROJECT}/rows"]["storage_id"] > 0
        assert len(view.artifact.record.code["version"]) == 12
    assert outcome.version("training_run") == view.artifact.id
    shown = outcome.shown("checkpoints")
    assert (shown["checkpoints"], shown["last_step"], shown["accuracy"]) == (3, 3, 0.3)
    assert [row.data["step"] for row in shown["table"].records] == [1, 2, 3]
    assert "data:image/svg+xml;base64," in shown["curve"]


def test_a_complete_run_is_shown_again_and_not_trained(world: World) -> None:
    trained(world)
    world.materialize("datasets", rows={"params": {"rows": 9}})
    world.change(params={"epochs": 5})
    outcome = world.materialize("train", "run-1")

    assert outcome.success
    assert outcome.shown("checkpoints")["last_step"] == 3


def test_a_complete_run_is_not_shown_to_somebody_who_asked_for_another(world: World) -> None:
    trained(world)
    trained(world, "run-2")
    same = world.materialize("train", "run-1", train={"params": {"epochs": 3}})
    params = world.materialize("train", "run-1", train={"params": {"epochs": 5}})
    resume = world.materialize("train", "run-1", train={"resume_from": "churn/run-2@2"})
    world.materialize("datasets", rows={"params": {"rows": 9}})
    data = world.materialize("train", "run-1", train={"inputs": {"rows": "churn/rows@2"}})

    assert same.success
    for outcome, what in ((params, "parameters"), (resume, "resume_from"), (data, "data")):
        assert f"has trained with other {what}; a run name trains once" in outcome.failure
        assert outcome.assets() == []


def test_an_older_dataset_version_can_be_asked_for(world: World) -> None:
    world.materialize("datasets")
    world.materialize("datasets", rows={"params": {"rows": 9}})
    world.materialize("train", "run-1", train={"inputs": {"rows": "churn/rows@1"}})
    world.materialize("train", "run-2")

    with world.registry() as registry:
        roles = [
            [
                registry.get(item.id).reference
                for item in registry.find(f"churn/{run}").record.inputs
            ]
            for run in ("run-1", "run-2")
        ]
    assert roles == [["churn/rows@1"], ["churn/rows@2"]]


def test_a_trainer_that_raises_leaves_its_checkpoints_and_fails_the_run(world: World) -> None:
    world.apart = True
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1", train={"params": {"end": "raise"}})

    assert outcome.assets() == ["checkpoints"]
    assert outcome.shown("checkpoints")["checkpoints"] == 3
    assert outcome.failure.startswith("the training run churn/run-1 failed: ")
    assert "RuntimeError: out of luck" in outcome.failure
    with world.registry() as registry:
        assert registry.run(PROJECT, "run-1").state == "failed"


def test_an_interrupted_run_goes_on_as_it_was_begun(world: World) -> None:
    world.apart = True
    world.materialize("datasets")
    killed = world.materialize("train", "run-1", train={"params": {"end": "killed"}})
    with world.registry() as registry:
        reason = registry.run(PROJECT, "run-1").reason
    world.materialize("datasets", rows={"params": {"rows": 9}})
    world.change(params={"epochs": 9})
    other = world.materialize("train", "run-1", train={"params": {"epochs": 4}})
    again = world.materialize("train", "run-1")

    assert "signal SIGKILL" in killed.failure
    assert "signal SIGKILL" in reason
    assert "begun with other parameters" in other.failure
    assert "signal SIGKILL" in again.failure
    assert again.shown("checkpoints")["last_step"] == 3


def test_a_run_resumes_from_a_checkpoint_of_another(world: World) -> None:
    trained(world)
    outcome = world.materialize(
        "train", "run-2", train={"params": {"epochs": 4}, "resume_from": "churn/run-1@2"}
    )

    assert outcome.success
    with world.registry() as registry:
        assert [found.step for found in registry.checkpoints(PROJECT, "run-2")] == [3, 4]


def test_a_parameter_that_the_project_does_not_declare_trains_nothing(world: World) -> None:
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1", train={"params": {"epcohs": 4}})

    assert "churn declares no parameter 'epcohs'; it declares epochs, seed, end" in outcome.failure
    with world.registry() as registry:
        assert registry.runs(PROJECT) == []


def test_a_trainer_that_saves_nothing_fails_with_a_sentence(world: World) -> None:
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1", train={"params": {"epochs": 0}})

    assert "saved no checkpoint" in outcome.failure
    assert outcome.assets() == []


def test_a_run_without_data_names_the_dataset(world: World) -> None:
    outcome = world.materialize("train", "run-1")

    assert "the dataset churn/rows has no version yet; materialize it first" in outcome.failure


def test_an_unknown_input_is_named(world: World) -> None:
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1", train={"inputs": {"raws": "churn/rows@1"}})

    assert "churn has no dataset 'raws'; it has rows" in outcome.failure


def test_no_run_takes_evaluation_data_for_its_own(world: World) -> None:
    kept = Dataset(name="kept", load=f"{SAMPLE}:table")
    world.change(datasets=[*fields()["datasets"], kept], evaluation="kept")
    world.materialize("datasets")
    swapped = world.materialize("train", "run-1", train={"inputs": {"rows": "churn/kept@1"}})
    added = world.materialize("train", "run-1", train={"inputs": {"kept": "churn/kept@1"}})

    assert "churn/kept@1 is no version of the dataset churn/rows" in swapped.failure
    assert "models of churn are measured on kept, so none is trained on it" in added.failure


def test_a_name_that_breaks_the_rules_trains_nothing(world: World) -> None:
    outcome = world.materialize("train", "run/1")

    assert outcome.failure.startswith("run name 'run/1' must have")


def test_a_launch_without_a_partition_says_what_to_do(world: World) -> None:
    outcome = world.materialize("train")

    assert outcome.failure.startswith("choose one training run of churn to materialize")


def test_only_a_new_version_of_the_set_makes_what_depends_on_it_stale(world: World) -> None:
    trained(world)
    first = world.materialize("train", "run-1").version("checkpoints")
    again = world.materialize("train", "run-1").version("checkpoints")
    other = world.materialize("train", "run-2", train={"params": {"epochs": 2}})

    assert first == again != other.version("checkpoints")


def test_a_training_carries_the_tags_that_limit_it(world: World) -> None:
    world.change(pool="gpu")
    definitions = world.definitions()
    job = definitions.resolve_job_def(f"{PROJECT}_train")

    assert job.tags["artifact_pipelines/kind"] == "training"
    assert job.tags["artifact_pipelines/project"] == PROJECT
    assert definitions.resolve_assets_def(dg.AssetKey([PROJECT, "checkpoints"])).op.pool == "gpu"


def test_a_run_that_another_process_trains_is_left_to_it(world: World) -> None:
    world.materialize("datasets")
    with world.registry() as registry:
        rows = registry.find(f"{PROJECT}/rows@latest")
        inputs = [Input("dataset:rows", rows.id)]
        begun = registry.start_run(PROJECT, "run-1", params={"epochs": 3}, inputs=inputs)
        with registry.sole_trainer(begun):
            outcome = world.materialize("train", "run-1")
            state = registry.run(PROJECT, "run-1").state
    again = world.materialize("train", "run-1")

    assert "churn/run-1 is being trained by another process; wait until it ends" in outcome.failure
    assert state == "running"
    assert again.success, again.failure


def test_metrics_between_checkpoints_are_shown_as_it_goes_and_kept(world: World) -> None:
    world.apart = True
    world.change(train=f"{SAMPLE}:talkative")
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1")
    said = [event.message for event in outcome.logged() if event.message.startswith("step ")]
    with world.registry() as registry:
        kept = registry.read("churn/run-1@4", "metrics.jsonl").splitlines()
        (model,) = registry.models(PROJECT)
        served = {file.path for file in registry.files(model.id)}

    assert outcome.success, outcome.failure
    assert said == ["step 1: loss 1"]
    assert [json.loads(line) for line in kept] == [
        {"metrics": {"loss": 1 / 3}, "step": 3},
        {"metrics": {"loss": 0.25}, "step": 4},
    ]
    assert served == {"model.safetensors"}


# In a pod

TEMPLATE = """
apiVersion: v1
kind: PodTemplate
metadata: {name: training}
template:
  metadata: {namespace: here, labels: {app: training}}
  spec:
    containers:
      - {name: training, image: training, env: [{name: NOTED, value: "yes"}]}
"""


@pytest.fixture
def cluster(world: World, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster in which the world's trainings are pods."""
    template = tmp_path / "training.yaml"
    template.write_text(TEMPLATE)
    with serving(tmp_path / "cluster") as (found, kubeconfig):
        world.trainer = PodTrainer(template=str(template), kubeconfig=str(kubeconfig), seconds=0.2)
        yield found


def test_a_pod_trains_and_is_followed(world: World, cluster: Cluster) -> None:
    world.change(train=f"{SAMPLE}:talkative")
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1")
    said = [event.message for event in outcome.logged()]
    (pod,) = cluster.pods.values()
    (main,) = pod["spec"]["containers"]

    assert outcome.success, outcome.failure
    assert outcome.shown("checkpoints")["checkpoints"] == 2
    assert "step 1: loss 1" in said
    assert pod["spec"]["restartPolicy"] == "Never"
    assert main["image"] == "training"
    assert {"name": "NOTED", "value": "yes"} in main["env"]
    assert cluster.deleted == [pod["metadata"]["name"]]


def test_why_a_pod_failed_is_its_own_sentence(world: World, cluster: Cluster) -> None:
    world.materialize("datasets")
    raised = world.materialize("train", "run-1", train={"params": {"end": "raise"}})
    killed = world.materialize("train", "run-2", train={"params": {"end": "killed"}})
    cluster.refuses = 403
    refused = world.materialize("train", "run-3")

    assert "RuntimeError: out of luck" in raised.failure
    assert raised.shown("checkpoints")["checkpoints"] == 3
    assert "the pod that trained failed: " in killed.failure
    assert killed.shown("checkpoints")["checkpoints"] == 3
    assert "could not be run: Kubernetes answered 403" in refused.failure
    assert len(cluster.deleted) == len(cluster.pods) == 2


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "cannot be read"),
        ("a: [", "cannot be read"),
        ("kind: Pod", "is no PodTemplate of Kubernetes"),
        ("{kind: PodTemplate, template: {spec: {containers: [{}]}}}", "names no image"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(
    tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "training.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        PodTrainer(template=str(file)).pod()
