"""What the scenarios have in common: a strict policy, and a cleanup from plan to prune."""

from typing import Any

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def strict(registry: Registry, project: str = PROJECT, **retention: Any) -> None:
    """Put a policy in force under which everything goes that nothing keeps or holds."""
    document = {"keep": {"last": 0, "best": 0}, "forget_after": "0s", "max_share": 1.0}
    document |= retention
    registry.set_policy(project, Policy.of({**building.POLICY.document(), "retention": document}))


def forget(registry: Registry, project: str = PROJECT) -> set[str]:
    """Make, approve and apply a plan, and return what is gone."""
    plan = registry.approve_plan(registry.plan_retention(project).id)
    return set(registry.apply_plan(plan.id).forgotten)


def clean(registry: Registry, project: str = PROJECT) -> set[str]:
    """Forget, and delete the bytes at once."""
    gone = forget(registry, project)
    assert registry.prune(grace=0).disagreements == ()
    assert registry.prune(grace=0).disagreements == ()
    return gone


def stored(registry: Registry) -> int:
    """Return the bytes of the packs that the store really holds."""
    backend = registry.store.backend
    return sum(backend.size(key) or 0 for key in backend.keys("packs/"))
