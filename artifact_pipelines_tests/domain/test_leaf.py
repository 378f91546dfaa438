"""The envelopes of the ledger."""

import dataclasses
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.errors import InvalidFormatError

FIELDS: dict[str, Any] = {
    "seq": 12,
    "time": "2026-11-23T09:37:00.123456Z",
    "actor": "0123456789abcdef0123456789abcdef",
    "action": "promote",
    "subject": "digits/production",
    "body": "b" * 64,
}
GOLDEN = (
    b'{"action":"promote","actor":"0123456789abcdef0123456789abcdef","body":"' + b"b" * 64 + b'",'
    b'"format":"artifact-pipelines/leaf/v1","seq":12,"subject":"digits/production",'
    b'"time":"2026-11-23T09:37:00.123456Z"}'
)


def test_the_bytes_of_an_envelope_are_final() -> None:
    leaf = Leaf(**FIELDS)

    assert leaf.encode() == GOLDEN
    assert Leaf.decode(GOLDEN) == leaf
    assert leaf.hash == hashlib.sha256(b"\x00" + GOLDEN).digest()


@given(
    st.integers(0, 2**53 - 1),
    st.datetimes().map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")),
    st.from_regex(r"[0-9a-f]{16,64}", fullmatch=True),
    st.from_regex(r"[a-z][a-z_]{0,20}", fullmatch=True),
    st.from_regex(r"[!-~]{1,40}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
def test_an_envelope_reads_back_as_it_was_written(
    seq: int, time: str, actor: str, action: str, subject: str, body: str
) -> None:
    leaf = Leaf(seq, time, actor, action, subject, body)

    assert Leaf.decode(leaf.encode()) == leaf


def test_the_hash_is_of_the_bytes_as_they_are_stored() -> None:
    spaced = GOLDEN.replace(b'{"action"', b'{ "action"')

    assert Leaf.decode(spaced).hash == hashlib.sha256(b"\x00" + spaced).digest()
    assert Leaf.decode(spaced) != Leaf.decode(GOLDEN)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": -1},
        {"seq": 1.5},
        {"seq": "1"},
        {"seq": True},
        {"seq": None},
        {"time": "2026-11-23T09:37:00Z"},
        {"time": "2026-11-23 09:37:00.123456Z"},
        {"time": "2026-13-23T09:37:00.123456Z"},
        {"time": "2026-11-23T24:37:00.123456Z"},
        {"time": "2026-11-23T09:37:00.123456+00:00"},
        {"time": "2026-11-23T09:37:00.123456Z\n"},
        {"time": None},
        {"actor": "alice"},
        {"actor": "ABCDEF0123456789"},
        {"actor": "a" * 15},
        {"action": "Promote"},
        {"action": ""},
        {"action": "promote "},
        {"subject": ""},
        {"subject": "a b"},
        {"subject": "a\nb"},
        {"subject": "ä"},
        {"subject": "x" * 301},
        {"body": "b" * 63},
        {"body": None},
    ],
)
def test_an_envelope_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidFormatError):
        Leaf(**FIELDS | change)
    with pytest.raises(InvalidFormatError):
        Leaf.decode(digest.canonical(digest.parse(GOLDEN) | change))


@pytest.mark.parametrize("field", sorted(digest.parse(GOLDEN)))
def test_an_envelope_that_lacks_a_field_is_refused(field: str) -> None:
    document = digest.parse(GOLDEN)
    del document[field]

    with pytest.raises(InvalidFormatError):
        Leaf.decode(digest.canonical(document))


@pytest.mark.parametrize("change", [{"format": "artifact-pipelines/leaf/v2"}, {"extra": 1}])
def test_bytes_of_another_format_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidFormatError, match="format"):
        Leaf.decode(digest.canonical(digest.parse(GOLDEN) | change))


def test_a_leaf_with_a_replaced_field_has_bytes_of_its_own() -> None:
    replaced = dataclasses.replace(Leaf.decode(GOLDEN), seq=13)

    assert Leaf.decode(replaced.encode()).seq == 13
    assert replaced.hash != Leaf.decode(GOLDEN).hash
