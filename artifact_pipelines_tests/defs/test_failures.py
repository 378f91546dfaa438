"""A training that died with its Dagster run is closed with the reason, and only such a one."""

import dagster as dg

from artifact_pipelines.defs.failures import close_trainings, run_failures
from artifact_pipelines.domain.record import Input
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines_tests.world import PROJECT, World


def begun(registry: Registry) -> Artifact:
    rows = registry.find(f"{PROJECT}/rows@latest")
    return registry.start_run(
        PROJECT, "run-1", params={"epochs": 3}, inputs=[Input("dataset:rows", rows.id)]
    )


def failed_run(world: World, partition: str | None) -> dg.DagsterRun:
    job = world.definitions().resolve_job_def(f"{PROJECT}_train")
    tags = {**job.tags, **({"dagster/partition": partition} if partition else {})}
    return world.instance.create_run_for_job(
        job_def=job, status=dg.DagsterRunStatus.FAILURE, tags=tags
    )


def test_a_training_that_died_is_closed_once_and_goes_on(world: World) -> None:
    world.materialize("datasets")
    run = failed_run(world, "run-1")
    with world.registry() as registry:
        begun(registry)
        closed = close_trainings(registry, run, "its process\nhas died")
        again = close_trainings(registry, run, "its process has died")
        view = registry.run(PROJECT, "run-1")
    on = world.materialize("train", "run-1")

    assert closed == ["churn/run-1"]
    assert again == []
    assert view.state == "failed"
    assert view.reason == f"the Dagster run {run.run_id[:8]} failed: its process has died"
    assert on.success, on.failure


def test_a_training_that_a_process_is_at_is_left_to_it(world: World) -> None:
    world.materialize("datasets")
    with world.registry() as registry:
        artifact = begun(registry)
        with registry.sole_trainer(artifact):
            closed = close_trainings(registry, failed_run(world, "run-1"), "")

    assert closed == []


def test_a_failed_run_without_a_training_closes_nothing(world: World) -> None:
    world.materialize("datasets")
    with world.registry() as registry:
        begun(registry)
        assert close_trainings(registry, failed_run(world, "run-2"), "") == []
        assert close_trainings(registry, failed_run(world, None), "") == []


def test_the_sensor_runs_by_itself_and_says_what_it_is_for() -> None:
    assert run_failures.default_status == dg.DefaultSensorStatus.RUNNING
    assert "Closes a training" in str(run_failures.description)
