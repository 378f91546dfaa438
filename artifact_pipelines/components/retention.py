"""Retention as assets: the plan that a person reads, and the approved plans carried out."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.components.project import Project
from artifact_pipelines.components.step import Results, assets_of
from artifact_pipelines.errors import PlanRefusedError
from artifact_pipelines.fanning import Fanned, fanned_out
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.planning import Plan
from artifact_pipelines.resources import RegistryResource


def retention_assets(project: Project) -> list[dg.AssetsDefinition]:
    """Return the assets of a project's retention."""
    code_version = project.policy_digest[:12]

    def plan(_context: dg.AssetExecutionContext, registry: RegistryResource) -> Results:
        with project.opened(registry) as opened:
            made = opened.plan_retention(project.name)
            yield dg.MaterializeResult(
                metadata=reports.of_plan(made), data_version=dg.DataVersion(made.id)
            )

    planned = dg.AssetSpec(
        project.key("retention_plan"),
        description="What may be kept and what may go, with reasons; a person approves it.",
        kinds={"plan"},
        code_version=code_version,
        **project.common(),
    )

    cleanup = fanned_out(
        project.key("cleanup"),
        Fanned(
            lambda registry, _config, _run: _cut(registry, project.name),
            _archive,
            lambda registry, _moved: _clean_up(registry, project.name),
            shard=_Due,
            found=None,
        ),
        opened=project.opened,
        after=project.key("retention_plan"),
        description="The approved plans, carried out: what they named is forgotten or archived.",
        kinds={"plan"},
        code_version=code_version,
        **project.common(),
    )
    return [assets_of([planned], plan), cleanup]


@dataclass(frozen=True, slots=True)
class _Due:
    """A part of what a plan archives."""

    plan: str
    references: list[str]


def _approved(registry: Registry, project: str) -> list[Plan]:
    return [plan for plan in registry.plans(project) if plan.state == "approved"]


def _cut(registry: Registry, project: str) -> Iterator[_Due]:
    for plan in _approved(registry, project):
        # What refuses a plan is said once, where it is carried out.
        with contextlib.suppress(PlanRefusedError):
            for part in registry.archive_shards(plan.id):
                yield _Due(plan.id, part)


def _archive(registry: Registry, due: _Due) -> None:
    with contextlib.suppress(PlanRefusedError):
        registry.archive_shard(due.plan, due.references)


def _clean_up(registry: Registry, project: str) -> dg.MaterializeResult[Any]:
    """Carry out the rest of the approved plans and report on all of it."""
    applied, refused = [], []
    for plan in _approved(registry, project):
        try:
            applied.append(registry.apply_plan(plan.id))
        except PlanRefusedError as error:
            # A plan that outlived its policy must not keep the next one waiting.
            refused.append(str(error))
    waiting = sum(plan.state == "open" for plan in registry.plans(project))
    return dg.MaterializeResult(metadata=reports.of_cleanup(applied, refused, waiting))
