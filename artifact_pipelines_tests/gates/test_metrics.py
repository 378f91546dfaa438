"""Metrics are held against floors, ceilings and what is in production."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain.gate import MetricBound, NoWorse
from artifact_pipelines.gates.metrics import bound_finding, no_worse_finding

FLOOR = MetricBound(metric="accuracy", min=0.9)
CEILING = MetricBound(metric="loss", max=0.5)
RANGE = MetricBound(metric="calibration", min=0.9, max=1.1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def no_worse(tolerance: float = 0.005, mode: Any = "max") -> NoWorse:  # noqa: ANN401
    return NoWorse(metric="accuracy", no_worse_than="production", tolerance=tolerance, mode=mode)


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
    finding = bound_finding(gate, {gate.metric: value})

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
        bound_finding(FLOOR, {"accuracy": value}),
        no_worse_finding(no_worse(), {"accuracy": value}, None),
        no_worse_finding(no_worse(), {"accuracy": value}, {"accuracy": 0.1}),
    ):
        assert (finding.passed, finding.reasons) == (False, (reason,))


def test_a_number_of_numpy_is_a_number() -> None:
    finding = bound_finding(FLOOR, {"accuracy": np.float32(0.95)})  # type: ignore[dict-item]

    assert finding.passed
    assert type(finding.values["accuracy"]) is float


@pytest.mark.parametrize(
    "given_metrics, told", [({}, "nothing"), ({"recall": 1.0, "loss": 0.1}, "loss, recall")]
)
def test_a_missing_metric_fails_and_says_what_was_given(
    given_metrics: dict[str, float], told: str
) -> None:
    finding = bound_finding(FLOOR, given_metrics)

    assert finding.reasons == (f"the evaluation gave no accuracy; it gave {told}",)
    assert not finding.passed


def test_nothing_in_production_is_nothing_to_be_worse_than() -> None:
    finding = no_worse_finding(no_worse(), {"accuracy": 0.1}, None)

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
    finding = no_worse_finding(no_worse(0.005, mode), {"accuracy": candidate}, {"accuracy": 0.95})

    assert finding.passed == passed
    assert finding.values == {"accuracy": candidate, "baseline_accuracy": 0.95}


def test_a_worse_model_is_told_by_how_much() -> None:
    finding = no_worse_finding(no_worse(), {"accuracy": 0.9}, {"accuracy": 0.95})

    [reason] = finding.reasons
    assert reason.startswith("accuracy 0.9000 against 0.9500 in production is worse by 0.0500")
    assert reason.endswith("more than the tolerance 0.005")


@pytest.mark.parametrize("baseline", [{}, {"accuracy": math.nan}])
def test_a_production_model_that_cannot_be_measured_fails_the_comparison(
    baseline: dict[str, float],
) -> None:
    finding = no_worse_finding(no_worse(), {"accuracy": 0.99}, baseline)

    assert not finding.passed
    assert finding.reasons[0].startswith("of the production model, ")


@given(FINITE)
def test_a_model_is_no_worse_than_itself(value: float) -> None:
    for mode in ("max", "min"):
        assert no_worse_finding(
            no_worse(0.0, mode), {"accuracy": value}, {"accuracy": value}
        ).passed


@given(FINITE, FINITE)
def test_of_two_models_at_least_one_is_no_worse(one: float, other: float) -> None:
    forth = no_worse_finding(no_worse(0.0), {"accuracy": one}, {"accuracy": other})
    back = no_worse_finding(no_worse(0.0), {"accuracy": other}, {"accuracy": one})

    assert forth.passed or back.passed
    assert (forth.passed and back.passed) == (one == other)
