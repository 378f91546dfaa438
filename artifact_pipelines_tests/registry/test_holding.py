"""What a hold keeps, it keeps: each kind of hold, at planning and at the last moment."""

from typing import Any

import pytest

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import ConflictError, GoneError, UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def strict(registry: Registry, project: str = PROJECT, **retention: Any) -> None:
    """Put a policy in force under which everything may go that nothing holds."""
    document = {"keep": {"last": 0, "best": 0}, "forget_after": "0s", "max_share": 1, **retention}
    registry.set_policy(project, Policy.of({**building.POLICY.document(), "retention": document}))


def forgotten(registry: Registry, project: str = PROJECT) -> set[str]:
    plan = registry.plan_retention(project)
    registry.approve_plan(plan.id)
    return set(registry.apply_plan(plan.id).forgotten)


def reasons(registry: Registry, reference: str) -> list[str]:
    return registry.held().get(registry.find(reference).id, [])


def test_a_hold_says_who_placed_it_and_why(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.place_hold("digits/run-1@0", "lawsuit", "the court asked for it")

    (hold,) = registry.holds(PROJECT)
    assert (hold.artifact.reference, hold.name, hold.reason, hold.by, hold.inputs) == (
        *("digits/run-1@0", "lawsuit", "the court asked for it", "tester", False),
    )
    assert registry.holds("churn") == []
    assert reasons(registry, "digits/run-1@0") == ["the hold 'lawsuit': the court asked for it"]


def test_a_lifted_hold_holds_nothing(registry: Registry) -> None:
    strict(registry)
    building.run(registry, "run-1")
    registry.place_hold("digits/run-1@0", "lawsuit", "asked for")
    assert forgotten(registry) == {"digits/run-1@1", "digits/run-1@2"}
    registry.lift_hold("digits/run-1@0", "lawsuit", "settled")

    assert registry.holds() == []
    assert forgotten(registry) == {"digits/run-1@0"}


def test_a_hold_is_placed_once_and_lifted_once(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.place_hold("digits/run-1@0", "lawsuit", "asked for")

    with pytest.raises(ConflictError, match="on hold as 'lawsuit' already"):
        registry.place_hold("digits/run-1@0", "lawsuit", "again")
    registry.place_hold("digits/run-1@0", "audit", "asked for as well")
    registry.lift_hold("digits/run-1@0", "lawsuit", "settled")
    with pytest.raises(UnknownArtifactError, match="has no hold 'lawsuit'"):
        registry.lift_hold("digits/run-1@0", "lawsuit", "twice")
    assert [hold.name for hold in registry.holds()] == ["audit"]


def test_nothing_can_hold_what_was_forgotten(registry: Registry) -> None:
    strict(registry)
    building.run(registry, "run-1")
    forgotten(registry)

    with pytest.raises(GoneError, match="was forgotten"):
        registry.place_hold("digits/run-1@0", "lawsuit", "too late")


def test_a_hold_with_inputs_holds_all_that_it_was_made_from(registry: Registry) -> None:
    strict(registry, rules=[{"kind": "dataset", "forget_after": "0s"}])
    checkpoints = building.run(registry, "run-1")
    model = registry.publish_model(checkpoints[1])
    registry.place_hold(model.reference, "lawsuit", "asked for", inputs=True)

    assert forgotten(registry) == {"digits/run-1@0", "digits/run-1@2"}
    assert reasons(registry, "digits/images@1")[0].endswith("which was made from it, is on hold")


def test_a_hold_without_inputs_lets_them_go(registry: Registry) -> None:
    strict(registry, rules=[{"kind": "dataset", "forget_after": "0s"}])
    building.run(registry, "run-1")
    registry.place_hold("digits/run-1@1", "lawsuit", "asked for")

    assert "digits/images@1" in forgotten(registry)


@pytest.mark.parametrize(
    "window,held", [(0, set()), (1, {"digits/v2"}), (2, {"digits/v1", "digits/v2"})]
)
def test_the_rollback_window_is_the_policys(
    registry: Registry, window: int, held: set[str]
) -> None:
    for name, seed in (("run-1", 1), ("run-2", 2), ("run-3", 3)):
        building.promoted(registry, name, seed)
    strict(registry, rollback=window)

    models = {model.reference for model in registry.models(PROJECT)}
    gone = forgotten(registry)
    assert models - gone == {"digits/v3"} | held
    assert registry.verify("digits@production").ok


def test_what_the_signed_log_serves_is_held_while_a_move_is_pending(registry: Registry) -> None:
    old = building.promoted(registry, "run-1", 1)
    new = building.candidate(registry, "run-2", 2)
    building.approve(registry, new)
    for reached in registry.promotion(new, "production"):
        if reached == "exported":
            break
    strict(registry, rollback=0)

    assert registry.resolve("digits@production").model == old
    assert "the signed log serves it as digits@production" in reasons(registry, old.reference)
    assert old.reference not in forgotten(registry)


def test_what_another_run_resumed_from_is_held_until_that_run_has_its_own(
    registry: Registry,
) -> None:
    strict(registry)
    last = building.run(registry, "run-1")[-1]
    inputs = [Input("resume", last.id)]
    run = registry.start_run(PROJECT, "run-2", params={}, inputs=inputs)
    assert reasons(registry, last.reference) == ["a run that has not finished goes on from it"]
    registry.publish_checkpoint(run, {"m.bin": b"1"}, step=3)

    assert reasons(registry, last.reference) == []
    assert reasons(registry, "digits/run-2@3") != []


def test_what_is_being_read_is_held(registry: Registry) -> None:
    strict(registry)
    checkpoint = building.run(registry, "run-1")[0]
    with registry._reading(checkpoint):
        assert forgotten(registry) == {"digits/run-1@1", "digits/run-1@2"}

    assert registry.verify(checkpoint.reference).ok


def test_an_approved_plan_holds_its_items_against_another(registry: Registry) -> None:
    strict(registry)
    building.run(registry, "run-1")
    first = registry.approve_plan(registry.plan_retention(PROJECT).id)
    building.run(registry, "run-2", seed=2)
    second = registry.plan_retention(PROJECT)

    assert {item.reference for item in second.chosen("forget")} == {
        f"digits/run-2@{step}" for step in range(3)
    }
    assert "is approved and not applied yet" in second.items[2].reasons[0]
    assert len(registry.apply_plan(first.id).forgotten) == 3
