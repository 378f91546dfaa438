"""Everything is kept or forgotten with a reason, and nothing that is held is forgotten."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact_pipelines.domain.keeping import Action, Retention
from artifact_pipelines.domain.policy import Policy, Select
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.retention import Item, plan
from artifact_pipelines.errors import PolicyError
from artifact_pipelines_tests.domain import plainly

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ACCURACY = Select(metric="accuracy")


def of(**document: Any) -> Retention:
    keep = {"last": 0, "best": 0, **document.pop("keep", {})}
    return Policy.of({"retention": {"keep": keep, **document}}).retention


def rules(forget_after: str | None = "0s", **keep: Any) -> Retention:
    return of(keep=keep, forget_after=forget_after)


def checkpoint(step: int, run: str = "run-1", **changes: Any) -> Item:
    published = changes.pop("published", NOW - timedelta(days=10))
    metric = changes.pop("metric", None)
    metrics = {} if metric is None else {"accuracy": metric, "loss": metric}
    return Item(
        f"{run}@{step}", Kind.CHECKPOINT, run, step, published, **{"metrics": metrics, **changes}
    )


def aged(days: float) -> datetime:
    return NOW - timedelta(days=days)


def actions(items: list[Item], policy: Retention) -> dict[str, str]:
    return {found.id: str(found.action) for found in plan(items, policy, None, NOW)}


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
    model = Item("m", Kind.MODEL, None, None, NOW, {}, ("digits@production points at it",))
    other = Item("n", Kind.MODEL, None, None, NOW)
    (first, second) = plan([model, other], rules(), None, NOW)

    assert (first.action, first.rule, first.reasons) == (Action.KEEP, "hold", model.holds)
    assert second.action is Action.FORGET


def test_the_resume_point_of_a_live_run_stays() -> None:
    resume = checkpoint(3, metric=0.1, holds=("its run would resume from it",))
    items = [checkpoint(2, metric=0.9), resume]

    assert kept(items, rules(best=1), ACCURACY) == {"run-1@2", "run-1@3"}


GOLDEN = [
    # One checkpoint a week, the youngest (step 12) to the right; d days old and so on.
    ({"keep": {"last": 3}, "forget_after": "0s"}, "fffffffffkkk"),
    ({"keep": {"last": 1}, "forget_after": "0s"}, "fffffffffffk"),
    ({"keep": {"last": 12}, "forget_after": "0s"}, "kkkkkkkkkkkk"),
    ({"keep": {"best": 2}, "forget_after": "0s"}, "ffffffkffffk"),
    ({"keep": {"best": {"metric": "loss", "mode": "min"}}, "forget_after": "0s"}, "fffffkffffff"),
    ({"keep": {"every": 4}, "forget_after": "0s"}, "fffkfffkfffk"),
    ({"keep": {"every": "3w"}, "forget_after": "0s"}, "kffkffkffkff"),
    ({"keep": {"within": "14d"}, "forget_after": "0s"}, "fffffffffkkk"),
    ({"keep": {"final": True}, "forget_after": "0s"}, "fffffffffffk"),
    ({"keep": {"weekly": 2}, "forget_after": "0s"}, "ffffffffffkk"),
    ({"keep": {"monthly": 3}, "forget_after": "0s"}, "fffkfffkfffk"),
    ({"keep": {"yearly": 5}, "forget_after": "0s"}, "fffffffffffk"),
    ({"keep": {"last": 1}, "forget_after": "8w"}, "ffffkkkkkkkk"),
    ({"keep": {"last": 1}}, "kkkkkkkkkkkk"),
    ({"keep": {"last": 1}, "archive_after": "4w"}, "aaaaaaaakkkk"),
    ({"archive_after": "4w", "forget_after": "8w"}, "ffffaaaakkkk"),
    ({"slim_after": "2w", "archive_after": "4w", "forget_after": "8w"}, "ffffsssssskk"),
    ({"max_bytes": "600B"}, "ffffffkkkkkk"),
    ({"keep": {"last": 8}, "max_bytes": "600B"}, "ffffkkkkkkkk"),
    ({"max_bytes": "600B", "forget_after": "10w"}, "ffffffkkkkkk"),
    ({"forget_after": "0s", "rules": [{"tag": "golden", "forget_after": "never"}]}, "ffkffffffkff"),
    (
        {"forget_after": "0s", "rules": [{"tag": "golden=yes", "forget_after": "never"}]},
        "ffkfffffffff",
    ),
    ({"rules": [{"state": "interim", "forget_after": "0s"}]}, "fffffffkffff"),
    ({"rules": [{"older_than": "9w", "forget_after": "0s"}]}, "ffkkkkkkkkkk"),
    (
        {"forget_after": "0s", "rules": [{"younger_than": "2w", "forget_after": "never"}]},
        "ffffffffffkk",
    ),
    ({"forget_after": "0s", "rules": [{"stage": "staging", "forget_after": "4w"}]}, "ffffffffkfff"),
    (
        {
            "forget_after": "0s",
            "rules": [
                {"state": "interim", "keep": {"last": 2, "best": 0}},
                {"keep": {"last": 8, "best": 0}},
            ],
        },
        "fffffffkffkk",
    ),
]


def golden(step: int) -> Item:
    """Return a checkpoint that is a week older than the next, with things to tell it by."""
    return checkpoint(
        step,
        published=aged((12 - step) * 7),
        size=100,
        training_bytes=60,
        final=step == 12,
        ready=step == 8,
        stages=frozenset({"staging"} if step in {2, 9} else ()),
        tags={3: {"golden": "yes"}, 10: {"golden": "no"}}.get(step, {}),
        metrics={"accuracy": {7: 0.9, 12: 0.8}.get(step, 0.5), "loss": abs(step - 6)},
    )


@pytest.mark.parametrize("document,expected", GOLDEN)
def test_the_golden_table(document: dict[str, Any], expected: str) -> None:
    items = [golden(step) for step in range(1, 13)]
    decisions = plan(items, of(**document), ACCURACY, NOW)

    assert "".join(str(found.action)[0] for found in decisions) == expected


def test_limit_one_keeps_the_newest_and_not_nothing() -> None:
    assert kept([checkpoint(step) for step in range(5)], rules(last=1)) == {"run-1@4"}
    assert kept([checkpoint(7)], rules(last=1)) == {"run-1@7"}


def test_a_kept_checkpoint_is_neither_archived_nor_slimmed() -> None:
    policy = of(keep={"last": 1}, archive_after="1d", slim_after="1d")
    items = [checkpoint(1, training_bytes=1), checkpoint(2, training_bytes=1)]

    assert actions(items, policy) == {"run-1@1": "slim", "run-1@2": "keep"}


def test_what_is_slim_and_archived_already_stays_so() -> None:
    policy = of(archive_after="1d", slim_after="1d", forget_after="90d")

    assert actions([checkpoint(1)], policy) == {"run-1@1": "archive"}
    assert actions([checkpoint(1, archived=True)], policy) == {"run-1@1": "keep"}
    assert actions([checkpoint(1, archived=True, training_bytes=9)], policy)["run-1@1"] == "slim"


def test_a_model_goes_by_rules_of_its_own() -> None:
    policy = of(rules=[{"kind": "model", "keep": {"last": 2, "best": 0}, "forget_after": "0s"}])
    models = [Item(f"v{number}", Kind.MODEL, "digits", number, NOW) for number in (2, 9, 10)]

    assert actions(models, policy) == {"v2": "forget", "v9": "keep", "v10": "keep"}


def test_datasets_and_runs_go_only_where_a_rule_names_their_kind() -> None:
    data = Item("d", Kind.DATASET, "images", 1, aged(900))
    run = Item("r", Kind.TRAINING_RUN, "run-1", None, aged(900))
    named = of(forget_after="0s", rules=[{"kind": "dataset", "forget_after": "1d"}])

    assert actions([data, run], rules("0s")) == {"d": "keep", "r": "keep"}
    assert actions([data, run], named) == {"d": "forget", "r": "keep"}


PRICES = {
    "hot": {"storage": 0.02},
    "cold": {"storage": 0.001, "retrieval": 0.02, "minimum": "180d"},
    "reads": 0,
}


def test_what_would_cost_more_in_the_archive_is_not_archived() -> None:
    long = of(archive_after="1d", costs=PRICES)
    short = of(archive_after="1d", forget_after="14d", costs={**PRICES, "reads": 0})
    often = of(archive_after="1d", costs={**PRICES, "reads": 12})
    item = checkpoint(1, size=10**9)

    assert actions([item], long) == {"run-1@1": "archive"}
    assert actions([item], short) == {"run-1@1": "keep"}
    assert actions([item], often) == {"run-1@1": "keep"}
    (decision,) = plan([item], short, None, NOW)
    assert decision.rule == "costs"
    assert decision.reasons == (
        "it would cost 0.006 in the archive and costs 0.002667 where it is",
    )


@pytest.mark.parametrize(
    "document,field",
    [
        ({"max_bytes": "much"}, "max_bytes"),
        ({"keep": {"every": 0}}, "keep.every"),
        ({"keep": {"best": {"count": 2}}}, "keep.best"),
        ({"rules": [{"kind": "checkpoint"}]}, "rules.0"),
        ({"rules": [{"tag": "a", "forget_after": "soon"}]}, "rules.0.forget_after"),
        ({"costs": {"hot": {"storage": -1}, "cold": {"storage": 0}}}, "costs.hot.storage"),
        ({"automatic": {"share": 2}}, "automatic.share"),
    ],
)
def test_a_wrong_rule_is_refused_by_field(document: dict[str, Any], field: str) -> None:
    with pytest.raises(PolicyError, match=f"'retention.{field}'"):
        Policy.of({"retention": document})


def test_new_terms_left_out_change_no_digest() -> None:
    old = Policy.of({"retention": {"keep": {"last": 3, "best": 2, "every": 5}}})

    assert old.document() == {"retention": {"keep": {"last": 3, "best": 2, "every": 5}}}


def test_every_term_is_read_back_as_it_was_written() -> None:
    retention = {
        "keep": {
            "last": 3,
            "best": {"metric": "loss", "mode": "min", "count": 2},
            "every": "6h",
            "final": True,
        },
        "archive_after": "30d",
        "max_bytes": 10**9,
        "rules": [{"tag": "golden", "forget_after": "never", "keep": {"last": 4}}],
        "costs": {"hot": {"storage": 0.02}, "cold": {"storage": 0.01, "minimum": "90d"}},
        "automatic": {"share": 0.2, "bytes": 5},
        "plan_expires": "1w",
    }

    found = Policy.of({"retention": retention})
    assert Policy.of(found.document()) == found
    assert found.document() == {"retention": retention}


def test_a_size_beyond_what_a_json_number_carries_is_read_back() -> None:
    found = Policy.of({"retention": {"max_bytes": "20000TB"}})

    assert Policy.decode(found.encode()).retention == found.retention
    assert found.retention.max_bytes == 2 * 10**16


items_drawn = st.lists(
    st.builds(
        Item,
        st.uuids().map(str),
        st.sampled_from(Kind),
        st.sampled_from(["run-1", "run-2"]),
        st.integers(0, 2_000),
        st.integers(0, 500 * 24).map(lambda hours: NOW - timedelta(hours=hours)),
        st.just({})
        | (st.floats() | st.sampled_from([0.5, 0.9])).map(lambda value: {"accuracy": value}),
        st.sampled_from([(), (), ("production points at it",)]),
        st.integers(0, 10**9),
        st.integers(0, 10**8),
        archived=st.booleans(),
        final=st.booleans(),
        ready=st.booleans(),
        stages=st.sampled_from([frozenset[str](), frozenset({"staging"})]),
        tags=st.sampled_from([{}, {"golden": "yes"}]),
    ),
    max_size=12,
)
ages = st.sampled_from([None, "0s", "30d", "200d"])
rule_drawn = st.fixed_dictionaries(
    {"forget_after": st.sampled_from(["0s", "90d", "never"])},
    optional={
        "kind": st.sampled_from([str(kind) for kind in Kind]),
        "tag": st.sampled_from(["golden", "golden=yes", "none"]),
        "stage": st.just("staging"),
        "state": st.sampled_from(["interim", "production-ready"]),
        "older_than": st.just("60d"),
        "keep": st.fixed_dictionaries({"last": st.integers(0, 3), "best": st.integers(0, 3)}),
        "max_bytes": st.integers(0, 10**10),
    },
)
rules_drawn = st.builds(
    lambda keep, document: of(
        keep={name: count for name, count in keep.items() if count},
        **{name: value for name, value in document.items() if value is not None},
    ),
    st.fixed_dictionaries(
        {
            **{
                name: st.integers(0, 4)
                for name in ("last", "best", "hourly", "daily", "weekly", "monthly", "yearly")
            },
            "every": st.sampled_from([None, 3, "36h", "5d"]),
            "within": st.sampled_from([None, "20d"]),
            "final": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "forget_after": ages,
            "archive_after": ages,
            "slim_after": ages,
            "max_bytes": st.none() | st.integers(0, 10**10),
            "rules": st.lists(rule_drawn, max_size=3),
            "costs": st.sampled_from([None, PRICES]),
        }
    ),
)


@settings(max_examples=300)
@given(items=items_drawn, policy=rules_drawn, select=st.sampled_from([None, ACCURACY]))
def test_a_decision_by_columns_is_the_decision_item_by_item(
    items: list[Item], policy: Retention, select: Select | None
) -> None:
    assert plan(items, policy, select, NOW) == plainly.plan(items, policy, select, NOW)


@given(items=items_drawn, policy=rules_drawn, select=st.sampled_from([None, ACCURACY]))
def test_every_item_has_one_decision_with_a_reason(
    items: list[Item], policy: Retention, select: Select | None
) -> None:
    decisions = plan(items, policy, select, NOW)

    assert [found.id for found in decisions] == [item.id for item in items]
    assert all(found.reasons and all(found.reasons) for found in decisions)


@given(items=items_drawn, policy=rules_drawn, select=st.sampled_from([None, ACCURACY]))
def test_what_stays_and_what_goes_are_all_there_is(
    items: list[Item], policy: Retention, select: Select | None
) -> None:
    decisions = plan(items, policy, select, NOW)
    stays = {found.id for found in decisions if found.action is not Action.FORGET}
    goes = {found.id for found in decisions if found.action is Action.FORGET}

    assert stays | goes == {item.id for item in items}
    assert not stays & goes


@given(items=items_drawn, policy=rules_drawn, select=st.sampled_from([None, ACCURACY]))
def test_nothing_that_is_held_is_touched(
    items: list[Item], policy: Retention, select: Select | None
) -> None:
    touched = {
        found.id for found in plan(items, policy, select, NOW) if found.action is not Action.KEEP
    }

    assert not any(item.holds for item in items if item.id in touched)


@given(items=items_drawn, policy=rules_drawn, select=st.sampled_from([None, ACCURACY]))
def test_no_dataset_or_run_goes_unless_a_rule_names_its_kind(
    items: list[Item], policy: Retention, select: Select | None
) -> None:
    named = {Kind.CHECKPOINT, Kind.MODEL} | {Kind(rule.kind) for rule in policy.rules}
    stays = kept(items, policy, select)

    assert {item.kind for item in items if item.id not in stays} <= named


@given(items=items_drawn, policy=rules_drawn)
def test_only_what_can_be_is_slimmed_or_archived(items: list[Item], policy: Retention) -> None:
    by_id = {item.id: item for item in items}
    for found in plan(items, policy, ACCURACY, NOW):
        item = by_id[found.id]

        assert found.action is not Action.SLIM or item.training_bytes
        assert found.action is not Action.ARCHIVE or not item.archived


@given(items=items_drawn, policy=rules_drawn)
def test_a_plan_of_what_stayed_forgets_nothing_more(items: list[Item], policy: Retention) -> None:
    first = {found.id: found for found in plan(items, policy, ACCURACY, NOW)}
    left = [item for item in items if first[item.id].action is not Action.FORGET]
    again = plan(left, policy, ACCURACY, NOW)

    assert [found.id for found in again if found.action is Action.FORGET] == []


@given(items=items_drawn, limit=st.integers(0, 10**10))
def test_bytes_stay_within_their_limit_as_far_as_nothing_keeps_them(
    items: list[Item], limit: int
) -> None:
    policy = of(max_bytes=limit)
    decisions = {found.id: found for found in plan(items, policy, None, NOW)}
    chosen = [item for item in items if item.kind is Kind.CHECKPOINT]
    stay = [item for item in chosen if decisions[item.id].action is not Action.FORGET]

    assert sum(item.size for item in stay) <= limit or all(item.holds for item in stay if item.size)


@given(items=items_drawn, last=st.integers(1, 5))
def test_last_keeps_that_many_of_the_highest_steps_of_every_run(
    items: list[Item], last: int
) -> None:
    stays = kept(items, rules(last=last))
    for run in ("run-1", "run-2"):
        steps = sorted(
            item.number or 0 for item in items if item.kind is Kind.CHECKPOINT and item.group == run
        )
        left = sorted(
            item.number or 0
            for item in items
            if item.kind is Kind.CHECKPOINT and item.group == run and item.id in stays
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
