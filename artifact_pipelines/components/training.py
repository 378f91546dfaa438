"""Training as an asset: a run under a name that trains once, and its checkpoints."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.components.project import (
    KIND_TAG,
    Project,
    dagster_annex,
    op_name,
)
from artifact_pipelines.components.step import Results, assets_of
from artifact_pipelines.domain import digest
from artifact_pipelines.errors import ConflictError, UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.reading import RunView
from artifact_pipelines.resources import RegistryResource, TrainerResource

PARAMS = "params"
"""The metadata key of the parameters that a project declares."""

_ROLE = "dataset:"


class TrainConfig(dg.Config):
    """What a run is trained with this time.

    Attributes:
        params: Parameters that replace those of the YAML, one by one.
        inputs: Dataset versions by dataset, such as `images: digits/images@1`; the newest of
            each where it is left out.
        resume_from: The checkpoint of another run to go on from, such as `digits/run-1@120`.
    """

    params: dict[str, Any] = {}  # noqa: RUF012 (Dagster copies it)
    inputs: dict[str, str] = {}  # noqa: RUF012 (Dagster copies it)
    resume_from: str = ""


def training_assets(project: Project, python_path: Path) -> dg.AssetsDefinition:
    """Return the assets of a project's training runs and their checkpoints."""
    declared = project.declared
    run_key, checkpoints_key = project.key("training_run"), project.key("checkpoints")
    code = digest.canonical({"train": declared.train, "params": dict(declared.params)})
    code_version = digest.sha256(code)[:12]

    def train(
        context: dg.AssetExecutionContext,
        registry: RegistryResource,
        trainer: TrainerResource,
        config: TrainConfig,
    ) -> Results:
        with project.opened(registry) as opened:
            name = project.run_name(context)
            begun = _view(opened, project.name, name)
            if begun is not None and begun.state == "finished":
                _refuse_changes(opened, config, begun)
                context.log.info(
                    "%s has trained before; it is shown again, and nothing is trained",
                    begun.artifact.reference,
                )
                said = None
            else:
                job = _job(project, opened, config, name, begun)
                # A script may name a run that nobody added; it must not fail when it has trained.
                context.instance.add_dynamic_partitions(str(project.runs.name), [name])
                path = [str(python_path), *filter(None, sys.path)]
                upstream = [project.key(item.name) for item in declared.training_sets]
                told = {
                    "python_path": path,
                    "code": {"version": code_version},
                    "dagster": dagster_annex(context, upstream),
                }
                said = trainer.run(context, {**job, **told})
            view = _ended(opened, project.name, name, said)
            if view is None or said is not None:
                if view is not None and view.checkpoints:
                    yield _shown_checkpoints(view, checkpoints_key)
                raise dg.Failure(
                    f"the training run {project.name}/{name} failed: {said}", allow_retries=False
                )
            yield dg.MaterializeResult(
                asset_key=run_key,
                metadata=reports.of_run(view, opened.references_of(view.artifact)),
                data_version=dg.DataVersion(view.artifact.id),
            )
            yield _shown_checkpoints(view, checkpoints_key)

    specs = [
        dg.AssetSpec(
            run_key,
            deps=[project.key(item.name) for item in declared.training_sets],
            description="The training runs, each under a name that trains once.",
            kinds={"python"},
            metadata={PARAMS: dg.MetadataValue.json(dict(declared.params))},
            code_version=code_version,
            partitions_def=project.runs,
            **project.common(),
        ),
        dg.AssetSpec(
            checkpoints_key,
            deps=[run_key],
            description="The checkpoints that a training run has saved.",
            kinds={"safetensors"},
            code_version=code_version,
            partitions_def=project.runs,
            **project.common(),
        ),
    ]
    return assets_of(
        specs,
        train,
        name=op_name(project.name, "train"),
        config=TrainConfig,
        resources=("registry", "trainer"),
        tags={KIND_TAG: "training"},
        pool=declared.pool,
    )


def _shown_checkpoints(view: RunView, key: dg.AssetKey) -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(
        asset_key=key,
        metadata=reports.of_checkpoints(view),
        data_version=dg.DataVersion(reports.set_version(view.checkpoints)),
    )


def _job(
    project: Project, opened: Registry, config: TrainConfig, name: str, begun: RunView | None
) -> dict[str, Any]:
    """Return what the training process is asked to do."""
    declared = project.declared
    if begun is None:
        project.outline.check(project.name, config.params, config.inputs)
        chosen = opened.chosen_inputs(project.name, config.inputs)
        inputs = {
            item.name: chosen.get(item.name) or _newest(opened, project.name, item.name)
            for item in declared.training_sets
        }
        params = {**declared.params, **config.params}
        resume_from = config.resume_from
    else:
        # An interrupted run goes on with what it was begun with; what it is asked beyond
        # that, the registry refuses.
        inputs = _inputs(begun) | config.inputs
        params = {**begun.artifact.record.params, **config.params}
        resume_from = config.resume_from or _resumed(begun)
    return {
        "project": project.name,
        "run": name,
        "train": declared.train,
        "params": params,
        "inputs": inputs,
        "resume_from": resume_from or None,
    }


def _refuse_changes(opened: Registry, config: TrainConfig, view: RunView) -> None:
    """Refuse to show a complete run to somebody who asked for another one.

    Raises:
        ConflictError: The configuration asks for other parameters, data or another start.
    """
    params = view.artifact.record.params
    asked = {name: opened.find(reference).id for name, reference in config.inputs.items()}
    base = opened.find(config.resume_from).id if config.resume_from else _resumed(view)
    different = [
        what
        for what, same in (
            (
                "parameters",
                digest.canonical(params) == digest.canonical({**params, **config.params}),
            ),
            ("data", asked.items() <= _inputs(view).items()),
            ("resume_from", base == _resumed(view)),
        )
        if not same
    ]
    if different:
        raise ConflictError(
            f"the run {view.artifact.reference} has trained with other {' and '.join(different)}; "
            "a run name trains once, so add a partition with a new name."
        )


def _inputs(view: RunView) -> dict[str, str]:
    return {
        item.role.removeprefix(_ROLE): item.id
        for item in view.artifact.record.inputs
        if item.role.startswith(_ROLE)
    }


def _resumed(view: RunView) -> str:
    inputs = view.artifact.record.inputs
    return next((item.id for item in inputs if item.role == "resume"), "")


def _ended(opened: Registry, project: str, name: str, said: str | None) -> RunView | None:
    """Return the run after its process, closed where the process could not close it."""
    view = _view(opened, project, name)
    if view is None or view.state != "running" or said is None:
        return view
    # A process that was refused, because another one trains, has ended nothing.
    if not opened.in_training(view.artifact):
        opened.finish_run(view.artifact, "failed", said)
        view = opened.run(project, name)
    return view


def _view(opened: Registry, project: str, name: str) -> RunView | None:
    try:
        return opened.run(project, name)
    except UnknownArtifactError:
        return None


def _newest(opened: Registry, project: str, name: str) -> str:
    found = opened.datasets(project, name)
    if not found:
        raise UnknownArtifactError(
            f"the dataset {project}/{name} has no version yet; materialize it first."
        )
    return found[-1].id
