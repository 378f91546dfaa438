"""Retention as assets: the plan that a person reads, and the approved plans carried out."""

from typing import Any

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.components.project import Project
from artifact_pipelines.errors import PlanRefusedError
from artifact_pipelines.resources import RegistryResource


def retention_assets(project: Project) -> list[dg.AssetsDefinition]:
    """Return the assets of a project's retention."""
    code_version = project.policy_digest[:12]

    @dg.asset(
        key=project.key("retention_plan"),
        description="What may be kept and what may go, with reasons; a person approves it.",
        kinds={"plan"},
        code_version=code_version,
        **project.common(),
    )
    def retention_plan(registry: RegistryResource) -> dg.MaterializeResult[Any]:
        with project.opened(registry) as opened:
            plan = opened.plan_retention(project.name)
            return dg.MaterializeResult(
                metadata=reports.of_plan(plan), data_version=dg.DataVersion(plan.id)
            )

    @dg.asset(
        key=project.key("cleanup"),
        deps=[project.key("retention_plan")],
        description="The approved plans, carried out: what they named is forgotten.",
        kinds={"plan"},
        code_version=code_version,
        **project.common(),
    )
    def cleanup(
        context: dg.AssetExecutionContext, registry: RegistryResource
    ) -> dg.MaterializeResult[Any]:
        with project.opened(registry) as opened:
            plans = opened.plans(project.name)
            applied, refused = [], []
            for plan in plans:
                if plan.state != "approved":
                    continue
                try:
                    applied.append(opened.apply_plan(plan.id))
                except PlanRefusedError as error:
                    # A plan that outlived its policy must not keep the next one waiting.
                    context.log.warning("%s", error)
                    refused.append(str(error))
            waiting = sum(plan.state == "open" for plan in plans)
            return dg.MaterializeResult(metadata=reports.of_cleanup(applied, refused, waiting))

    return [retention_plan, cleanup]
