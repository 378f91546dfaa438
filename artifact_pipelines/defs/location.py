"""What a code location adds to the projects in it: jobs, nightly schedules, the event sensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from artifact_pipelines.components.candidates import POLICY
from artifact_pipelines.components.project import (
    ALL_ASSETS_JOB,
    PROJECT_TAG,
    TRAINING,
    identifier,
    job_name,
    run_tags,
)
from artifact_pipelines.components.training import PARAMS
from artifact_pipelines.defs.events import event_sensor
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.fanning import VALUES, StepValues, executor
from artifact_pipelines.registry.sweeping import Outline
from artifact_pipelines.resources import RegistryResource, trainer
from artifact_pipelines.settings import Settings

MOST_PROJECTS_WITH_JOBS = 24
"""Dagster takes longer over each job the more assets there are; beyond this, none is named."""

_NIGHTLY = (
    ("retention_plan", "30 2 * * *", "Make the retention plans every night; people approve them."),
    ("cleanup", "30 3 * * *", "Carry out the approved retention plans every night."),
)


@dataclass(frozen=True, slots=True)
class Place:
    """What a code location holds of one project.

    Attributes:
        policy: Its policy.
        outline: What its runs may be asked for.
        datasets: The names of its datasets.
        stages: The names of its stages.
    """

    policy: Policy
    outline: Outline
    datasets: tuple[str, ...]
    stages: tuple[str, ...]


def places(definitions: dg.Definitions) -> dict[str, Place]:
    """Return the projects that some definitions hold, by name."""
    specs: dict[str, list[dg.AssetSpec]] = {}
    for assets in definitions.assets or ():
        for spec in assets.specs if isinstance(assets, dg.AssetsDefinition) else ():
            if PROJECT_TAG in spec.tags:
                specs.setdefault(spec.tags[PROJECT_TAG], []).append(spec)
    found = {}
    for project, mine in specs.items():
        run, candidate = (
            next(spec for spec in mine if spec.key.path[-1] == asset)
            for asset in (TRAINING[0], TRAINING[-1])
        )
        datasets = tuple(spec.key.path[-1] for spec in mine if "dataset" in spec.kinds)
        found[project] = Place(
            Policy.of(_told(candidate, POLICY)),
            Outline(
                params=_told(run, PARAMS),
                datasets=datasets,
                trained_on=tuple(dep.asset_key.path[-1] for dep in run.deps),
            ),
            datasets,
            tuple(spec.key.path[-1] for spec in mine if "stage" in spec.kinds),
        )
    return found


def _told(spec: dg.AssetSpec, name: str) -> dict[str, Any]:
    """Return what an asset's metadata say of its project."""
    value = spec.metadata[name]
    if not isinstance(value, dg.JsonMetadataValue) or not isinstance(value.data, dict):
        raise TypeError(f"{name!r} of {spec.key.to_user_string()} was replaced by another value.")
    return value.data


def carried(definitions: dg.Definitions, location: str) -> dg.Definitions:
    """Return what the projects in some definitions need beside their assets.

    Args:
        definitions: Everything in the code location, projects and other assets.
        location: The name of the code location.
    """
    settings = Settings.from_environment()
    resources = {
        "registry": RegistryResource(),
        "trainer": trainer(settings),
        VALUES: StepValues(),
    }
    missing = resources.keys() - (definitions.resources or {}).keys()
    found = places(definitions)
    name = identifier(location)
    few = len(found) <= MOST_PROJECTS_WITH_JOBS
    return dg.Definitions(
        jobs=[job for project in found for job in _jobs(project, found[project])] if few else [],
        schedules=[_nightly(name, found, *work) for work in _NIGHTLY] if found else [],
        sensors=(
            [
                event_sensor(
                    f"{name}_events",
                    {project: place.policy for project, place in found.items()},
                    {project: place.outline for project, place in found.items()},
                    settings.sensor_seconds,
                )
            ]
            if found
            else []
        ),
        resources={key: resources[key] for key in sorted(missing)},
        executor=None if definitions.executor else executor(),
    )


def _jobs(project: str, place: Place) -> list[Any]:
    """Return the jobs that people run, which Dagster's queue can tell apart."""
    wanted = [
        ("datasets", place.datasets, "control", "Load, check and register every dataset."),
        ("train", TRAINING, "training", "Train one run and judge its best checkpoint."),
        ("gate", TRAINING[-1:], "control", "Judge the best checkpoint of a run that has trained."),
        *(
            (
                f"promote_{stage}",
                (stage,),
                "control",
                f"Point {stage} at the model that may go there, or refuse with the reasons.",
            )
            for stage in place.stages
        ),
        ("retention", ("retention_plan",), "control", "Make a retention plan to be approved."),
        ("cleanup", ("cleanup",), "control", "Carry out the approved retention plans."),
    ]
    return [
        dg.define_asset_job(
            job_name(project, work),
            selection=dg.AssetSelection.assets(*([project, asset] for asset in assets)),
            description=text,
            tags=run_tags(project, kind),
        )
        for work, assets, kind, text in wanted
    ]


def _nightly(
    location: str, found: Mapping[str, Place], asset: str, cron: str, text: str
) -> dg.ScheduleDefinition:
    """Return the schedule that materializes an asset of every project in one run."""
    keys = [dg.AssetKey([project, asset]) for project in found]

    def night(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time
        return dg.RunRequest(run_key=f"{asset}/{at:%Y-%m-%d}", asset_selection=keys)

    return dg.ScheduleDefinition(
        name=f"{location}_{asset}_nightly",
        job_name=ALL_ASSETS_JOB,
        cron_schedule=cron,
        execution_timezone="UTC",
        execution_fn=night,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=text,
    )
