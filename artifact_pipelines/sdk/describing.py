"""What a checkpoint was trained with, read off the framework's own objects."""

from collections.abc import Mapping
from typing import Any

from artifact_pipelines.sdk.files import is_array, precision_of
from artifact_pipelines.sdk.parallel import layout_of

_PLAIN = bool | int | float | str | None


def training_facts(
    model: object, weights: object, optimizer: object, scheduler: object, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return optimizer, learning rate, schedule, precision and parallel layout, where known.

    Args:
        model: What was passed as the weights: a model, or their state.
        weights: The state.
        optimizer: The optimizer, or its state.
        scheduler: The schedule, or its state.
        about: What the caller knows better.
    """
    facts: dict[str, Any] = {}
    groups = [dict(group) for group in getattr(optimizer, "param_groups", ())]
    if optimizer is not None and not isinstance(optimizer, Mapping | list | tuple):
        facts["optimizer"] = {"class": _name(optimizer), "groups": [_plain(one) for one in groups]}
    rates = [float(group["lr"]) for group in groups if "lr" in group]
    if rates:
        facts["learning_rate"] = rates[0] if len(set(rates)) == 1 else rates
    if scheduler is not None and not isinstance(scheduler, Mapping | list | tuple):
        facts["scheduler"] = {"class": _name(scheduler)}
    precision = precision_of(weights)
    if precision:
        facts["precision"] = precision
    spread = layout_of(model, weights)
    if spread:
        facts["parallel"] = spread
    told = {name: value for name, value in about.items() if name != "holds"}
    return {**facts, **told}


def _name(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters of a group of parameters, without the parameters."""
    found: dict[str, Any] = {}
    for name, value in sorted(group.items()):
        if is_array(value) and getattr(value, "size", None) == 1:
            found[name] = float(value)
        elif isinstance(value, _PLAIN):
            found[name] = value
        elif isinstance(value, list | tuple) and all(isinstance(item, _PLAIN) for item in value):
            found[name] = list(value)
    found.pop("params", None)
    return found
