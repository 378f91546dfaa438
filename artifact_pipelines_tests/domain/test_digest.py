"""Canonical JSON, strict parsing, sealing."""

import contextlib
import json
import math
import re
from decimal import Decimal
from random import Random
from types import MappingProxyType
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain import digest
from artifact_pipelines.errors import InvalidFormatError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)


def test_the_digest_is_the_one_of_sha256sum() -> None:
    assert (
        digest.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_example_of_rfc_8785_is_written_byte_by_byte() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }

    assert digest.canonical(value) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_keys_are_ordered_by_utf_16_as_rfc_8785_says() -> None:
    ordered = digest.canonical({"\U0001f600": 1, "\ufb33": 2, "a": 3})

    assert ordered.decode() == '{"a":3,"\U0001f600":1,"\ufb33":2}'


@pytest.mark.parametrize(
    "value, expected",
    [
        (math.nan, b'"NaN"'),
        (math.inf, b'"Infinity"'),
        (-math.inf, b'"-Infinity"'),
        (2**53 - 1, b"9007199254740991"),
        (2**53, b'"9007199254740992"'),
        (-(2**53), b'"-9007199254740992"'),
        (2**70, b'"1180591620717411303424"'),
        (float(2**53), b"9007199254740992"),
        (1e17, b"100000000000000000"),
        (5.0, b"5"),
        (-0.0, b"0"),
        (5e-324, b"5e-324"),
        ((1, 2), b"[1,2]"),
        (MappingProxyType({"a": ()}), b'{"a":[]}'),
        (True, b"true"),
    ],
)
def test_numbers_that_json_cannot_carry_become_text(value: object, expected: bytes) -> None:
    assert digest.canonical(value) == expected


@pytest.mark.parametrize(
    "value", ["\ud800", {"a": "\udfff"}, {"\ud800": 1}, {1: 2}, {None: 2}, {1, 2}, b"x", Decimal(1)]
)
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(InvalidFormatError):
        digest.canonical(value)


def test_nesting_is_bounded_and_what_is_written_can_be_read() -> None:
    value: Any = 1
    for _ in range(digest.MAX_DEPTH):
        value = {"a": value}

    assert digest.parse(digest.canonical(value)) == value
    with pytest.raises(InvalidFormatError, match="nested deeper"):
        digest.canonical({"a": value})
    with pytest.raises(InvalidFormatError):
        digest.parse(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@given(OBJECTS)
def test_reading_and_writing_again_changes_nothing(value: dict[str, Any]) -> None:
    written = digest.canonical(value)

    assert digest.canonical(digest.parse(written)) == written


@given(OBJECTS, st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Random) -> None:
    items = list(value.items())
    random.shuffle(items)

    assert digest.canonical(dict(items)) == digest.canonical(value)


@given(st.dictionaries(TEXT, TEXT | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans()))
def test_ordinary_values_are_written_as_the_library_does(value: dict[str, Any]) -> None:
    assert digest.canonical(value) == rfc8785.dumps(value)
    assert json.loads(digest.canonical(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"text"',
        b"{",
        b'{"a":1}x',
        b'{"a":1,"a":2}',
        b'{"b":{"a":1,"a":1}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 400 + b"}",
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":01}',
        b"{\"a\":'b'}",
    ],
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFormatError):
        digest.parse(data)


@given(st.binary(max_size=60) | TEXT.map(str.encode))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(InvalidFormatError):
        assert isinstance(digest.parse(data), dict)


def test_a_surrogate_pair_in_escapes_is_one_character() -> None:
    assert digest.parse(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_a_sealed_body_is_cited_by_a_digest_that_cannot_be_guessed() -> None:
    one, other = digest.seal({"host": "a"}), digest.seal({"host": "a"})

    assert one != other
    assert re.fullmatch(rb'{"host":"a","salt":"[0-9a-f]{32}"}', one)


def test_a_sealed_body_with_a_given_salt_is_the_same_bytes_again() -> None:
    assert digest.seal({"b": 1, "a": 2}, "0" * 32) == (
        b'{"a":2,"b":1,"salt":"00000000000000000000000000000000"}'
    )


def test_a_body_that_brings_its_own_salt_is_refused() -> None:
    with pytest.raises(InvalidFormatError, match="salt"):
        digest.seal({"salt": "x"})


@pytest.mark.parametrize("salt", ["", "0", "g" * 32, "A" * 32])
def test_a_salt_of_another_form_is_refused(salt: str) -> None:
    with pytest.raises(InvalidFormatError, match="salt"):
        digest.seal({}, salt)


@pytest.mark.parametrize("value", ["a" * 63, "A" * 64, "a" * 64 + "\n", None, 5, "g" * 64])
def test_what_is_no_digest_is_refused(value: object) -> None:
    assert not digest.is_sha256(value)
    with pytest.raises(InvalidFormatError, match="the thing must be a SHA-256"):
        digest.check_sha256(value, "the thing")


@given(st.lists(OBJECTS.filter(lambda body: "salt" not in body), max_size=4))
def test_bodies_sealed_at_once_are_canonical_and_read_back_as_they_are_applied(
    bodies: list[dict[str, Any]],
) -> None:
    sealed = digest.seal_all(bodies)
    salts = [str(digest.parse(written)["salt"]) for written, _ in sealed]

    assert [digest.seal(body, salt) for body, salt in zip(bodies, salts, strict=True)] == [
        written for written, _ in sealed
    ]
    for (written, said), salt in zip(sealed, salts, strict=True):
        assert {**said, "salt": salt} == digest.parse(written)
    assert len(set(salts)) == len(bodies)
