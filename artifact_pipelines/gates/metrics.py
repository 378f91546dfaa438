"""The gates on metrics, all measured on the same evaluation data."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from artifact_pipelines.domain.gate import MetricBound, NoWorse
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates.bootstrap import Interval, paired_bootstrap
from artifact_pipelines.gates.case import Case, Measured, Slice

CONFIDENCE: Final = 0.95
"""The interval that is told where the policy asks for none."""
MAX_REASONS: Final = 20

Scores = tuple[list[float], list[float]]

_NOTHING_YET: Final = "nothing is in production yet, so there is nothing to be worse than"


def bound_gate(gate: MetricBound, case: Case) -> Finding:
    """Return whether a metric keeps its floor and ceiling."""
    return bound_finding(gate, case.mine())


def no_worse_gate(gate: NoWorse, case: Case) -> Finding:
    """Return whether a metric is no worse than the production model's."""
    return no_worse_finding(gate, case.mine(), case.theirs())


def bound_finding(gate: MetricBound, mine: Measured) -> Finding:
    """Return whether a metric keeps its floor and ceiling, as a whole or in every slice."""
    if gate.slice is not None:
        return _sliced(gate, mine, mine, _bound_slice)
    value, wrong = _number(mine.metrics, gate.metric)
    if value is None:
        return Finding(gate.name, passed=False, reasons=(wrong,))
    passed, clause = _within(gate, value)
    values = {gate.metric: value} | _limits(gate)
    return Finding(gate.name, passed, (f"{gate.metric} {value:.4f} {clause}",), values)


def no_worse_finding(gate: NoWorse, mine: Measured, theirs: Measured | None) -> Finding:
    """Return whether a metric is no worse than the production model's, within the tolerance."""
    if gate.slice is not None and theirs is not None:
        return _sliced(gate, mine, theirs, _no_worse_slice)
    value, wrong = _number(mine.metrics, gate.metric)
    if value is None:
        return Finding(gate.name, passed=False, reasons=(wrong,))
    values = {gate.metric: value}
    if theirs is None:
        return Finding(gate.name, passed=True, reasons=(_NOTHING_YET,), values=values)
    other, wrong = _number(theirs.metrics, gate.metric)
    if other is None:
        return Finding(gate.name, passed=False, reasons=(f"of the production model, {wrong}",))
    values |= {f"baseline_{gate.metric}": other}
    passed, clause, interval = _compared(gate, value, other, _pair(gate, mine, theirs))
    evidence = None
    if interval is not None:
        values |= {"difference_low": interval.low, "difference_high": interval.high}
        evidence = {"bootstrap": interval.as_json(), "tolerance": gate.tolerance, "mode": gate.mode}
    return Finding(gate.name, passed, (f"{gate.metric} {clause}",), values, evidence)


def _sliced(gate: Any, mine: Measured, theirs: Measured, judge: Any) -> Finding:  # noqa: ANN401
    """Return whether a rule holds in every slice that has rows enough."""
    column, metric = gate.slice, gate.metric
    there = mine.slices.get(column) or {}
    if not there:
        reason = f"the evaluation data has no column {column!r} to cut it by"
        return Finding(gate.name, passed=False, reasons=(reason,))
    shown: dict[str, Any] = {}
    broken: list[str] = []
    for name, part in there.items():
        value, wrong = _number(part.metrics, metric)
        other = (theirs.slices.get(column) or {}).get(name)
        shown[name] = {"rows": part.rows, "value": value, "judged": part.rows >= gate.min_rows}
        if not shown[name]["judged"]:
            continue
        if value is None:
            passed, clause = False, wrong
        else:
            passed, clause, more = judge(gate, (value, part, mine), (other, theirs))
            shown[name] |= more
        shown[name]["passed"] = passed
        if not passed:
            rows = f"{part.rows} row{'' if part.rows == 1 else 's'}"
            broken.append(f"{metric} for {column} {name}: {clause}, in {rows}")
    judged = [one for one in shown.values() if one["judged"]]
    found = [one["value"] for one in judged if one["value"] is not None]
    values: dict[str, Any] = {"slice_count": len(judged), "slice_failures": len(broken)}
    if found:
        values |= {"slice_lowest": min(found), "slice_highest": max(found)}
    if not judged:
        broken.append(f"no slice by {column} has {gate.min_rows} rows, so none could be judged")
    if len(broken) > MAX_REASONS:
        broken[MAX_REASONS:] = [f"{len(broken) - MAX_REASONS} more slices fail"]
    rule = (
        " and ".join(_words(gate))
        if isinstance(gate, MetricBound)
        else (f"no worse than in production by more than {gate.tolerance:g}")
    )
    kept = f"{metric} is {rule} in each of {len(judged)} slices by {column}"
    evidence = {"metric": metric, "column": column, "slices": shown} | _limits(gate)
    return Finding(gate.name, not broken, tuple(broken) or (kept,), values, evidence)


def _bound_slice(
    gate: MetricBound, mine: tuple[float, Slice, Measured], _: object
) -> tuple[bool, str, dict[str, Any]]:
    passed, clause = _within(gate, mine[0])
    return passed, f"{mine[0]:.4f} {clause}", {}


def _no_worse_slice(
    gate: NoWorse, mine: tuple[float, Slice, Measured], theirs: tuple[Slice | None, Measured]
) -> tuple[bool, str, dict[str, Any]]:
    """Return whether one slice is no worse, the clause that says so and what to show."""
    (value, part, measured), (other_part, other_measured) = mine, theirs
    other, wrong = _number({} if other_part is None else other_part.metrics, gate.metric)
    if other is None:
        return False, f"of the production model, {wrong}", {}
    scores = _pair(gate, measured, other_measured, part.index)
    passed, clause, interval = _compared(gate, value, other, scores)
    ends = {} if interval is None else {"low": interval.low, "high": interval.high}
    return passed, clause, {"baseline": other, **ends}


def _pair(
    gate: NoWorse, mine: Measured, theirs: Measured, index: Sequence[int] | None = None
) -> Scores | None:
    """Return what both models score on each row, if the evaluation gave that."""
    if gate.metric not in mine.examples or gate.metric not in theirs.examples:
        return None
    one, other = mine.examples[gate.metric], theirs.examples[gate.metric]
    rows = range(len(one)) if index is None else index
    return [one[row] for row in rows], [other[row] for row in rows]


def _compared(
    gate: NoWorse, value: float, other: float, scores: Scores | None
) -> tuple[bool, str, Interval | None]:
    """Return whether a figure is no worse than another, the clause that says so and how sure."""
    interval = None if scores is None else paired_bootstrap(*scores, gate.confidence or CONFIDENCE)
    # In decimal, so that 0.95 - 0.945 is 0.005 and not a little more.
    worse = _decimal(other) - _decimal(value)
    worse = worse if gate.mode == "max" else -worse
    comparison = f"{value:.4f} against {other:.4f} in production"
    limit = f"the tolerance {gate.tolerance:g}"
    if interval is not None:
        comparison += (
            f" (a difference between {interval.low:+.4f} and {interval.high:+.4f}, with "
            f"{interval.confidence:.4g} confidence)"
        )
    if worse > _decimal(gate.tolerance):
        return False, f"{comparison} is worse by {worse:.4f}, more than {limit}", interval
    if gate.confidence is not None:
        if interval is None:
            return False, f"{comparison}, but its score of each row is not given", None
        least = -interval.low if gate.mode == "max" else interval.high
        if least > gate.tolerance:
            return False, f"{comparison} may be worse by {least:.4f}, more than {limit}", interval
    return True, f"{comparison}, within {limit}", interval


def _within(gate: MetricBound, value: float) -> tuple[bool, str]:
    """Return whether a figure is within its limits, and the clause that says so."""
    if gate.min is not None and value < gate.min:
        return False, f"is below {gate.min:g}"
    if gate.max is not None and value > gate.max:
        return False, f"is above {gate.max:g}"
    return True, f"is {' and '.join(_words(gate))}"


def _words(gate: MetricBound) -> list[str]:
    return [
        f"{word} {limit:g}"
        for word, limit in (("at least", gate.min), ("at most", gate.max))
        if limit is not None
    ]


def _limits(gate: MetricBound | NoWorse) -> dict[str, float]:
    """Return the limits of a gate, as its figures show them."""
    if isinstance(gate, NoWorse):
        return {"limit_tolerance": gate.tolerance}
    limits = {"limit_min": gate.min, "limit_max": gate.max}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _number(metrics: Mapping[str, Any], name: str) -> tuple[float | None, str]:
    """Return a metric, or what is wrong with it."""
    if name not in metrics:
        given = ", ".join(sorted(map(str, metrics))) or "nothing"
        return None, f"the evaluation gave no {name}; it gave {given}"
    value = metrics[name]
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return None, f"{name} is {value!r}, not a number"
    number = float(value)
    if not math.isfinite(number):
        return None, f"{name} is {number}, not a finite number"
    return number, ""


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))
