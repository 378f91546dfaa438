"""Metrics are held against floors, ceilings and what is in production."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain.gate import MetricBound, NoWorse
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates.case import Measured, Slice
from artifact_pipelines.gates.metrics import bound_finding, no_worse_finding

FLOOR = MetricBound(metric="accuracy", min=0.9)
CEILING = MetricBound(metric="loss", max=0.5)
RANGE = MetricBound(metric="calibration", min=0.9, max=1.1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def no_worse(tolerance: float = 0.005, mode: Any = "max") -> NoWorse:  # noqa: ANN401
    return NoWorse(metric="accuracy", no_worse_than="production", tolerance=tolerance, mode=mode)


def bound(gate: MetricBound, metrics: Mapping[str, Any]) -> Finding:
    return bound_finding(gate, Measured(metrics))


def compared(gate: NoWorse, mine: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> Finding:
    return no_worse_finding(gate, Measured(mine), None if theirs is None else Measured(theirs))


@pytest.mark.parametrize(
    "gate, value, passed, reason",
    [
        (FLOOR, 0.9, True, "accuracy 0.9000 is at least 0.9"),
        (FLOOR, 0.95, True, "accuracy 0.9500 is at least 0.9"),
        (FLOOR, 0.8999, False, "accuracy 0.8999 is below 0.9"),
        (CEILING, 0.5, True, "loss 0.5000 is at most 0.5"),
        (CEILING, 0.51, False, "loss 0.5100 is above 0.5"),
        (RANGE, 1.0, True, "calibration 1.0000 is at least 0.9 and at most 1.1"),
        (RANGE, 0.8, False, "calibration 0.8000 is below 0.9"),
        (RANGE, 1.2, False, "calibration 1.2000 is above 1.1"),
    ],
)
def test_floors_and_ceilings_are_within_their_bounds(
    gate: MetricBound, value: float, passed: bool, reason: str
) -> None:
    finding = bound(gate, {gate.metric: value})

    assert (finding.gate, finding.passed, finding.reasons) == (gate.name, passed, (reason,))
    assert finding.values[gate.metric] == value


@pytest.mark.parametrize(
    "value, reason",
    [
        (math.nan, "accuracy is nan, not a finite number"),
        (math.inf, "accuracy is inf, not a finite number"),
        (-math.inf, "accuracy is -inf, not a finite number"),
        ("0.99", "accuracy is '0.99', not a number"),
        (True, "accuracy is True, not a number"),
        (None, "accuracy is None, not a number"),
        ([0.99], "accuracy is [0.99], not a number"),
    ],
)
def test_what_is_no_finite_number_fails(value: Any, reason: str) -> None:  # noqa: ANN401
    for finding in (
        bound(FLOOR, {"accuracy": value}),
        compared(no_worse(), {"accuracy": value}, None),
        compared(no_worse(), {"accuracy": value}, {"accuracy": 0.1}),
    ):
        assert (finding.passed, finding.reasons) == (False, (reason,))


def test_a_number_of_numpy_is_a_number() -> None:
    finding = bound(FLOOR, {"accuracy": np.float32(0.95)})

    assert finding.passed
    assert type(finding.values["accuracy"]) is float


@pytest.mark.parametrize(
    "given_metrics, told", [({}, "nothing"), ({"recall": 1.0, "loss": 0.1}, "loss, recall")]
)
def test_a_missing_metric_fails_and_says_what_was_given(
    given_metrics: dict[str, float], told: str
) -> None:
    finding = bound(FLOOR, given_metrics)

    assert finding.reasons == (f"the evaluation gave no accuracy; it gave {told}",)
    assert not finding.passed


def test_nothing_in_production_is_nothing_to_be_worse_than() -> None:
    finding = compared(no_worse(), {"accuracy": 0.1}, None)

    assert finding.passed
    assert "nothing is in production yet" in finding.reasons[0]


@pytest.mark.parametrize(
    "mode, candidate, passed",
    [
        ("max", 0.945, True),
        ("max", 0.9449, False),
        ("max", 1.0, True),
        ("min", 0.955, True),
        ("min", 0.9551, False),
        ("min", 0.1, True),
    ],
)
def test_the_tolerance_counts_to_the_last_digit(mode: str, candidate: float, passed: bool) -> None:
    finding = compared(no_worse(0.005, mode), {"accuracy": candidate}, {"accuracy": 0.95})

    assert finding.passed == passed
    assert finding.values == {"accuracy": candidate, "baseline_accuracy": 0.95}


def test_a_worse_model_is_told_by_how_much() -> None:
    finding = compared(no_worse(), {"accuracy": 0.9}, {"accuracy": 0.95})

    [reason] = finding.reasons
    assert reason.startswith("accuracy 0.9000 against 0.9500 in production is worse by 0.0500")
    assert reason.endswith("more than the tolerance 0.005")


@pytest.mark.parametrize("baseline", [{}, {"accuracy": math.nan}])
def test_a_production_model_that_cannot_be_measured_fails_the_comparison(
    baseline: dict[str, float],
) -> None:
    finding = compared(no_worse(), {"accuracy": 0.99}, baseline)

    assert not finding.passed
    assert finding.reasons[0].startswith("of the production model, ")


@given(FINITE)
def test_a_model_is_no_worse_than_itself(value: float) -> None:
    for mode in ("max", "min"):
        assert compared(no_worse(0.0, mode), {"accuracy": value}, {"accuracy": value}).passed


@given(FINITE, FINITE)
def test_of_two_models_at_least_one_is_no_worse(one: float, other: float) -> None:
    forth = compared(no_worse(0.0), {"accuracy": one}, {"accuracy": other})
    back = compared(no_worse(0.0), {"accuracy": other}, {"accuracy": one})

    assert forth.passed or back.passed
    assert (forth.passed and back.passed) == (one == other)


def scored(scores: list[float], **slices: dict[str, list[int]]) -> Measured:
    """Return what a model scores on each row, and on slices of them."""
    return Measured(
        {"accuracy": sum(scores) / len(scores)},
        {"accuracy": tuple(scores)},
        {
            column: {
                value: Slice(
                    len(rows), {"accuracy": sum(scores[row] for row in rows) / len(rows)}, rows
                )
                for value, rows in values.items()
            }
            for column, values in slices.items()
        },
    )


BY_LABEL = {"label": {"cat": [0, 1, 2, 3], "dog": [4, 5]}}
WEAK_ON_DOGS = scored([1, 1, 1, 1, 0, 1], **BY_LABEL)


def test_a_floor_by_slice_holds_in_every_slice() -> None:
    gate = MetricBound(metric="accuracy", min=0.5, slice="label")
    finding = bound_finding(gate, WEAK_ON_DOGS)

    assert gate.name == "accuracy_min_by_label"
    assert finding.reasons == ("accuracy is at least 0.5 in each of 2 slices by label",)
    assert finding.values == {
        "slice_count": 2, "slice_failures": 0, "slice_lowest": 0.5, "slice_highest": 1.0
    }  # fmt: skip
    assert finding.evidence is not None
    assert finding.evidence["slices"]["dog"] == {
        "rows": 2, "value": 0.5, "judged": True, "passed": True
    }  # fmt: skip


def test_one_weak_slice_fails_whatever_the_whole_says() -> None:
    finding = bound_finding(MetricBound(metric="accuracy", min=0.6, slice="label"), WEAK_ON_DOGS)

    assert bound_finding(MetricBound(metric="accuracy", min=0.6), WEAK_ON_DOGS).passed
    assert not finding.passed
    assert finding.reasons == ("accuracy for label dog: 0.5000 is below 0.6, in 2 rows",)


def test_a_slice_with_few_rows_is_shown_and_not_judged() -> None:
    gate = MetricBound(metric="accuracy", min=0.6, slice="label", min_rows=3)
    finding = bound_finding(gate, WEAK_ON_DOGS)

    assert finding.passed
    assert finding.evidence is not None
    assert finding.evidence["slices"]["dog"]["judged"] is False


def test_slices_that_are_not_there_or_all_too_small_fail() -> None:
    small = MetricBound(metric="accuracy", min=0.1, slice="label", min_rows=9)
    unknown = MetricBound(metric="accuracy", min=0.1, slice="colour")

    assert "has 9 rows, so none could be judged" in bound_finding(small, WEAK_ON_DOGS).reasons[0]
    assert "no column 'colour'" in bound_finding(unknown, WEAK_ON_DOGS).reasons[0]


def test_a_slice_that_got_worse_fails_though_the_whole_got_better() -> None:
    before = scored([0, 0, 0, 1, 1, 1], **BY_LABEL)
    gate = NoWorse(metric="accuracy", no_worse_than="production", slice="label", tolerance=0.1)
    finding = no_worse_finding(gate, WEAK_ON_DOGS, before)

    assert no_worse_finding(no_worse(), WEAK_ON_DOGS, before).passed
    assert gate.name == "accuracy_no_worse_than_production_by_label"
    assert len(finding.reasons) == 1
    assert finding.reasons[0].startswith("accuracy for label dog: 0.5000 against 1.0000")
    assert finding.evidence is not None
    assert finding.evidence["slices"]["dog"]["baseline"] == 1.0


def test_a_slice_that_production_was_not_measured_on_fails() -> None:
    gate = NoWorse(metric="accuracy", no_worse_than="production", slice="label")
    before = scored([1, 1, 1, 1, 1, 1], label={"cat": [0, 1, 2, 3, 4, 5]})
    finding = no_worse_finding(gate, scored([1] * 6, **BY_LABEL), before)

    assert "of the production model, the evaluation gave no accuracy" in finding.reasons[0]


def confident(tolerance: float, mode: Any = "max") -> NoWorse:  # noqa: ANN401
    return NoWorse(
        metric="accuracy",
        no_worse_than="production",
        tolerance=tolerance,
        mode=mode,
        confidence=0.95,
    )


def test_reasons_tell_the_interval_of_a_difference() -> None:
    finding = no_worse_finding(no_worse(), scored([1] * 40), scored([1] * 40))

    assert "(a difference between +0.0000 and +0.0000, with 0.95 confidence)" in finding.reasons[0]
    assert finding.evidence is not None
    assert finding.evidence["bootstrap"]["rows"] == 40


@pytest.mark.parametrize("mode", ["max", "min"])
def test_with_a_confidence_a_difference_that_may_be_worse_fails(mode: str) -> None:
    better, worse = (1.0, 0.0) if mode == "max" else (0.0, 1.0)
    mine = scored([better] * 18 + [worse] * 2 + [better] * 1)
    theirs = scored([better] * 16 + [worse] * 2 + [better] * 2 + [worse])

    assert no_worse_finding(no_worse(0.0, mode), mine, theirs).passed
    refused = no_worse_finding(confident(0.1, mode), mine, theirs)
    assert not refused.passed
    assert "may be worse by" in refused.reasons[0]
    assert no_worse_finding(confident(0.5, mode), mine, theirs).passed


def test_a_confidence_without_scores_of_each_row_fails() -> None:
    finding = compared(confident(0.5), {"accuracy": 0.9}, {"accuracy": 0.9})

    assert not finding.passed
    assert "its score of each row is not given" in finding.reasons[0]
