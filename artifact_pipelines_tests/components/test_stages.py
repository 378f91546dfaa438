"""A stage moves with proof, and says what to do when it does not move."""

from typing import Any, NoReturn

import pytest

from artifact_pipelines.errors import ConflictError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.world import PROJECT, World


def model(world: World, run: str, seed: float = 0) -> str:
    """Train a run whose model passes, and return the model."""
    world.materialize("datasets")
    outcome = world.materialize("train", run, train={"params": {"seed": seed}})
    return str(outcome.shown("candidate")["reference"])


def test_the_newest_model_that_passed_goes_to_staging(world: World) -> None:
    model(world, "run-1")
    model(world, "run-2", seed=0.1)
    outcome = world.materialize("promote_staging")

    assert outcome.shown("staging")["reference"] == "churn/v2"
    with world.registry() as registry:
        assert registry.stages(PROJECT)["staging"].reference == "churn/v2"


def test_a_stage_that_takes_the_best_keeps_it_from_worse_and_not_from_better(world: World) -> None:
    world.change(promotion={"staging": "best", "production": {"approvals": 1}})
    reached = []
    for number, seed in enumerate((0.2, 0.1, 0.3)):
        model(world, f"run-{number}", seed=seed)
        world.materialize("promote_staging")
        with world.registry() as registry:
            reached.append(registry.stages(PROJECT)["staging"].reference)

    assert reached == ["churn/v1", "churn/v1", "churn/v3"]
    with world.registry() as registry:
        assert registry.promote("churn/v2", "staging").changed


def test_what_is_in_place_stays_and_is_shown(world: World) -> None:
    model(world, "run-1")
    first = world.materialize("promote_staging").shown("staging")
    again = world.materialize("promote_staging").shown("staging")

    assert (first["moved_now"], again["moved_now"]) == (True, False)
    assert first["ledger_leaf"] == again["ledger_leaf"]
    with world.registry() as registry:
        assert len(registry.history(PROJECT, "staging")) == 1


def test_a_rollback_stays_until_something_newer_passes(world: World) -> None:
    model(world, "run-1")
    world.materialize("promote_staging")
    model(world, "run-2", seed=0.1)
    world.materialize("promote_staging")
    with world.registry() as registry:
        registry.rollback(PROJECT, "staging")
    after = world.materialize("promote_staging").shown("staging")["reference"]
    model(world, "run-3", seed=0.2)
    newer = world.materialize("promote_staging").shown("staging")["reference"]

    assert (after, newer) == ("churn/v1", "churn/v3")


def test_staging_without_a_model_that_passed_says_why(world: World) -> None:
    nothing = world.materialize("promote_staging")
    world.change(gates=[{"metric": "accuracy", "min": 0.9}])
    model(world, "run-1")
    failed = world.materialize("promote_staging")

    assert "there is no model yet" in nothing.failure
    assert "churn/v3: the gate accuracy_min failed" in failed.failure


def test_a_stage_that_is_to_move_if_it_can_stays_where_it_cannot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Any = {"staging": {"if_ready": True}}
    nothing = world.materialize("promote_staging", **asked)
    model(world, "run-1")
    with monkeypatch.context() as patched:
        patched.setattr(Registry, "promote", _moved_meanwhile)
        beaten = world.materialize("promote_staging", **asked)
    moved = world.materialize("promote_staging", **asked)
    again = world.materialize("promote_staging", **asked)

    assert [one.success for one in (nothing, beaten, moved, again)] == [True] * 4
    assert nothing.assets() == beaten.assets() == again.assets() == []
    assert moved.shown("staging")["reference"] == "churn/v1"


def _moved_meanwhile(_registry: Registry, reference: str, stage: str) -> NoReturn:
    raise ConflictError(f"{stage} was moved while {reference} was to be promoted.")


def test_production_asks_for_a_request_then_for_an_approval(world: World) -> None:
    name = model(world, "run-1")
    world.materialize("promote_staging")
    unasked = world.materialize("promote_production")
    with world.registry() as registry:
        registry.request(name, "production")
    unapproved = world.materialize("promote_production")
    with world.registry() as registry:
        registry.create_key("reviewer")
        registry.approve(name, "production", "reviewer")
    approved = world.materialize("promote_production")
    again = world.materialize("promote_production")

    assert f"artifact-pipelines model request {name} --stage production" in unasked.failure
    assert f"artifact-pipelines model approve {name} --stage production" in unapproved.failure
    assert approved.shown("production")["reference"] == name
    assert again.shown("production")["moved_now"] is False


def test_a_named_model_is_refused_with_every_reason(world: World) -> None:
    name = model(world, "run-1")
    outcome = world.materialize("promote_production", production={"model": name})

    assert outcome.failure.startswith(f"{name} may not be promoted to production: ")
    assert "approvals" in outcome.failure


def test_two_approved_models_are_a_choice_for_a_person(world: World) -> None:
    with world.registry() as registry:
        registry.create_key("reviewer")
    for run, seed in (("run-1", 0.0), ("run-2", 0.1)):
        name = model(world, run, seed)
        with world.registry() as registry:
            registry.request(name, "production")
            registry.approve(name, "production", "reviewer")
    outcome = world.materialize("promote_production")
    chosen = world.materialize("promote_production", production={"model": "churn/v1"})

    assert "churn/v1 and churn/v2 are approved; name one" in outcome.failure
    assert chosen.shown("production")["reference"] == "churn/v1"


def test_what_is_no_model_is_refused(world: World) -> None:
    model(world, "run-1")
    outcome = world.materialize("promote_staging", staging={"model": "churn/run-1@3"})

    assert "not a model" in outcome.failure
