"""Verdicts."""

from typing import Any

import pytest

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.errors import InvalidFormatError, InvalidNameError

A, B, C, D, E = (letter * 64 for letter in "abcde")
FIELDS: dict[str, Any] = {
    "project": "digits",
    "artifact": A,
    "gate": "accuracy_min",
    "passed": True,
    "policy": B,
    "baseline": None,
    "evaluation": C,
    "gate_code": D,
    "reasons": ("accuracy 0.95 is at least 0.93",),
    "values": {"accuracy": 0.95},
    "evidence": None,
}
GOLDEN = (
    '{"artifact":"' + A + '","baseline":null,"evaluation":"' + C + '","evidence":null,'
    '"gate":"accuracy_min","gate_code":"' + D + '","origin":"log.example","passed":true,'
    '"policy":"' + B + '","project":"digits","reasons":["accuracy 0.95 is at least 0.93"],'
    '"type":"verdict","values":{"accuracy":0.95}}'
).encode()


def test_the_bytes_of_a_verdict_are_final() -> None:
    verdict = Verdict(**FIELDS)

    assert digest.canonical(verdict.payload("log.example")) == GOLDEN
    assert Verdict.from_payload(digest.parse(GOLDEN)) == verdict


@pytest.mark.parametrize(
    "change",
    [
        {"passed": 1},
        {"passed": None},
        {"passed": "false"},
        {"gate": ""},
        {"gate": "a-b"},
        {"gate": "a b"},
        {"gate": None},
        {"project": "a/b"},
        {"artifact": "digits/v3"},
        {"policy": None},
        {"gate_code": ""},
        {"baseline": "digits/v1"},
        {"evaluation": ""},
        {"evidence": "x"},
    ],
)
def test_a_verdict_that_does_not_say_clearly_what_was_judged_is_refused(
    change: dict[str, Any],
) -> None:
    with pytest.raises((InvalidFormatError, InvalidNameError)):
        Verdict(**FIELDS | change)


@pytest.mark.parametrize(
    "change", [{"type": "approval"}, {"extra": 1}, {"reasons": "none"}, {"values": None}]
)
def test_a_statement_that_is_no_verdict_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidFormatError):
        Verdict.from_payload(digest.parse(GOLDEN) | change)


@pytest.mark.parametrize("field", sorted(digest.parse(GOLDEN)))
def test_a_verdict_that_lacks_a_field_is_refused(field: str) -> None:
    payload = digest.parse(GOLDEN)
    del payload[field]

    with pytest.raises(InvalidFormatError):
        Verdict.from_payload(payload)
