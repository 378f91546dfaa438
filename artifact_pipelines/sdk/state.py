"""The file `state.json`: a schedule's and random generators' state, kept without loss.

What JSON cannot carry, or not every reader reads exactly, is a mapping whose first key
begins with a dollar sign.
"""

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from artifact_pipelines.errors import TrainerError

STATE_FORMAT = "artifact-pipelines/state/v1"

_EXACT = 2**53


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


def _plain(value: Any) -> Any:  # noqa: ANN401, PLR0911 (one branch for each type)
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
        case Mapping():
            return {_key(key): _plain(item) for key, item in value.items()}
        case _:
            raise TypeError(f"a {type(value).__name__} has no JSON form")


def _key(key: object) -> str:
    if not isinstance(key, str) or key.startswith("$"):
        raise TypeError(f"the key {key!r} must be text that does not begin with '$'")
    return key


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
        case {"$array": text, "dtype": dtype, "shape": shape}:
            import numpy as np

            return np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape).copy()
        case dict():
            return {key: _restored(item) for key, item in value.items()}
        case _:
            return value
