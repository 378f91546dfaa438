"""Trainings that died with their Dagster run, closed in the registry with the reason."""

from collections.abc import Iterator

import dagster as dg

from artifact_pipelines.components.project import PROJECT_TAG
from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines.resources import RegistryResource

_PARTITION = "dagster/partition"


@dg.run_failure_sensor(
    name="run_failures",
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Closes a training whose Dagster run has failed and whose process is gone: it is shown as "
        "failed, with the reason, and goes on when it is asked for again."
    ),
)
def run_failures(
    context: dg.RunFailureSensorContext, registry: RegistryResource
) -> dg.SkipReason | None:
    """Close the training that a failed Dagster run has left open."""
    with registry.opened() as opened:
        closed = close_trainings(opened, context.dagster_run, context.failure_event.message or "")
    if closed:
        context.log.info("closed %s", ", ".join(closed))
        return None
    return dg.SkipReason(f"The run {context.dagster_run.run_id[:8]} left no training open.")


def close_trainings(registry: Registry, run: dg.DagsterRun, why: str) -> list[str]:
    """Close what a failed Dagster run was training, and return the training's reference.

    One that a process is at, such as another try, is left to it.
    """
    closed = []
    for project in _projects(run):
        try:
            view = registry.run(project, run.tags.get(_PARTITION, ""))
        except UnknownArtifactError:
            continue
        if view.state == "running" and not registry.in_training(view.artifact):
            reason = f"the Dagster run {run.run_id[:8]} failed: {' '.join(why.split())}"
            registry.finish_run(view.artifact, "failed", reason.strip(": "))
            closed.append(view.artifact.reference)
    return closed


def _projects(run: dg.DagsterRun) -> Iterator[str]:
    if run.tags.get(_PARTITION):
        tagged = run.tags.get(PROJECT_TAG)
        yield from {tagged} if tagged else {key.path[0] for key in run.asset_selection or ()}
