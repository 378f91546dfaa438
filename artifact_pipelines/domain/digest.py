"""Digests, and the canonical JSON that they are taken of."""

import hashlib
import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import rfc8785

from artifact_pipelines.errors import InvalidFormatError

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 64
SALT_BYTES: Final = 16

_ATOMS: Final = frozenset({str, bool, type(None)})
_PLAIN: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False
)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SALT: Final = re.compile(r"[0-9a-f]{32}")


def sha256(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of bytes as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def is_sha256(value: object) -> bool:
    """Return whether a value is a SHA-256 written as 64 lowercase hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def check_sha256(value: object, what: str) -> str:
    """Return the digest that was given.

    Args:
        value: The digest to check.
        what: The thing it stands for, to name it in the refusal.

    Raises:
        InvalidFormatError: If it is not 64 lowercase hexadecimal digits.
    """
    if not is_sha256(value):
        raise InvalidFormatError(
            f"{what} must be a SHA-256 digest of 64 lowercase hexadecimal digits, not {value!r}."
        )
    return str(value)


def canonical(value: object) -> bytes:
    """Return a value as canonical JSON (RFC 8785).

    What JSON numbers cannot carry is written as a string: NaN and the infinities by name,
    integers beyond 2**53 - 1 by their decimal digits. Tuples become arrays.

    Args:
        value: None, booleans, numbers, strings, and lists, tuples and string-keyed mappings
            of these.

    Raises:
        InvalidFormatError: If the value holds anything else, a lone surrogate, or more than
            64 levels.
    """
    try:
        if is_plain(value):
            # For these the encoder of the standard library writes the same bytes, in C.
            return _plain(value)
        return rfc8785.dumps(_portable(value, 0))
    except UnicodeEncodeError:
        raise InvalidFormatError("a value holds a lone surrogate, which UTF-8 cannot.") from None
    except rfc8785.CanonicalizationError as error:
        raise InvalidFormatError(f"a value cannot be written as canonical JSON: {error}.") from None


def _plain(value: object) -> bytes:
    """Return what is plain as canonical JSON.

    Raises:
        InvalidFormatError: If it holds a lone surrogate.
    """
    try:
        return _PLAIN.encode(value).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidFormatError("a value holds a lone surrogate, which UTF-8 cannot.") from None


def is_plain(value: object, depth: int = 0) -> bool:  # noqa: PLR0911  one for each kind
    """Return whether a value is of texts, small integers, booleans and null alone.

    Its keys are ASCII, so that they sort alike in every encoding.
    """
    kind = type(value)
    if kind in _ATOMS:
        return True
    if isinstance(value, int):
        return kind is int and -MAX_INTEGER <= value <= MAX_INTEGER
    if depth == MAX_DEPTH:
        return False
    if kind is dict and isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str or not key.isascii():
                return False
            if type(item) not in _ATOMS and not is_plain(item, depth + 1):
                return False
        return True
    if kind is list and isinstance(value, list):
        return all(is_plain(item, depth + 1) for item in value)
    return False


def _portable(value: Any, depth: int) -> Any:  # noqa: ANN401
    """Return a value in the terms that RFC 8785 can write."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else str(int(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else _non_finite(value)
    if depth == MAX_DEPTH:
        raise InvalidFormatError(f"a value is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, list | tuple):
        return [_portable(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidFormatError(
                    f"a JSON object needs strings as keys, not {key!r} of type"
                    f" {type(key).__name__}."
                )
        return {key: _portable(item, depth + 1) for key, item in value.items()}
    raise InvalidFormatError(
        f"a value of type {type(value).__name__} has no JSON form: use None, booleans, numbers,"
        " strings, lists and mappings."
    )


def _non_finite(value: float) -> str:
    """Return the name of a number that JSON has no words for."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def parse(data: bytes) -> dict[str, Any]:
    """Return the JSON object that bytes hold.

    Whole numbers beyond 2**53 - 1 become floats, because that is what they are in RFC 8785.
    The bytes need not be canonical: a digest is of the bytes as they are stored.

    Raises:
        InvalidFormatError: If the bytes are not UTF-8, not one JSON object, repeat a key, or
            hold a lone surrogate or a number that is not finite.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except InvalidFormatError:
        raise
    except RecursionError:
        raise InvalidFormatError("a JSON document is nested too deeply.") from None
    except UnicodeEncodeError:
        raise InvalidFormatError("a JSON document holds a lone surrogate.") from None
    except ValueError as error:
        raise InvalidFormatError(f"bytes are not a JSON document: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidFormatError("a JSON document must be an object.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object that pairs make, each key once."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidFormatError("a JSON object repeats a key.")
    return value


def _constant(name: str) -> float:
    """Refuse the numbers that JSON has no words for."""
    raise InvalidFormatError(f"a JSON document holds {name}, which is not a JSON number.")


def _float(text: str) -> float:
    """Return a finite number."""
    value = float(text)
    if not math.isfinite(value):
        raise InvalidFormatError("a JSON document holds a number that is too large.")
    return value


def _integer(text: str) -> int | float:
    """Return a whole number, as a float where RFC 8785 knows it only as one."""
    if len(text) < len(str(MAX_INTEGER)):
        return int(text)
    value = _float(text)
    return value if abs(value) > MAX_INTEGER else int(text)


def seal(body: Mapping[str, Any], salt: str | None = None) -> bytes:
    """Return the canonical JSON of a body with a salt, so that its digest tells nothing of it.

    Args:
        body: The fields to seal; none may be called `salt`.
        salt: The salt as 32 hexadecimal digits; a random one unless given.

    Raises:
        InvalidFormatError: If the body has a salt already or has no JSON form.
    """
    if "salt" in body:
        raise InvalidFormatError("a body that is to be sealed may not have a field 'salt'.")
    if salt is None:
        salt = secrets.token_hex(SALT_BYTES)
    elif _SALT.fullmatch(salt) is None:
        raise InvalidFormatError(f"a salt must be 32 lowercase hexadecimal digits, not {salt!r}.")
    return canonical({**body, "salt": salt})


def seal_all(bodies: Sequence[Mapping[str, Any]]) -> list[tuple[bytes, Mapping[str, Any]]]:
    """Return each body sealed with a random salt of its own, and as it reads back.

    Raises:
        InvalidFormatError: If a body has a salt already or has no JSON form.
    """
    salts = secrets.token_hex(SALT_BYTES * len(bodies))
    width = 2 * SALT_BYTES
    sealed: list[tuple[bytes, Mapping[str, Any]]] = []
    for start, body in zip(range(0, len(salts), width), bodies, strict=True):
        salt = salts[start : start + width]
        if type(body) is dict and "salt" not in body and is_plain(body):
            # What is plain reads back as it is.
            sealed.append((_plain({**body, "salt": salt}), body))
        else:
            written = seal(body, salt)
            sealed.append((written, parse(written)))
    return sealed
