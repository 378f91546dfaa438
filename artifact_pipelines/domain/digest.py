"""Digests and the canonical bytes that they are taken over."""

import hashlib
import json
import math
import secrets
from collections.abc import Mapping
from typing import Any

import rfc8785

from artifact_pipelines.errors import InvalidFormatError

_SAFE_INTEGER = 2**53
_SALT_BYTES = 16


def sha256(data: bytes) -> str:
    """Return the SHA-256 of some bytes in lowercase hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return a value as canonical JSON (RFC 8785).

    Numbers that JSON or a double cannot carry become text: "NaN", "Infinity",
    "-Infinity", and integers beyond ±2**53 in decimal.

    Raises:
        InvalidFormatError: The value holds something that JSON has no form for.
    """
    try:
        return rfc8785.dumps(_plain(value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise InvalidFormatError(f"a value cannot be written as canonical JSON: {error}.") from error


def parse(data: bytes) -> dict[str, Any]:
    """Return the JSON object in some bytes, as it stands.

    Raises:
        InvalidFormatError: The bytes are not one JSON object in UTF-8 with distinct keys.
    """
    try:
        found = json.loads(data.decode(), object_pairs_hook=_distinct, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidFormatError(f"these bytes are not a JSON object: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidFormatError("these bytes are JSON, but not an object.")
    return found


def seal(body: Mapping[str, Any], salt: str | None = None) -> bytes:
    """Return a body as canonical JSON with a salt, so that its digest does not give it away."""
    return canonical({**body, "salt": salt or secrets.token_hex(_SALT_BYTES)})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        # A str subclass, such as a StrEnum member, has no form of its own in JSON.
        return str(value)
    if isinstance(value, int):
        return int(value) if abs(value) <= _SAFE_INTEGER else str(int(value))
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidFormatError(f"the key {key!r} is not text, as JSON needs.")
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise InvalidFormatError(
        f"a value of type {type(value).__name__} cannot be recorded; "
        "use text, numbers, booleans, lists or mappings."
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
