"""Records."""

import dataclasses
import hashlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.record import FORMAT, Input, Kind, Record
from artifact_pipelines.errors import InvalidFormatError, InvalidNameError
from artifact_pipelines_tests.domain.test_digest import OBJECTS, TEXT

A, B, C = "a" * 64, "b" * 64, "c" * 64
CHECKPOINT: dict[str, Any] = {
    "kind": Kind.CHECKPOINT,
    "project": "digits",
    "name": "run-0007",
    "content": A,
    "inputs": (Input("resume", B), Input("dataset:images", C)),
    "run": B,
    "step": 120,
    "facts": {"metrics": {"loss": 0.5, "recall": math.nan}, "epoch": 3},
}
GOLDEN = (
    '{"attempt":1,"code":{},"content":"' + A + '","facts":{"epoch":3,"metrics":{"loss":0.5,'
    '"recall":"NaN"}},"format":"artifact-pipelines/record/v1","inputs":[{"id":"' + C + '",'
    '"role":"dataset:images"},{"id":"' + B + '","role":"resume"}],"kind":"checkpoint",'
    '"lock":null,"name":"run-0007","nonce":null,"params":{},"project":"digits","run":"' + B + '",'
    '"step":120}'
).encode()
RUNS = st.builds(
    Record,
    kind=st.just(Kind.TRAINING_RUN),
    project=st.just("digits"),
    name=st.sampled_from(["run-1", "run-2"]),
    content=st.sampled_from([A, B]),
    inputs=st.lists(
        st.builds(Input, st.sampled_from(["resume", "dataset:x"]), st.sampled_from([A, B])),
        unique=True,
    ).map(tuple),
    params=OBJECTS,
    code=OBJECTS,
    lock=st.none() | st.just(C),
    nonce=st.none() | st.just("n1"),
    facts=st.dictionaries(TEXT.filter(lambda name: name != "metrics"), st.integers()),
)


def test_the_bytes_of_a_record_are_final() -> None:
    record = Record(**CHECKPOINT)

    assert record.encode() == GOLDEN
    assert record.id == hashlib.sha256(GOLDEN).hexdigest()
    assert Record.decode(GOLDEN) == record
    assert hash(Record.decode(GOLDEN)) == hash(record)


@given(RUNS)
def test_a_record_reads_back_as_it_was_written(record: Record) -> None:
    again = Record.decode(record.encode())

    assert again == record
    assert again.params == record.params
    assert (
        Record(
            again.kind,
            again.project,
            again.name,
            again.content,
            again.inputs,
            params=again.params,
            code=again.code,
            lock=again.lock,
            nonce=again.nonce,
            facts=again.facts,
        )
        == record
    )


@given(RUNS, RUNS)
def test_two_records_have_one_id_only_when_they_say_the_same(one: Record, other: Record) -> None:
    fields = ("name", "content", "inputs", "params", "code", "lock", "nonce", "facts")
    same = all(getattr(one, name) == getattr(other, name) for name in fields)

    assert (one.id == other.id) == (one == other)
    # JSON has one kind of number and Python compares True with 1, so only one way holds.
    assert same or one.id != other.id


def test_a_record_does_not_change_with_what_it_was_made_from() -> None:
    params = {"layers": [64, 32]}
    record = Record(Kind.TRAINING_RUN, "digits", "run-1", A, params=params)
    params["layers"].append(16)

    assert record.params == {"layers": [64, 32]}
    assert record.id == digest.sha256(record.encode())


def test_the_metrics_are_numbers_again() -> None:
    metrics = Record(**CHECKPOINT).metrics

    assert metrics["loss"] == 0.5
    assert math.isnan(metrics["recall"])
    assert Record(Kind.DATASET, "digits", "images", A).metrics == {}


def test_an_id_commits_to_the_ids_of_what_it_was_made_from() -> None:
    other = Record(**CHECKPOINT | {"inputs": (Input("resume", B), Input("dataset:images", A))})

    assert other.id != Record(**CHECKPOINT).id


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "poem"},
        {"project": "a b"},
        {"name": "v3"},
        {"name": ""},
        {"content": "x"},
        {"run": None},
        {"run": "x"},
        {"step": None},
        {"step": -1},
        {"step": 1.5},
        {"step": True},
        {"attempt": 0},
        {"attempt": None},
        {"lock": "x"},
        {"nonce": "n"},
        {"inputs": (Input("resume", B), Input("resume", B))},
        {"facts": {"metrics": {"loss": "low"}}},
        {"facts": {"metrics": {"loss": True}}},
        {"facts": {"metrics": {"loss": None}}},
        {"facts": {"metrics": [1]}},
        {"facts": [1]},
        {"params": None},
        {"code": "abc"},
        {"params": {"a": object()}},
    ],
)
def test_a_checkpoint_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((InvalidFormatError, InvalidNameError)):
        Record(**CHECKPOINT | change)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": Kind.DATASET, "name": "images", "run": A},
        {"kind": Kind.DATASET, "name": "images", "step": 1},
        {"kind": Kind.DATASET, "name": "images", "nonce": "n"},
        {"kind": Kind.DATASET, "name": "latest"},
        {"kind": Kind.TRAINING_RUN, "name": "run-1", "nonce": ""},
        {"kind": Kind.TRAINING_RUN, "name": "run-1", "nonce": "a b"},
        {"kind": Kind.TRAINING_RUN, "name": "run-1", "nonce": 5},
        {"kind": Kind.MODEL, "name": "digits"},
        {"kind": Kind.MODEL, "name": "other", "inputs": (Input("checkpoint", A),)},
        {
            "kind": Kind.MODEL,
            "name": "digits",
            "inputs": (Input("checkpoint", A), Input("checkpoint", B)),
        },
    ],
)
def test_what_another_kind_may_not_say_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidFormatError, InvalidNameError)):
        Record(**{"project": "digits", "content": A, **fields})


def test_a_model_is_made_from_one_checkpoint() -> None:
    inputs = (Input("evaluation:images", C), Input("checkpoint", B))

    assert Record(Kind.MODEL, "digits", "digits", A, inputs).inputs[0].role == "checkpoint"


@pytest.mark.parametrize(
    "role, cited",
    [
        ("", A),
        ("Dataset", A),
        ("dataset:", A),
        ("dataset:a b", A),
        ("a:b:c", A),
        (None, A),
        ("resume", "x"),
        ("resume", None),
    ],
)
def test_an_input_of_another_form_is_refused(role: str, cited: str) -> None:
    with pytest.raises(InvalidFormatError):
        Input(role, cited)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "artifact-pipelines/record/v2"},
        {"format": None},
        {"extra": 1},
        {"inputs": None},
        {"inputs": [A]},
        {"inputs": [{"id": A, "role": "resume", "more": 1}]},
        {"inputs": [{"id": B, "role": "resume"}, {"id": C, "role": "dataset:images"}]},
        {"inputs": [{"id": A, "role": "resume"}, {"id": A, "role": "resume"}]},
        {"kind": 5},
        {"kind": None},
        {"project": None},
        {"name": ["x"]},
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    document = digest.parse(GOLDEN) | change

    with pytest.raises((InvalidFormatError, InvalidNameError)):
        Record.decode(digest.canonical(document))


@pytest.mark.parametrize("field", sorted(digest.parse(GOLDEN)))
def test_a_record_that_lacks_a_field_is_refused(field: str) -> None:
    document = digest.parse(GOLDEN)
    del document[field]

    with pytest.raises(InvalidFormatError):
        Record.decode(digest.canonical(document))


def test_a_digest_is_of_the_bytes_as_they_are_stored() -> None:
    spaced = GOLDEN.replace(b'{"attempt"', b'{ "attempt"')

    assert Record.decode(spaced).id == hashlib.sha256(spaced).hexdigest()
    assert FORMAT.encode() in spaced


def test_a_record_with_a_replaced_field_has_an_id_of_its_own() -> None:
    replaced = dataclasses.replace(Record.decode(GOLDEN), content=B)

    assert Record.decode(replaced.encode()).content == B
    assert replaced.id != Record.decode(GOLDEN).id
    assert dataclasses.replace(replaced, content=A) == Record.decode(GOLDEN)
