"""Stages as assets: a materialization moves the pointer, or refuses with its reasons."""

from typing import Any

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.components.candidates import automatic_stages
from artifact_pipelines.components.project import Project, op_name
from artifact_pipelines.components.step import Results, assets_of
from artifact_pipelines.domain.policy import Approvals, Policy
from artifact_pipelines.errors import ConflictError, PromotionRefusedError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.evaluating import measured
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.resources import RegistryResource

_COMMAND = "artifact-pipelines model"


class StageConfig(dg.Config):
    """Which model a stage is to point at.

    Attributes:
        model: A model such as `digits/v3`; empty means the only one that may go.
        if_ready: Whether the stage stays as it is, and nothing fails, where no model may go.
    """

    model: str = ""
    if_ready: bool = False


def stage_asset(project: Project, stage: str) -> dg.AssetsDefinition:
    """Return the asset of a stage."""
    stages = list(project.declared.policy.promotion)
    position = stages.index(stage)
    before = (
        dg.AssetDep(project.key(stages[position - 1]))
        if position
        else dg.AssetDep(project.key("candidate"), partition_mapping=dg.AllPartitionMapping())
    )
    rule = project.declared.policy.promotion[stage]
    needs = (
        f"every gate and {rule.approvals} signed approval{'s' if rule.approvals > 1 else ''}"
        if isinstance(rule, Approvals)
        else "every gate"
    )

    def move(
        context: dg.AssetExecutionContext, registry: RegistryResource, config: StageConfig
    ) -> Results:
        with project.opened(registry) as opened:
            if config.if_ready:
                following = next_model(opened, project.name, stage)
                if following is None:
                    context.log.info("no model goes to %s by itself; it stays as it is", stage)
                    return
                reference = following.reference
            else:
                reference = config.model or ready(opened, project.name, stage)
            try:
                moved = opened.promote(reference, stage)
            except (ConflictError, PromotionRefusedError) as error:
                if not config.if_ready:
                    raise
                # Somebody moved it first; the event sensor looks at what is left.
                context.log.warning("%s", error)
                return
            yield dg.MaterializeResult(
                metadata=reports.of_promotion(
                    moved, opened.verdicts(moved.model), opened.checkpoint_of(moved.model)
                ),
                data_version=dg.DataVersion(moved.model.content),
            )

    pointer = dg.AssetSpec(
        project.key(stage),
        deps=[before],
        kinds={"stage"},
        code_version=project.policy_digest[:12],
        description=f"The model that {stage} points at. To move it, a model needs {needs}.",
        skippable=True,
        **project.common(),
    )
    return assets_of([pointer], move, config=StageConfig)


def onward(project: str, policy: Policy) -> tuple[list[str], dict[str, Any]]:
    """Return the stages that a model goes on to in the run that judges it, and their config.

    A run of its own would wait for the sensor's next tick and take a process more.
    """
    stages = automatic_stages(policy)
    return stages, {op_name(project, stage): {"config": {"if_ready": True}} for stage in stages}


def ready(opened: Registry, project: str, stage: str) -> str:
    """Return the one model that may go to a stage, or the one that is there already.

    Raises:
        PromotionRefusedError: There is none, or more than one.
    """
    current = opened.stages(project).get(stage)
    if opened.needs_approval(project, stage):
        return _approved(opened, project, stage, current)
    newest = next_model(opened, project, stage)
    if newest is not None:
        return newest.reference
    if current is not None:
        return current.reference
    models = opened.models(project)
    why = (
        [
            f"{models[-1].reference}: {reason}"
            for reason in opened.why_not(models[-1].reference, stage)
        ]
        if models
        else ["there is no model yet; materialize the candidate of a training run"]
    )
    raise PromotionRefusedError(f"no model of {project} may go to {stage}", why)


def next_model(opened: Registry, project: str, stage: str) -> Artifact | None:
    """Return the newest model that may go to a stage by itself, or None.

    Only models newer than what the stage has pointed at go: a rollback stays. Where the stage
    takes the best, only those go that measure no worse than what it points at.
    """
    policy, current = opened.policy(project), opened.stages(project).get(stage)
    best = policy.promotion.get(stage) == "best"
    been = [move.model.version or 0 for move in opened.history(project, stage)]
    for model in reversed(opened.models(project, above=max(been, default=0))):
        if best and current is not None and _is_worse(opened, policy, model, current):
            continue
        if not opened.why_not(model.reference, stage):
            return model
    return None


def _is_worse(opened: Registry, policy: Policy, model: Artifact, current: Artifact) -> bool:
    """Return whether a model measures worse than another on the same evaluation data."""
    select = policy.select
    if select is None:
        return False
    figures = []
    for one in (model, current):
        verdicts = opened.verdicts(one)
        value = measured(verdicts).get(select.metric)
        figures.append((value, {verdict.evaluation for verdict in verdicts}))
    (mine, data), (theirs, other) = figures
    if mine is None or theirs is None or data != other:
        return False
    return mine < theirs if select.mode == "max" else mine > theirs


def _approved(opened: Registry, project: str, stage: str, current: Artifact | None) -> str:
    wishes = [wish for wish in opened.requests(project, stage) if wish.state == "open"]
    against = {wish.model.reference: opened.why_not(wish.model.reference, stage) for wish in wishes}
    free = [reference for reference, reasons in against.items() if not reasons]
    if len(free) == 1:
        return free[0]
    what = f"{stage} of {project} was not moved"
    if free:
        raise PromotionRefusedError(
            what,
            [f"{' and '.join(free)} are approved; name one in the configuration, as `model`"],
        )
    if wishes:
        newest = wishes[-1].model.reference
        raise PromotionRefusedError(
            what,
            [f"{newest}: {reason}" for reason in against[newest]]
            + [f"approve it with: {_COMMAND} approve {newest} --stage {stage} --key NAME"],
        )
    if current is not None:
        return current.reference
    known = list(opened.stages(project).values()) or opened.models(project)
    asked = max(known, key=lambda model: model.version or 0).reference if known else f"{project}/v1"
    raise PromotionRefusedError(
        what,
        [f"nobody has asked for it; ask with: {_COMMAND} request {asked} --stage {stage}"],
    )
