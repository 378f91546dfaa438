"""A back-test says what a policy would have saved, and what it would have taken too early."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Input
from artifact_pipelines.registry import Registry, surveying
from artifact_pipelines.registry.backtesting import _held_then, _History
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def tried(**retention: Any) -> Policy:
    return Policy.of({**building.POLICY.document(), "retention": retention})


STRICT = tried(keep={"last": 1, "best": 0}, forget_after="0s", max_share=1.0)


def test_a_policy_that_keeps_everything_saves_nothing(registry: Registry) -> None:
    registry.set_policy(PROJECT, tried(keep={"last": 99}))
    building.run(registry, "run-1")
    found = registry.backtest(PROJECT)

    assert (found.forgotten, found.saved, found.regrets) == (0, 0, ())
    assert found.artifacts == 5


def test_what_would_have_gone_is_counted_and_nothing_goes(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    made = building.run(registry, "run-1", steps=4)
    found = registry.backtest(PROJECT, STRICT)

    assert found.forgotten == 3
    assert found.saved == sum(one.size for one in made[:3])
    assert all(one.state == "live" for one in registry.checkpoints(PROJECT))


def test_what_was_used_after_it_would_have_gone_is_named(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    made = building.run(registry, "run-1")
    registry.start_run(PROJECT, "run-2", inputs=[Input("resume", made[0].id)])
    model = registry.publish_model(made[1])
    found = registry.backtest(PROJECT, STRICT)
    regrets = {regret.reference: regret.how for regret in found.regrets}

    assert regrets == {
        "digits/run-1@0": "digits/run-2 was made from it",
        "digits/run-1@1": f"{model.reference} was made from it",
    }
    assert all(regret.removed < regret.used for regret in found.regrets)


@pytest.mark.parametrize("rollback,held", [(0, {2}), (1, {2, 1, 9})])
def test_what_stages_needed_then_counts_as_held_then(
    registry: Registry, rollback: int, held: set[int]
) -> None:
    first, second = (datetime(2026, 11, day, tzinfo=UTC) for day in (1, 2))
    moves = [(first, "production", 1), (second, "production", 2)]
    policy = tried(rollback=rollback)
    nothing = registry.catalog.read(surveying.survey, PROJECT, policy)
    history = _History(nothing, {}, moves, [], {}, {1: [9]})

    def then(at: datetime) -> set[int]:
        return {leaf for leaf, _ in _held_then(history, at, policy)}

    assert then(first - timedelta(days=1)) == set()
    assert then(first) == {1, 9}
    assert then(second) == held


def test_a_back_test_of_what_really_happened_agrees_with_it(registry: Registry) -> None:
    registry.set_policy(PROJECT, STRICT)
    building.run(registry, "run-1", steps=4)
    plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
    gone = registry.apply_plan(plan.id).forgotten

    assert registry.backtest(PROJECT).forgotten == len(gone) == 3
