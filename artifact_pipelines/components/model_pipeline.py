"""One model family in YAML: its datasets, training, gates, stages and retention as assets."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import Field

from artifact_pipelines.components.candidates import candidate_asset
from artifact_pipelines.components.datasets import dataset_asset
from artifact_pipelines.components.declaration import Dataset, Declaration, declare
from artifact_pipelines.components.project import (
    ALL_ASSETS_JOB,
    TRAINING,
    Project,
    identifier,
    run_tags,
)
from artifact_pipelines.components.retention import retention_assets
from artifact_pipelines.components.stages import onward, stage_asset
from artifact_pipelines.components.training import training_assets
from artifact_pipelines.domain.gate import Gate, Limits
from artifact_pipelines.domain.keeping import Retention
from artifact_pipelines.domain.policy import Approvals, Select

_Promotion = dict[str, Literal["automatic", "best"] | Approvals]


def _told(description: str) -> dg.Resolver:
    """Return how a plain field is read and described; a default hides pydantic's description."""
    return dg.Resolver(_filled_in, inject_before_resolve=False, description=description)


def _filled_in(context: dg.ResolutionContext, value: Any) -> Any:  # noqa: ANN401 (any field)
    """Return a field's value with its templates filled in."""
    # Dagster would evaluate plain text too, at a millisecond each, and turn "2026" into a number.
    text = str(value)
    return context.resolve_value(value) if "{{" in text or "{%" in text else value


def _made(expected: Any, description: str) -> dg.Resolver:  # noqa: ANN401 (a type)
    """Return how a field is read whose whole value pydantic makes of a type."""
    return dg.Resolver(
        lambda _context, value: value, model_field_type=expected, description=description
    )


class ModelPipeline(dg.Component, dg.Model, dg.Resolvable):
    """One model family: datasets, training runs, checkpoints, gates, stages and retention."""

    name: Annotated[str, _told("the project, unique in the instance")]
    owners: Annotated[Sequence[str], _told("team:name or e-mail addresses")] = ()
    datasets: Annotated[
        Any,
        _made(list[Dataset], "what is registered: name, load or asset, params, schema, …"),
    ]
    train: Annotated[str, _told("the training function, as module:function")]
    params: Annotated[Mapping[str, Any], _told("the training function's parameters")] = Field(
        default_factory=dict
    )
    evaluate: Annotated[
        str | None, _told("the function that measures a model, as module:function")
    ] = None
    evaluation: Annotated[str | None, _told("the dataset that models are measured on")] = None
    select: Annotated[
        Any, _made(Select | None, "which checkpoint is put forward: metric, mode, try")
    ] = None
    gates: Annotated[Any, _made(list[Gate], "what a model must pass")] = ()
    limits: Annotated[
        Any, _made(Limits | None, "what the project's own code may take when a model is judged")
    ] = None
    promotion: Annotated[
        Any,
        _made(
            _Promotion | None,
            "per stage, automatic, best or the approvals that a model needs; when left out, "
            "staging is automatic and production needs one approval",
        ),
    ] = None
    retention: Annotated[Any, _made(Retention, "what is kept, and when the rest may go")] = Field(
        default_factory=Retention
    )
    schedule: Annotated[str | None, _told("when to train again, as a cron line")] = None
    pool: Annotated[str | None, _told("the Dagster pool that limits trainings")] = None

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return how the component is shown in lists."""
        return dg.ComponentTypeSpec(tags=["machine-learning", "model-registry"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the project's assets, checks, jobs and schedules."""
        place, package = Path(context.path), Path(context.defs_module_path).parent
        # A file that the project names lies beside its YAML, or further up in the package.
        folders = [place, *(above for above in place.parents if above.is_relative_to(package))]
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        declared = declare(fields, folders, str(place / "defs.yaml"))
        return definitions_of(declared, package.parent)


def definitions_of(declared: Declaration, python_path: Path) -> dg.Definitions:
    """Return the assets and checks of a project, and the schedule that trains it again.

    Args:
        declared: The project.
        python_path: The folder that its modules are imported from.
    """
    project = Project(declared, python_path)
    return dg.Definitions(
        assets=[
            *(dataset_asset(project, item) for item in declared.datasets),
            training_assets(project, python_path),
            candidate_asset(project),
            *(stage_asset(project, stage) for stage in declared.policy.promotion),
            *retention_assets(project),
        ],
        schedules=[] if declared.schedule is None else [_retraining(project, declared.schedule)],
    )


def _retraining(project: Project, cron: str) -> dg.ScheduleDefinition:
    """Return the schedule that trains a project again, each time under a name of its own."""
    stages, config = onward(project.name, project.declared.policy)

    def retrain(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time.astimezone(UTC)
        name = f"sched-{at:%Y%m%dT%H%M%SZ}"
        context.instance.add_dynamic_partitions(str(project.runs.name), [name])
        return dg.RunRequest(
            run_key=name,
            partition_key=name,
            asset_selection=[project.key(asset) for asset in (*TRAINING, *stages)],
            run_config={"ops": config},
            tags=run_tags(project.name, "training"),
        )

    return dg.ScheduleDefinition(
        name=f"{identifier(project.name)}_retrain",
        job_name=ALL_ASSETS_JOB,
        cron_schedule=cron,
        execution_timezone="UTC",
        execution_fn=retrain,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Train again on the newest data, under a name of its own.",
    )
