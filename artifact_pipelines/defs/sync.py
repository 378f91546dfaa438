"""Dagster's view of a project, made anew from the catalog: what is missing, and nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass

import dagster as dg

from artifact_pipelines.components.project import runs_of
from artifact_pipelines.defs.mirror import AssetEvent, Mirror
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import Registry


@dataclass(frozen=True, slots=True)
class Synced:
    """What was missing from Dagster's view of a project.

    Attributes:
        project: The project.
        added: The partitions that were added: runs that Dagster had not heard of.
        removed: The partitions that were removed: runs of which nothing is kept.
        events: How many materializations, observations and checks were reported.
        busy: The runs that were passed over, because a Dagster run is at work on them.
    """

    project: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    events: int
    busy: tuple[str, ...]


def sync(registry: Registry, instance: dg.DagsterInstance, project: str) -> Synced:
    """Report to Dagster what the catalog holds of a project and Dagster does not show.

    A partition of a name that the catalog does not know is somebody's wish, and stays.
    """
    mirror = Mirror(registry, instance)
    partitions = str(runs_of(project).name)
    known = set(instance.get_dynamic_partitions(partitions))
    views = registry.runs(project)
    retired = {view.artifact.name for view in views if mirror.is_retired(view)}
    names = [view.artifact.name for view in views]
    added = [name for name in names if name not in known and name not in retired]
    removed = [name for name in names if name in known and name in retired]
    if added:
        instance.add_dynamic_partitions(partitions, added)
    events, busy = _of_runs(mirror, project, [n for n in names if n in known or n not in retired])
    for dataset in dict.fromkeys(found.name for found in registry.datasets(project)):
        events += mirror.dataset(project, dataset)
    for stage in registry.stages(project):
        events += mirror.stage(project, stage)
    for event in events:
        instance.report_runless_asset_event(event)
    for name in removed:
        instance.delete_dynamic_partition(partitions, name)
    return Synced(project, tuple(added), tuple(removed), len(events), tuple(busy))


def _of_runs(
    mirror: Mirror, project: str, names: Iterable[str]
) -> tuple[list[AssetEvent], list[str]]:
    """Return what Dagster does not show of some runs, and those that it is at work on."""
    try:
        policy = mirror.registry.policy(project)
    except ArtifactError:
        policy = None  # nothing has been judged, so there is no verdict to show
    events: list[AssetEvent] = []
    busy = []
    for name in names:
        if mirror.busy(project, name) is not None:
            busy.append(name)
            continue
        events += mirror.run(project, name)
        if policy is not None:
            events += mirror.candidate(project, name, policy)
    return events, busy
