"""A plan can be read before anything goes, says what it was made from, and goes out of date."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from artifact_pipelines.catalog import fold, ledger, tables
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import PlanRefusedError
from artifact_pipelines.registry import Registry, applying
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def policy(registry: Registry, **retention: Any) -> None:
    document = {"keep": {"last": 1, "best": 0}, "forget_after": "0s", **retention}
    registry.set_policy(PROJECT, Policy.of({**building.POLICY.document(), "retention": document}))


def test_an_item_names_all_that_was_made_from_it(registry: Registry) -> None:
    policy(registry)
    checkpoints = building.run(registry, "run-1")
    registry.publish_model(checkpoints[0])
    items = {item.reference: item for item in registry.plan_retention(PROJECT).items}

    assert items["digits/run-1@0"].referrers == ("digits/v1",)
    assert items["digits/run-1@1"].referrers == ()
    assert items["digits/images@1"].referrers == ("digits/run-1",)
    assert items["digits/run-1"].referrers == tuple(f"digits/run-1@{step}" for step in range(3))


def test_a_plan_is_bound_to_the_ledger_that_it_was_made_from(registry: Registry) -> None:
    policy(registry)
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)

    assert plan.root == registry.catalog.read(ledger.root, plan.size).hex()
    assert plan.policy == registry.policy(PROJECT).digest
    assert plan.made < plan.expires


def test_the_page_of_a_plan_shows_every_artifact_and_reason(registry: Registry) -> None:
    policy(registry)
    building.run(registry, "run-1")
    registry.place_hold("digits/run-1@1", "case", "<script>alert(1)</script>")
    plan = registry.plan_retention(PROJECT)
    page = registry.plan_page(plan.id)

    assert all(item.reference in page and item.artifact in page for item in plan.items)
    assert "nothing keeps it and it is older than 0s" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_totals_add_up_to_everything(registry: Registry) -> None:
    policy(registry)
    building.run(registry, "run-1", steps=4)
    plan = registry.plan_retention(PROJECT)
    totals = plan.totals()

    assert totals["forget"]["artifacts"] == 3
    assert sum(total["artifacts"] for total in totals.values()) == len(plan.items)
    assert sum(total["size_bytes"] for total in totals.values()) == sum(
        item.size for item in plan.items
    )


def test_the_same_plan_is_made_once_and_a_newer_one_takes_its_place(registry: Registry) -> None:
    policy(registry)
    building.run(registry, "run-1")
    first = registry.plan_retention(PROJECT)
    assert registry.plan_retention(PROJECT).id == first.id
    building.run(registry, "run-2", seed=2)
    second = registry.plan_retention(PROJECT)

    assert second.id != first.id
    assert registry.plan(first.id).state == "superseded"
    with pytest.raises(PlanRefusedError, match="a newer plan has taken its place"):
        registry.approve_plan(first.id)


def test_a_plan_within_the_policys_limits_approves_itself(registry: Registry) -> None:
    policy(registry, automatic={"share": 0.5})
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)

    assert (plan.state, plan.approver) == ("approved", "the policy")
    assert len(registry.apply_plan(plan.id).forgotten) == 2


@pytest.mark.parametrize("limits", [{"share": 0.1}, {"artifacts": 1}, {"bytes": "1kB"}])
def test_a_plan_beyond_a_limit_waits_for_a_person(
    registry: Registry, limits: dict[str, Any]
) -> None:
    policy(registry, automatic={"share": 1.0, **limits})
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)

    assert plan.state == "open"
    approved = registry.approve_plan(plan.id)
    assert (approved.state, approved.approver) == ("approved", "tester")


@pytest.mark.parametrize(
    "limits,said",
    [({"max_share": 0.2}, "more than the policy's 20%"), ({"max_forget": "1kB"}, "that one plan")],
)
def test_the_breaker_stops_a_plan_even_where_it_would_approve_itself(
    registry: Registry, limits: dict[str, Any], said: str
) -> None:
    policy(registry, automatic={"share": 1.0}, **limits)
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)

    assert plan.state == "open"
    with pytest.raises(PlanRefusedError, match=said):
        registry.approve_plan(plan.id)


def test_the_breaker_is_asked_again_when_a_plan_is_applied(registry: Registry) -> None:
    policy(registry, max_share=0.2)
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)
    registry.append("plan_approve", plan.id, {"project": PROJECT, "approver": "mallory"})

    with pytest.raises(PlanRefusedError, match="more than the policy's 20%"):
        registry.apply_plan(plan.id)


def test_an_expired_plan_is_neither_approved_nor_applied_and_holds_nothing(
    registry: Registry,
) -> None:
    policy(registry, plan_expires="0s")
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)

    assert plan.state == "expired"
    with pytest.raises(PlanRefusedError, match="it expired at"):
        registry.approve_plan(plan.id)
    assert len(registry.plan_retention(PROJECT).chosen("forget")) == 2


def test_a_plan_that_was_interrupted_goes_on(registry: Registry) -> None:
    policy(registry)
    building.run(registry, "run-1", steps=4)
    plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
    for reached in registry.application(plan.id):
        if reached == "forgotten":
            break
    assert sum(found.state == "forgotten" for found in registry.checkpoints(PROJECT)) == 1

    applied = registry.apply_plan(plan.id)
    assert applied.forgotten == ("digits/run-1@1", "digits/run-1@2")
    assert registry.plan(plan.id).state == "applied"


def interrupted(registry: Registry, plan: str, at: str = "decided") -> Iterator[str]:
    """Apply a plan up to a step; what the caller does then comes in between."""
    steps = registry.application(plan)
    assert next(steps) == at
    return steps


def test_what_happens_between_decision_and_leaf_is_decided_again(registry: Registry) -> None:
    policy(registry, rules=[{"tag": "golden", "forget_after": "never"}])
    building.run(registry, "run-1", steps=4)
    plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
    steps = interrupted(registry, plan.id)
    body = {"project": PROJECT, "name": "golden", "value": "yes"}
    registry.append("tag", registry.find("digits/run-1@1").id, body)
    registry.place_hold("digits/run-1@2", "case", "asked for")
    list(steps)

    state = {found.reference: found.state for found in registry.checkpoints(PROJECT)}
    assert state == {
        "digits/run-1@0": "forgotten",
        "digits/run-1@1": "live",
        "digits/run-1@2": "live",
        "digits/run-1@3": "live",
    }


def test_a_policy_that_changes_while_a_plan_is_applied_stops_it(registry: Registry) -> None:
    policy(registry)
    building.run(registry, "run-1", steps=4)
    plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
    steps = interrupted(registry, plan.id)
    policy(registry, forget_after="90d")

    with pytest.raises(PlanRefusedError, match="the policy has changed since"):
        list(steps)
    assert all(found.state == "live" for found in registry.checkpoints(PROJECT))


def test_a_tombstone_names_rule_reason_and_approver(registry: Registry) -> None:
    policy(registry)
    building.run(registry, "run-1")
    plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
    registry.apply_plan(plan.id)
    rows = registry.catalog.read(lambda conn: list(conn.execute(sa.select(tables.tombstone))))

    assert {row.approver for row in rows} == {"tester"}
    assert {row.rule for row in rows} == {"forget_after"}
    assert all(row.reason and row.plan == plan.id for row in rows)


def test_every_leaf_that_may_unsettle_a_decision_is_known_to_the_fold() -> None:
    assert set(fold._HANDLERS) >= applying.UNSETTLING


def test_a_plan_slims_and_archives_what_grows_old(registry: Registry) -> None:
    policy(registry, forget_after="90d", slim_after="0s")
    made = building.trained(registry, steps=4)
    plan = registry.plan_retention(PROJECT)
    assert [item.reference for item in plan.chosen("slim")] == [
        found.reference for found in made[:3]
    ]
    registry.approve_plan(plan.id)
    slimmed = registry.apply_plan(plan.id)
    policy(registry, forget_after="90d", slim_after="0s", archive_after="0s")
    second = registry.approve_plan(registry.plan_retention(PROJECT).id)
    archived = registry.apply_plan(second.id)

    assert slimmed.slimmed == archived.archived == tuple(found.reference for found in made[:3])
    assert [registry.get(found.id).tier for found in made] == ["cold"] * 3 + ["hot"]
    assert [item.action for item in registry.plan_retention(PROJECT).items if item.size] == (
        ["keep"] * 4
    )
    assert registry.read(made[0].reference, "model.safetensors")
    assert registry.prune(grace=0).disagreements == ()


def test_what_is_held_since_is_neither_slimmed_nor_archived(registry: Registry) -> None:
    policy(registry, archive_after="0s", forget_after="90d")
    made = building.trained(registry, steps=3)
    plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
    registry.place_hold(made[0].reference, "case", "asked for")
    applied = registry.apply_plan(plan.id)

    assert applied.archived == (made[1].reference,)
    assert "case" in applied.skipped[made[0].reference]
