"""A plan is made every night, and only an approved one is carried out."""

from artifact_pipelines.domain.keeping import Action
from artifact_pipelines_tests.world import PROJECT, World


def planned(world: World) -> str:
    """Make a plan for a project with one run, and return its id."""
    world.materialize("datasets")
    world.materialize("train", "run-1", train={"params": {"epochs": 4}})
    outcome = world.materialize("retention")
    assert outcome.shown("retention_plan")["to_forget"] > 0
    with world.registry() as registry:
        return registry.plans(PROJECT)[-1].id


def test_an_unapproved_plan_waits(world: World) -> None:
    planned(world)
    outcome = world.materialize("cleanup")

    shown = outcome.shown("cleanup")
    assert (shown["plans"], shown["forgotten"], shown["waiting_for_approval"]) == (0, 0, 1)


def test_an_approved_plan_is_carried_out_once(world: World) -> None:
    plan = planned(world)
    with world.registry() as registry:
        registry.approve_plan(plan)
        forget = [item for item in registry.plan(plan).items if item.action == "forget"]
    first = world.materialize("cleanup").shown("cleanup")
    again = world.materialize("cleanup").shown("cleanup")

    assert (first["plans"], first["forgotten"]) == (1, len(forget))
    assert (again["plans"], again["forgotten"]) == (0, 0)


def test_a_plan_shows_why_each_item_may_go(world: World) -> None:
    planned(world)
    items = world.materialize("retention").shown("retention_plan")["items"].records

    assert {item.data["action"] for item in items} == {"keep", "forget"}
    assert all(item.data["why"] for item in items)


def test_a_plan_that_outlived_its_policy_keeps_nobody_waiting(world: World) -> None:
    plan = planned(world)
    with world.registry() as registry:
        registry.approve_plan(plan)
    world.change(retention={"keep": {"last": 2, "best": 1}, "forget_after": "0d"})
    outcome = world.materialize("cleanup")

    assert outcome.success
    assert outcome.shown("cleanup")["refused"] == 1
    assert "the policy has changed since" in outcome.shown("cleanup")["kept_after_all"]


def test_what_a_plan_archives_is_archived_in_shards(world: World) -> None:
    world.materialize("datasets")
    world.materialize("train", "run-1", train={"params": {"epochs": 4}})
    world.change(retention={"keep": {"last": 1}, "archive_after": "0s", "forget_after": "90d"})
    world.materialize("retention")
    with world.registry() as registry:
        plan = registry.plans(PROJECT)[-1]
        chosen = {item.reference for item in plan.chosen(Action.ARCHIVE)}
        registry.approve_plan(plan.id)
    outcome = world.materialize("cleanup")

    assert chosen
    assert outcome.shown("cleanup")["archived"] == len(chosen)
    shards = [event.step_key for event in outcome.result.all_events if event.is_step_success]
    assert [key for key in shards if key and "shard[" in key]
    with world.registry() as registry:
        assert {registry.find(one).tier for one in chosen} == {"cold"}
        assert registry.plan(plan.id).state == "applied"
