"""Everything is kept or forgotten with a reason, and nothing that is held is forgotten."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain.keeping import Retention
from artifact_pipelines.domain.policy import Policy, Select
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.retention import Action, Item, plan

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ACCURACY = Select(metric="accuracy")


def rules(forget_after: str | None = "0s", **keep: Any) -> Retention:
    keep = {"last": 0, "best": 0, **keep}
    return Policy.of({"retention": {"keep": keep, "forget_after": forget_after}}).retention


def checkpoint(step: int, run: str = "run-1", **changes: Any) -> Item:
    published = changes.pop("published", NOW - timedelta(days=10))
    metric, holds = changes.pop("metric", None), changes.pop("holds", ())
    return Item(f"{run}@{step}", Kind.CHECKPOINT, run, step, published, metric, holds)


def kept(items: list[Item], policy: Retention, select: Select | None = None) -> set[str]:
    return {found.id for found in plan(items, policy, select, NOW) if found.action is Action.KEEP}


def test_steps_order_as_numbers() -> None:
    items = [checkpoint(step) for step in (9, 100, 10, 99)]

    assert kept(items, rules(last=2)) == {"run-1@99", "run-1@100"}


def test_every_run_keeps_its_own_last() -> None:
    items = [checkpoint(step, run) for run in ("run-1", "run-2") for step in (1, 2)]

    assert kept(items, rules(last=1)) == {"run-1@2", "run-2@2"}


@pytest.mark.parametrize("mode,best", [("max", 2), ("min", 3)])
def test_the_best_are_best_in_the_direction_that_is_selected_by(mode: str, best: int) -> None:
    items = [checkpoint(step, metric=float(step % 3)) for step in (1, 2, 3)]
    found = kept(items, rules(best=1), Select.model_validate({"metric": "loss", "mode": mode}))

    assert found == {f"run-1@{best}"}


@pytest.mark.parametrize("worthless", [float("nan"), float("inf"), None])
def test_a_metric_that_is_no_number_is_never_the_best(worthless: float | None) -> None:
    items = [checkpoint(1, metric=0.1), checkpoint(2, metric=worthless)]

    assert kept(items, rules(best=1), ACCURACY) == {"run-1@1"}


def test_multiples_of_a_step_stay() -> None:
    items = [checkpoint(step) for step in (0, 50, 100, 150, 200)]

    assert kept(items, rules(every=100)) == {"run-1@0", "run-1@100", "run-1@200"}


def test_what_is_young_enough_stays() -> None:
    items = [checkpoint(day, published=NOW - timedelta(days=day)) for day in (1, 2, 3)]

    assert kept(items, rules(within="2d")) == {"run-1@1", "run-1@2"}
    assert kept(items, rules("3d")) == {"run-1@1", "run-1@2"}


@pytest.mark.parametrize(
    "rule,hours,steps",
    [
        ("hourly", 0.25, {38, 39}),
        ("daily", 6, {36, 39}),
        ("weekly", 42, {38, 39}),
        ("monthly", 120, {34, 39}),
        ("yearly", 3_000, {36, 39}),
    ],
)
def test_the_newest_of_the_last_periods_stay(rule: str, hours: float, steps: set[int]) -> None:
    age = timedelta(hours=hours)
    items = [checkpoint(step, published=NOW - age * (39 - step)) for step in range(40)]

    assert kept(items, rules("0s", **{rule: 2})) == {f"run-1@{step}" for step in steps}


def test_a_policy_without_forget_after_forgets_nothing() -> None:
    items = [checkpoint(1), checkpoint(2)]

    assert kept(items, rules(None)) == {"run-1@1", "run-1@2"}


def test_what_production_points_at_stays() -> None:
    model = Item("m", Kind.MODEL, None, None, NOW, None, ("digits@production points at it",))
    other = Item("n", Kind.MODEL, None, None, NOW, None)
    (first, second) = plan([model, other], rules(), None, NOW)

    assert (first.action, first.rule, first.reasons) == (Action.KEEP, "hold", model.holds)
    assert second.action is Action.FORGET


def test_the_resume_point_of_a_live_run_stays() -> None:
    resume = checkpoint(3, metric=0.1, holds=("its run would resume from it",))
    items = [checkpoint(2, metric=0.9), resume]

    assert kept(items, rules(best=1), ACCURACY) == {"run-1@2", "run-1@3"}


items_drawn = st.lists(
    st.builds(
        Item,
        st.uuids().map(str),
        st.sampled_from(Kind),
        st.sampled_from(["run-1", "run-2"]),
        st.integers(0, 2_000),
        st.integers(0, 500).map(lambda days: NOW - timedelta(days=days)),
        st.none() | st.floats(),
        st.sampled_from([(), (), ("production points at it",)]),
    ),
    max_size=25,
)
rules_drawn = st.builds(
    lambda forget, keep: rules(forget, **{name: count for name, count in keep.items() if count}),
    st.sampled_from([None, "0s", "30d"]),
    st.fixed_dictionaries(
        {
            name: st.integers(0, 4)
            for name in ("last", "best", "every", "hourly", "daily", "weekly", "monthly", "yearly")
        }
    ),
)


@given(items=items_drawn, policy=rules_drawn, select=st.sampled_from([None, ACCURACY]))
def test_every_item_has_one_decision_with_a_reason(
    items: list[Item], policy: Retention, select: Select | None
) -> None:
    decisions = plan(items, policy, select, NOW)

    assert [found.id for found in decisions] == [item.id for item in items]
    assert all(found.reasons and all(found.reasons) for found in decisions)


@given(items=items_drawn, policy=rules_drawn, select=st.sampled_from([None, ACCURACY]))
def test_nothing_held_and_no_dataset_or_run_is_forgotten(
    items: list[Item], policy: Retention, select: Select | None
) -> None:
    stays = kept(items, policy, select)
    gone = [item for item in items if item.id not in stays]

    assert not any(item.holds for item in gone)
    assert {item.kind for item in gone} <= {Kind.CHECKPOINT, Kind.MODEL}


@given(items=items_drawn, last=st.integers(1, 5))
def test_last_keeps_that_many_of_the_highest_steps_of_every_run(
    items: list[Item], last: int
) -> None:
    stays = kept(items, rules(last=last))
    for run in ("run-1", "run-2"):
        steps = sorted(
            item.step or 0 for item in items if item.kind is Kind.CHECKPOINT and item.run == run
        )
        left = sorted(
            item.step or 0
            for item in items
            if item.kind is Kind.CHECKPOINT and item.run == run and item.id in stays
        )

        assert left[-last:] == steps[-last:]


@given(items=items_drawn, policy=rules_drawn, data=st.data())
def test_the_order_of_the_items_decides_nothing(
    items: list[Item], policy: Retention, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(items))

    assert kept(shuffled, policy, ACCURACY) == kept(items, policy, ACCURACY)


@given(items=items_drawn, policy=rules_drawn)
def test_a_longer_keep_keeps_no_less(items: list[Item], policy: Retention) -> None:
    keep = policy.keep.model_copy(update={"last": policy.keep.last + 1})
    longer = policy.model_copy(update={"keep": keep})

    assert kept(items, policy, ACCURACY) <= kept(items, longer, ACCURACY)
