"""The file `state.json`: a schedule's and random generators' state, kept without loss.

What JSON cannot carry, or not every reader reads exactly, is a mapping whose first key
begins with a dollar sign.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifact_pipelines.errors import TrainerError
from artifact_pipelines.sdk.files import is_array

STATE_FORMAT = "artifact-pipelines/state/v1"

_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class Tensor:
    """The place of an array in a state that is kept apart from its arrays."""

    path: str


def write_state(what: str, state: Mapping[str, Any]) -> bytes:
    """Return a state as the bytes of `state.json`.

    Raises:
        TrainerError: A value has no form there.
    """
    try:
        plain = _plain({"format": STATE_FORMAT, **state})
    except (TypeError, RecursionError) as error:
        raise TrainerError(
            f"{what} has a scheduler or RNG state that cannot be saved: {error}."
        ) from error
    text = json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return f"{text}\n".encode()


def read_state(path: Path, reference: str) -> dict[str, Any]:
    """Return the state that a `state.json` of ours holds, else nothing."""
    if not path.is_file():
        return {}
    try:
        state = _restored(json.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TrainerError(f"the state.json of {reference} cannot be read: {error}.") from error
    # A folder that was taken as it is may have a file of this name and another form.
    ours = isinstance(state, dict) and state.get("format") == STATE_FORMAT
    return state if ours else {}


def _plain(value: Any) -> Any:  # noqa: ANN401, C901, PLR0911, PLR0912 (one branch for each type)
    """Return a value as JSON carries it without loss, for any reader."""
    import numpy as np

    match value:
        case None | bool() | str():
            return value
        case np.bool_() | np.integer():
            return _plain(value.item())
        case int():
            return int(value) if abs(value) < _EXACT else {"$int": str(int(value))}
        case float() | np.floating():
            number = float(value)
            return number if math.isfinite(number) else {"$float": str(number)}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case Tensor(path):
            return {"$tensor": path}
        case list():
            return [_plain(item) for item in value]
        case tuple():
            return {"$tuple": [_plain(item) for item in value]}
        case np.ndarray() if not value.dtype.hasobject:
            return {
                "$array": base64.b64encode(value.tobytes()).decode(),
                "dtype": value.dtype.str,
                "shape": list(value.shape),
            }
        case Mapping() if all(isinstance(key, str) and key[:1] != "$" for key in value):
            return {key: _plain(item) for key, item in value.items()}
        case Mapping() if all(isinstance(key, int | tuple) for key in value):
            return {"$map": [[_plain(key), _plain(item)] for key, item in value.items()]}
        case Mapping():
            raise TypeError(
                f"the keys {list(value)[:3]!r} must be texts that do not begin with '$'"
            )
        case _ if is_array(value) and hasattr(value, "detach"):
            return {**_plain(value.detach().cpu().numpy()), "library": "torch"}
        case _:
            raise TypeError(f"a {type(value).__name__} has no JSON form")


def _restored(value: Any) -> Any:  # noqa: ANN401, PLR0911 (one branch for each type)
    """Return the value that `_plain` wrote."""
    match value:
        case list():
            return [_restored(item) for item in value]
        case {"$int": text}:
            return int(text)
        case {"$float": text}:
            return float(text)
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$tuple": items}:
            return tuple(_restored(item) for item in items)
        case {"$tensor": path}:
            return Tensor(path)
        case {"$map": pairs}:
            return {_restored(key): _restored(item) for key, item in pairs}
        case {"$array": text, "dtype": dtype, "shape": shape}:
            import numpy as np

            array = np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape).copy()
            return _as_tensor(array) if value.get("library") == "torch" else array
        case dict():
            return {key: _restored(item) for key, item in value.items()}
        case _:
            return value


def _as_tensor(array: Any) -> Any:  # noqa: ANN401 (an array or a tensor)
    """Return an array as PyTorch's, where PyTorch is installed."""
    try:
        import torch
    except ImportError:
        return array
    return torch.from_numpy(array)


def split(value: Any) -> tuple[dict[str, Any], Any]:  # noqa: ANN401 (any state)
    """Return the arrays of a nested state by path, and the state with their paths in their place.

    A flat mapping of arrays is its own arrays, and needs no form.
    """
    if (
        isinstance(value, Mapping)
        and value
        and all(isinstance(key, str) and is_array(item) for key, item in value.items())
    ):
        return dict(value), None
    arrays: dict[str, Any] = {}
    return arrays, _without_arrays(value, "", arrays)


def _without_arrays(value: Any, path: str, arrays: dict[str, Any]) -> Any:  # noqa: ANN401 (any state)
    if is_array(value):
        free = path or "tensor"
        while free in arrays:
            free += "'"
        arrays[free] = value
        return Tensor(free)
    if isinstance(value, Mapping):
        return {
            key: _without_arrays(item, f"{path}.{key}".lstrip("."), arrays)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(
            _without_arrays(item, f"{path}.{place}".lstrip("."), arrays)
            for place, item in enumerate(value)
        )
    return value


def joined(form: Any, arrays: Mapping[str, Any]) -> Any:  # noqa: ANN401 (any state)
    """Return a state with its arrays in their places: what `split` was given."""
    if form is None:
        return arrays
    if isinstance(form, Tensor):
        return arrays[form.path]
    if isinstance(form, Mapping):
        return {key: _joined(item, arrays) for key, item in form.items()}
    if isinstance(form, list | tuple):
        return type(form)(_joined(item, arrays) for item in form)
    return form


def _joined(form: Any, arrays: Mapping[str, Any]) -> Any:  # noqa: ANN401 (any state)
    return None if form is None else joined(form, arrays)
