"""The gates on metrics, all measured on the same evaluation data."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from artifact_pipelines.domain.gate import MetricBound, NoWorse
from artifact_pipelines.domain.verdict import Finding


def bound_finding(gate: MetricBound, metrics: Mapping[str, float]) -> Finding:
    """Return whether a metric keeps its floor and ceiling."""
    value, wrong = _number(metrics, gate.metric)
    if value is None:
        return Finding(gate.name, passed=False, reasons=(wrong,))
    values = {gate.metric: value}
    if gate.min is not None:
        values["limit_min"] = gate.min
    if gate.max is not None:
        values["limit_max"] = gate.max
    if gate.min is not None and value < gate.min:
        return Finding(
            gate.name,
            passed=False,
            reasons=(f"{gate.metric} {value:.4f} is below {gate.min:g}",),
            values=values,
        )
    if gate.max is not None and value > gate.max:
        return Finding(
            gate.name,
            passed=False,
            reasons=(f"{gate.metric} {value:.4f} is above {gate.max:g}",),
            values=values,
        )
    limits = " and ".join(
        f"{word} {limit:g}"
        for word, limit in (("at least", gate.min), ("at most", gate.max))
        if limit is not None
    )
    return Finding(
        gate.name, passed=True, reasons=(f"{gate.metric} {value:.4f} is {limits}",), values=values
    )


def no_worse_finding(
    gate: NoWorse, metrics: Mapping[str, float], baseline: Mapping[str, float] | None
) -> Finding:
    """Return whether a metric is no worse than the production model's, within the tolerance."""
    value, wrong = _number(metrics, gate.metric)
    if value is None:
        return Finding(gate.name, passed=False, reasons=(wrong,))
    if baseline is None:
        reasons = ("nothing is in production yet, so there is nothing to be worse than",)
        return Finding(gate.name, passed=True, reasons=reasons, values={gate.metric: value})
    other, wrong = _number(baseline, gate.metric)
    if other is None:
        return Finding(gate.name, passed=False, reasons=(f"of the production model, {wrong}",))
    # In decimal, so that 0.95 - 0.945 is 0.005 and not a little more.
    worse = _decimal(other) - _decimal(value)
    worse = worse if gate.mode == "max" else -worse
    passed = worse <= _decimal(gate.tolerance)
    comparison = f"{gate.metric} {value:.4f} against {other:.4f} in production"
    reason = (
        f"{comparison}, within the tolerance {gate.tolerance:g}"
        if passed
        else f"{comparison} is worse by {worse:.4f}, more than the tolerance {gate.tolerance:g}"
    )
    return Finding(
        gate.name, passed, (reason,), {gate.metric: value, f"baseline_{gate.metric}": other}
    )


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
