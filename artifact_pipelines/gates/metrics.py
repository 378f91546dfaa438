"""The gates on metrics, all measured on the same evaluation data."""

import math
from collections.abc import Mapping

from artifact_pipelines.domain.policy import MetricBound, NoWorse
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
    worse = other - value if gate.mode == "max" else value - other
    passed = worse <= gate.tolerance
    comparison = f"{gate.metric} {value:.4f} against {other:.4f} in production"
    reason = (
        f"{comparison}, within the tolerance {gate.tolerance:g}"
        if passed
        else f"{comparison} is worse by {worse:.4f}, more than the tolerance {gate.tolerance:g}"
    )
    return Finding(
        gate.name, passed, (reason,), {gate.metric: value, f"baseline_{gate.metric}": other}
    )


def _number(metrics: Mapping[str, float], name: str) -> tuple[float | None, str]:
    if name not in metrics:
        return (
            None,
            f"the evaluation gave no {name}; it gave {', '.join(sorted(metrics)) or 'nothing'}",
        )
    value = float(metrics[name])
    if not math.isfinite(value):
        return None, f"{name} is {value}, not a finite number"
    return value, ""
