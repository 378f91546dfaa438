"""scikit-learn: estimators that learn by `partial_fit`, saved without pickle."""

import importlib
from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np
from sklearn.base import BaseEstimator

from artifact_pipelines.errors import TrainerError
from artifact_pipelines.sdk import ResumePoint, Run
from artifact_pipelines.sdk.saving import Saved
from artifact_pipelines.sdk.state import joined, split

_CLASS = "class"
_TRUSTED = ("sklearn", "numpy")


def checkpoint(
    run: Run,
    estimator: BaseEstimator,
    *,
    step: int,
    metrics: Mapping[str, SupportsFloat] | None = None,
) -> Saved:
    """Hand over an estimator between calls of `partial_fit`, with its optimizer and generator."""
    arrays, form = split(taken_apart(estimator))
    return run.checkpoint(
        arrays,
        step=step,
        metrics=metrics,
        scheduler=form,
        about={"framework": "sklearn", "holds": ["optimizer", "rng"]},
    )


def restore(point: ResumePoint) -> Any:
    """Return the estimator of a checkpoint."""
    return put_together(joined(dict(point.scheduler), point.tensors))


def taken_apart(value: Any) -> Any:  # noqa: PLR0911 (one return for each type)
    """Return an object of scikit-learn as mappings of its parts."""
    if isinstance(value, np.random.RandomState):
        return {_CLASS: "numpy.random:RandomState", "state": value.get_state()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS":
        return {_CLASS: "numpy:array", "args": [value.tolist()], "kind": value.dtype.str}
    if isinstance(value, dict):
        return {key: taken_apart(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(taken_apart(item) for item in value)
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    if not name.startswith("sklearn."):
        return value
    if hasattr(value, "__dict__"):
        return {_CLASS: name, "vars": taken_apart(vars(value))}
    # What is compiled says itself how it is made again.
    made, args, *_ = value.__reduce__()
    return {_CLASS: f"{made.__module__}:{made.__qualname__}", "args": taken_apart(list(args))}


def put_together(value: Any) -> Any:
    """Return the object whose parts `taken_apart` gave; only scikit-learn's and NumPy's."""
    if isinstance(value, list | tuple):
        return type(value)(put_together(item) for item in value)
    if not isinstance(value, dict):
        return value
    if _CLASS not in value:
        return {key: put_together(item) for key, item in value.items()}
    module, _, name = value[_CLASS].partition(":")
    if module.partition(".")[0] not in _TRUSTED:
        raise TrainerError(f"an estimator's part is a {value[_CLASS]}, which is not loaded.")
    kind = getattr(importlib.import_module(module), name)
    if "args" in value:
        made = kind(*put_together(value["args"]))
        return made.astype(value["kind"]) if "kind" in value else made
    made = kind.__new__(kind)
    if "state" in value:
        made.__init__()
        made.set_state(value["state"])
    else:
        vars(made).update(put_together(value["vars"]))
    return made
