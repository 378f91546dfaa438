"""One model family in YAML: its datasets, training, gates, stages and retention as assets."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.components.declaration import Dataset, Declaration, declare
from artifact_pipelines.domain import naming
from artifact_pipelines.domain.policy import Approvals
from artifact_pipelines.errors import ArtifactError, UnknownArtifactError
from artifact_pipelines.gates import data
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.evaluating import load_function
from artifact_pipelines.registry.reading import Artifact, RunView
from artifact_pipelines.resources import RegistryResource

PROJECT_TAG = "artifact_pipelines/project"
"""The tag of a project's assets and jobs."""

Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]


class DatasetConfig(dg.Config):
    """What a dataset is loaded with this time."""

    params: dict[str, Any] = {}  # noqa: RUF012  Dagster copies it


class TrainConfig(dg.Config):
    """What a run is trained with this time."""

    params: dict[str, Any] = {}  # noqa: RUF012  Dagster copies it
    resume_from: str = ""


class StageConfig(dg.Config):
    """Which model to promote; empty means the only one that may go."""

    model: str = ""


class ModelPipeline(dg.Component, dg.Model, dg.Resolvable):
    """One model family: datasets, training runs, checkpoints, gates, stages and retention.

    Attributes:
        name: The project, unique in the instance.
        datasets: Its datasets: name, load, params, schema, expectations.
        train: The training function, as `module:function`.
        owners: Its owners, as `team:name` or e-mail addresses.
        params: The training function's parameters.
        evaluate: The function that measures a model, as `module:function`.
        evaluation: The dataset that models are measured on.
        select: Which checkpoint is put forward: metric, mode, try.
        gates: What a model must pass.
        promotion: Per stage: `automatic`, or the number of approvals.
        retention: What is kept.
        schedule: When to train again, as a cron line.
    """

    name: str
    datasets: Sequence[Mapping[str, Any]]
    train: str
    owners: Sequence[str] = ()
    params: Mapping[str, Any] = {}  # noqa: RUF012  pydantic copies it
    evaluate: str | None = None
    evaluation: str | None = None
    select: Mapping[str, Any] | None = None
    gates: Sequence[Mapping[str, Any]] = ()
    promotion: Mapping[str, Any] = {}  # noqa: RUF012  pydantic copies it
    retention: Mapping[str, Any] = {}  # noqa: RUF012  pydantic copies it
    schedule: str | None = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the project's assets, checks, jobs and schedules."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        root = context.defs_module_path.parent
        declared = declare(fields, root, str(context.path))
        return _Graph(declared, root.parent).definitions()


class _Graph:
    """The assets of one project."""

    def __init__(self, declared: Declaration, python_path: Path) -> None:
        self.declared = declared
        self.project = declared.name
        self.policy = declared.policy
        self.python_path = python_path
        self.runs = dg.DynamicPartitionsDefinition(name=f"{self.project}_runs")
        self.common: dict[str, Any] = {
            "group_name": self.project.replace("-", "_").replace(".", "_"),
            "owners": list(declared.owners),
            "tags": {PROJECT_TAG: self.project},
        }

    def key(self, name: str) -> dg.AssetKey:
        return dg.AssetKey([self.project, name])

    def op(self, name: str) -> str:
        return f"{self.project}__{name}".replace("-", "_").replace(".", "_")

    def definitions(self) -> dg.Definitions:
        stages = [self._stage(stage) for stage in self.policy.promotion]
        jobs = [
            self._job("datasets", [item.name for item in self.declared.datasets]),
            self._job("train", ["training_run", "checkpoints", "candidate"]),
            self._job("gate", ["candidate"]),
            *(self._job(f"promote_{stage}", [stage]) for stage in self.policy.promotion),
            self._job("retention", ["retention_plan"]),
            self._job("cleanup", ["cleanup"]),
        ]
        return dg.Definitions(
            assets=[
                *(self._dataset(item) for item in self.declared.datasets),
                self._training(),
                self._candidate(),
                *stages,
                self._retention_plan(),
                self._cleanup(),
            ],
            jobs=jobs,
            schedules=self._schedules(),
        )

    def _job(self, name: str, assets: Sequence[str]) -> Any:
        return dg.define_asset_job(
            f"{self.op('x')[:-3]}_{name}",
            selection=dg.AssetSelection.assets(*(self.key(asset) for asset in assets)),
            tags={PROJECT_TAG: self.project},
        )

    def _dataset(self, item: Dataset) -> dg.AssetsDefinition:
        checks = [
            dg.AssetCheckSpec(name, asset=self.key(item.name), blocking=True, description=text)
            for name, wanted, text in (
                ("schema", item.schema_, "The rows are what the Pandera schema says."),
                ("expectations", item.expectations, "The rows meet the Great Expectations suite."),
            )
            if wanted
        ]

        @dg.asset(
            key=self.key(item.name),
            op_tags=self.common["tags"],
            check_specs=checks,
            code_version=item.load,
            kinds={"dataset"},
            description=f"The versions of the dataset {item.name}.",
            **self.common,
        )
        def dataset(
            context: dg.AssetExecutionContext, config: DatasetConfig, registry: RegistryResource
        ) -> Results:
            with registry.opened() as opened:
                opened.set_policy(self.project, self.policy)
                params = {**item.params, **config.params}
                frame = load_function(item.load)(**params)
                yield from self._contract(item, frame)
                found = _publish_frame(opened, self.project, item, frame, params)
                context.log.info("registered %s", found.reference)
                yield dg.MaterializeResult(
                    asset_key=self.key(item.name),
                    metadata={
                        **reports.of_artifact(found),
                        "dagster/row_count": len(frame),
                        "params": dg.MetadataValue.json(params),
                    },
                    data_version=dg.DataVersion(found.content),
                )

        return dataset

    def _contract(self, item: Dataset, frame: Any) -> Iterator[dg.AssetCheckResult]:
        """Yield what the rows' contract says; a breach stops the step before anything is kept."""
        contract = self.policy.contracts.get(item.name)
        if contract is None:
            return
        breached = []
        for finding in data.contract_findings(item.name, frame, contract, load_function):
            name = finding.gate.removeprefix(f"{item.name}_")
            metadata = {"reasons": dg.MetadataValue.md("\n".join(f"- {r}" for r in finding.reasons))}
            yield dg.AssetCheckResult(
                asset_key=self.key(item.name),
                check_name=name,
                passed=finding.passed,
                metadata=metadata,
            )
            if not finding.passed:
                breached += finding.reasons
        if breached:
            raise dg.Failure(
                f"the rows of {self.project}/{item.name} break their contract, so no version was "
                f"registered: {'; '.join(breached)}",
                allow_retries=False,
            )

    def _training(self) -> dg.AssetsDefinition:
        deps = [self.key(item.name) for item in self.declared.training_sets]
        run_key, checkpoints_key = self.key("training_run"), self.key("checkpoints")

        @dg.multi_asset(
            name=self.op("train"),
            specs=[
                dg.AssetSpec(
                    run_key,
                    deps=deps,
                    description="The training runs, each under a name that trains once.",
                    kinds={"training_run", "python"},
                    code_version=self.declared.train,
                    **self.common,
                ),
                dg.AssetSpec(
                    checkpoints_key,
                    deps=[run_key],
                    description="The checkpoints that a training run has saved.",
                    kinds={"checkpoint", "safetensors"},
                    code_version=self.declared.train,
                    **self.common,
                ),
            ],
            partitions_def=self.runs,
            op_tags={"artifact_pipelines/kind": "training"},
        )
        def train(
            context: dg.AssetExecutionContext,
            config: TrainConfig,
            registry: RegistryResource,
            pipes: dg.PipesSubprocessClient,
        ) -> Results:
            with registry.opened() as opened:
                name = self._run_name(context)
                opened.set_policy(self.project, self.policy)
                view = _run(opened, self.project, name)
                if view is not None and view.state == "finished":
                    context.log.info("%s has trained before; a run name trains once", name)
                else:
                    view = self._train(context, config, opened, pipes, name, view)
                yield dg.MaterializeResult(
                    asset_key=run_key,
                    metadata=reports.of_run(view),
                    data_version=dg.DataVersion(view.artifact.id),
                )
                yield dg.MaterializeResult(
                    asset_key=checkpoints_key,
                    metadata=reports.of_checkpoints(view),
                    data_version=reports.data_version(view.checkpoints),
                )

        return train

    def _train(
        self,
        context: dg.AssetExecutionContext,
        config: TrainConfig,
        opened: Registry,
        pipes: dg.PipesSubprocessClient,
        name: str,
        begun: RunView | None,
    ) -> RunView:
        """Run the trainer in a process of its own and return what came of it."""
        if begun is None:
            inputs = {item.name: self._newest(opened, item.name) for item in self.declared.training_sets}
            params = {**self.declared.params, **config.params}
            resume_from = config.resume_from
        else:
            # An interrupted run goes on with what it was begun with.
            roles = {item.role: item.id for item in begun.artifact.record.inputs}
            inputs = {
                role.removeprefix("dataset:"): found
                for role, found in roles.items()
                if role.startswith("dataset:")
            }
            params = {**begun.artifact.record.params, **config.params}
            resume_from = roles.get("resume", "")
        failure = ""
        try:
            pipes.run(
                command=[sys.executable, "-m", "artifact_pipelines.sdk"],
                context=context,
                extras={
                    "project": self.project,
                    "run": name,
                    "train": self.declared.train,
                    "params": params,
                    "inputs": inputs,
                    "resume_from": resume_from or None,
                    "python_path": [str(self.python_path), *filter(None, sys.path)],
                    "dagster_run": context.run.run_id,
                },
            )
        except dg.DagsterError as error:
            failure = str(error).splitlines()[0]
        view = _run(opened, self.project, name)
        if view is not None and view.state == "running":
            opened.finish_run(view.artifact, "failed", "the trainer's process died")
            view = opened.run(self.project, name)
        if view is None or view.state != "finished":
            if view is not None and view.checkpoints:
                context.log_event(
                    dg.AssetMaterialization(
                        self.key("checkpoints"),
                        partition=name,
                        metadata=reports.of_checkpoints(view),
                    )
                )
            reason = view.reason if view is not None else failure
            raise dg.Failure(
                f"the training run {self.project}/{name} failed: {reason}", allow_retries=False
            )
        return view

    def _candidate(self) -> dg.AssetsDefinition:
        key = self.key("candidate")
        deps = [self.key("checkpoints")]
        if self.policy.evaluation is not None:
            deps.append(self.key(self.policy.evaluation))
        checks = [
            dg.AssetCheckSpec(
                gate,
                asset=key,
                partitions_def=self.runs,
                description="A gate of the project's policy; the verdict is in the ledger.",
            )
            for gate in self.policy.required()
        ]

        @dg.asset(
            key=key,
            deps=deps,
            partitions_def=self.runs,
            check_specs=checks,
            code_version=self.policy.digest[:12],
            kinds={"model"},
            description="The best checkpoint of a run as a model, with a verdict of every gate.",
            **self.common,
        )
        def candidate(context: dg.AssetExecutionContext, registry: RegistryResource) -> Results:
            with registry.opened() as opened:
                opened.set_policy(self.project, self.policy)
                found = opened.evaluate(self.project, self._run_name(context))
                shown = next((tried for tried in found.attempts if tried.passed), found.attempts[0])
                metadata = {
                    **reports.of_artifact(shown.model),
                    **{f"held_out_{name}": value for name, value in sorted(shown.metrics.items())},
                    **reports.of_verdicts(shown.verdicts),
                    "tried": ", ".join(str(tried.checkpoint.reference) for tried in found.attempts),
                }
                yield dg.MaterializeResult(
                    asset_key=key,
                    metadata=metadata,
                    data_version=dg.DataVersion(shown.model.content),
                    check_results=[
                        dg.AssetCheckResult(
                            asset_key=key,
                            check_name=verdict.gate,
                            passed=verdict.passed,
                            metadata={
                                "reason": "; ".join(verdict.reasons),
                                "model": shown.model.reference,
                                **{
                                    name: value
                                    for name, value in verdict.values.items()
                                    if isinstance(value, int | float | str)
                                },
                            },
                        )
                        for verdict in shown.verdicts
                    ],
                )

        return candidate

    def _stage(self, stage: str) -> dg.AssetsDefinition:
        stages = list(self.policy.promotion)
        before = stages[stages.index(stage) - 1] if stages.index(stage) else "candidate"
        dep = dg.AssetDep(
            self.key(before),
            partition_mapping=dg.AllPartitionMapping() if before == "candidate" else None,
        )
        rule = self.policy.promotion[stage]
        needs = f"{rule.approvals} approvals" if isinstance(rule, Approvals) else "no approval"

        @dg.asset(
            key=self.key(stage),
            deps=[dep],
            kinds={"stage"},
            code_version=self.policy.digest[:12],
            description=f"The model that {stage} points at. A move needs every gate and {needs}.",
            **self.common,
        )
        def pointer(config: StageConfig, registry: RegistryResource) -> dg.MaterializeResult[Any]:
            with registry.opened() as opened:
                opened.set_policy(self.project, self.policy)
                reference = config.model or self._ready(opened, stage)
                moved = opened.promote(reference, stage)
                return dg.MaterializeResult(
                    metadata=reports.of_promotion(moved),
                    data_version=dg.DataVersion(moved.model.content),
                )

        return pointer

    def _ready(self, opened: Registry, stage: str) -> str:
        """Return the one model that may go to a stage, or say why there is none."""
        if opened.needs_approval(self.project, stage):
            wishes = [wish for wish in opened.requests(self.project, stage) if wish.state == "open"]
            ready = [
                wish.model.reference
                for wish in wishes
                if not opened.why_not(wish.model.reference, stage)
            ]
            if len(ready) == 1:
                return ready[0]
            current = opened.stages(self.project).get(stage)
            if not wishes and current is not None:
                return current.reference
            waiting = ", ".join(wish.model.reference for wish in wishes)
            if not wishes:
                said = (
                    f"nothing is requested for {stage}; run: artifact-pipelines model request "
                    f"{self.project}/v1 --stage {stage}"
                )
            elif ready:
                said = f"several models are approved for {stage} ({', '.join(ready)}); name one"
            else:
                why = "; ".join(opened.why_not(wishes[-1].model.reference, stage))
                said = (
                    f"{waiting} is requested for {stage}, but {why}; run: artifact-pipelines model "
                    f"approve {wishes[-1].model.reference} --stage {stage} --key NAME"
                )
            raise dg.Failure(f"No model may be promoted: {said}.", allow_retries=False)
        models = opened.models(self.project)
        for model in reversed(models):
            if not opened.why_not(model.reference, stage):
                return model.reference
        current = opened.stages(self.project).get(stage)
        if current is not None:
            return current.reference
        raise dg.Failure(
            f"No model of {self.project} has passed every gate yet, so {stage} stays empty.",
            allow_retries=False,
        )

    def _retention_plan(self) -> dg.AssetsDefinition:
        @dg.asset(
            key=self.key("retention_plan"),
            kinds={"plan"},
            code_version=self.policy.digest[:12],
            description="The newest list of what may be kept and what may go, with reasons.",
            **self.common,
        )
        def retention_plan(registry: RegistryResource) -> dg.MaterializeResult[Any]:
            with registry.opened() as opened:
                opened.set_policy(self.project, self.policy)
                plan = opened.plan_retention(self.project)
                return dg.MaterializeResult(
                    metadata=reports.of_plan(plan), data_version=dg.DataVersion(plan.id)
                )

        return retention_plan

    def _cleanup(self) -> dg.AssetsDefinition:
        @dg.asset(
            key=self.key("cleanup"),
            deps=[self.key("retention_plan")],
            kinds={"plan"},
            code_version=self.policy.digest[:12],
            description="The approved plans that were carried out.",
            **self.common,
        )
        def cleanup(registry: RegistryResource) -> dg.MaterializeResult[Any]:
            with registry.opened() as opened:
                approved = [
                    plan for plan in opened.plans(self.project) if plan.state == "approved"
                ]
                applied = [opened.apply_plan(plan.id) for plan in approved]
                return dg.MaterializeResult(
                    metadata={
                        "plans": len(applied),
                        "forgotten": sum(len(found.forgotten) for found in applied),
                        "skipped": sum(len(found.skipped) for found in applied),
                        "waiting_for_approval": sum(
                            plan.state == "open" for plan in opened.plans(self.project)
                        ),
                    }
                )

        return cleanup

    def _schedules(self) -> list[dg.ScheduleDefinition]:
        prefix = self.op("x")[:-3]
        found = [
            dg.ScheduleDefinition(
                name=f"{prefix}_retention_daily",
                job_name=f"{prefix}_retention",
                cron_schedule="30 2 * * *",
                description="Make a retention plan every night; a person approves it.",
            ),
            dg.ScheduleDefinition(
                name=f"{prefix}_cleanup_daily",
                job_name=f"{prefix}_cleanup",
                cron_schedule="30 3 * * *",
                description="Carry out the approved retention plans every night.",
            ),
        ]
        if self.declared.schedule is not None:
            partitions = self.runs

            def retrain(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
                at = context.scheduled_execution_time.astimezone(UTC)
                name = f"sched-{at:%Y%m%dT%H%M}"
                context.instance.add_dynamic_partitions(str(partitions.name), [name])
                return dg.RunRequest(run_key=name, partition_key=name)

            found.append(
                dg.ScheduleDefinition(
                    name=f"{prefix}_retrain",
                    job_name=f"{prefix}_train",
                    cron_schedule=self.declared.schedule,
                    execution_fn=retrain,
                    description="Train again on the newest data, under a name of its own.",
                )
            )
        return found

    def _run_name(self, context: dg.AssetExecutionContext) -> str:
        if not context.has_partition_key:
            raise dg.Failure(
                f"Choose a run of {self.project} to materialize: its name is the partition.",
                allow_retries=False,
            )
        try:
            return naming.check_run(context.partition_key)
        except ArtifactError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    def _newest(self, opened: Registry, name: str) -> str:
        found = opened.datasets(self.project, name)
        if not found:
            raise dg.Failure(
                f"The dataset {self.project}/{name} has no version yet; materialize it first.",
                allow_retries=False,
            )
        return found[-1].id


def _run(opened: Registry, project: str, name: str) -> RunView | None:
    try:
        return opened.run(project, name)
    except UnknownArtifactError:
        return None


def _publish_frame(
    opened: Registry, project: str, item: Dataset, frame: Any, params: Mapping[str, Any]
) -> Artifact:
    """Register rows as one Parquet file; the same rows are the same bytes."""
    facts = {
        "rows": len(frame),
        "columns": {str(name): str(kind) for name, kind in frame.dtypes.items()},
        "load": item.load,
        "params": dict(params),
    }
    with TemporaryDirectory(prefix="dataset-") as folder:
        file = Path(folder) / "data.parquet"
        frame.to_parquet(file, index=False)
        return opened.publish_dataset(project, item.name, {"data.parquet": file}, facts=facts)
