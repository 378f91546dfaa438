"""A policy document says what it says, under one digest, or is refused by field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.gate import FORMATS, Custom
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import PolicyError

WHOLE: dict[str, Any] = {
    "evaluate": "digits_project.train:evaluate",
    "evaluation": "heldout",
    "select": {"metric": "accuracy", "mode": "max", "try": 3},
    "gates": [
        {"metric": "accuracy", "min": 0.93},
        {"metric": "loss", "max": 1.5},
        {"metric": "val/recall", "min": 0.1, "max": 1},
        {"metric": "accuracy", "no_worse_than": "production", "tolerance": 0.005},
        {"formats": ["safetensors"]},
    ],
    "promotion": {
        "staging": "automatic",
        "production": {"approvals": 2, "author_may_approve": False},
    },
    "retention": {"keep": {"last": 3, "best": 1, "daily": 7}, "forget_after": "180d"},
    "contracts": {"images": {"schema": "digits_project.data:Images", "expectations": {"a": None}}},
}


def test_a_whole_policy_is_read() -> None:
    policy = Policy.of(WHOLE)

    assert policy.required() == (
        "accuracy_min",
        "accuracy_no_worse_than_production",
        "data_contract",
        "integrity",
        "loss_max",
        "safety",
        "val_recall_range",
    )
    assert policy.formats() == ("safetensors",)
    assert policy.select is not None
    assert policy.select.tries == 3


def test_an_empty_policy_still_asks_for_whole_and_safe_bytes() -> None:
    policy = Policy.of({})

    assert policy.required() == ("integrity", "safety")
    assert policy.formats() == FORMATS
    assert policy.promotion == {}
    assert policy.retention.forget_after is None


def test_a_document_and_its_bytes_give_the_policy_back() -> None:
    policy = Policy.of(WHOLE)

    assert Policy.of(policy.document()) == policy
    assert Policy.of(digest.parse(policy.encode())).digest == policy.digest
    assert Policy.decode(policy.encode()).digest == policy.digest


def test_a_digest_is_of_the_stored_bytes() -> None:
    data = b'{"gates": [],\n "evaluate": null}'

    assert Policy.decode(data).digest == digest.sha256(data)


def test_one_meaning_has_one_digest() -> None:
    spelt = {**WHOLE, "retention": {**WHOLE["retention"], "forget_after": "4320h"}}

    assert Policy.of(spelt).digest == Policy.of(WHOLE).digest
    assert Policy.of({"gates": [], "select": None}).digest == Policy.of({}).digest


def test_what_is_as_by_default_is_not_written_so_that_new_defaults_change_no_digest() -> None:
    said = {"retention": {"keep": {"last": 1, "best": 2}, "max_share": 0.9}, "gates": []}

    assert Policy.of(said).document() == {"retention": {"keep": {"best": 2}}}


def test_a_gate_that_a_policy_does_not_ask_for_is_not_in_its_digest() -> None:
    # Written down once: every verdict under this policy names it.
    known = "58660842b1fcef4599264f2951db1eebdbf8edf3b21d6a0ea0e4e49bbba9ffb4"

    assert Policy.of(WHOLE).digest == known


def test_nothing_can_be_changed_afterwards() -> None:
    policy = Policy.of(WHOLE)

    with pytest.raises(ValueError, match="frozen"):
        policy.evaluation = "other"


@pytest.mark.parametrize(
    "document,field",
    [
        ({"bogus": 1}, "'bogus' is wrong: there is no such field here"),
        ({"gates": [{"metric": "loss", "mn": 1}]}, "'gates.0.mn'"),
        ({"gates": [{"metric": "loss", "min": 1, "tolerance": 2}]}, "'gates.0.tolerance'"),
        ({"gates": [{"metric": "loss"}]}, "'gates.0' is wrong: a metric gate needs min or max"),
        ({"gates": [{"metric": "loss", "min": 2, "max": 1}]}, "min is above"),
        ({"gates": [{"metric": "loss", "min": float("nan")}]}, "'gates.0.min'"),
        ({"gates": [{"metric": "loss", "no_worse_than": "staging"}]}, "'gates.0.no_worse_than'"),
        ({"gates": [{"formats": ["pickle"]}]}, "'gates.0.formats.0'"),
        ({"gates": ["loss"]}, "'gates.0'"),
        ({"gates": [{"metric": "loss", "min": 1}]}, "need evaluate"),
        ({"gates": [{"formats": ["json"]}, {"formats": ["csv"]}]}, "safety stands twice"),
        ({"gates": [{"gate": "no function"}]}, "'gates.0.gate'"),
        ({"gates": [{"gate": "a:b", "name": "a b"}]}, "'gates.0.name'"),
        ({"gates": [{"gate": "a:b", "seconds": 0}]}, "'gates.0.seconds'"),
        ({"gates": [{"gate": "a:b", "x": {1}}]}, "'gates.0' is wrong"),
        ({"gates": [{"gate": "a:b", "name": "safety"}]}, "safety stands twice"),
        ({"gates": [{"gate": "a:integrity"}]}, "integrity stands twice"),
        ({"gates": [{"metric": "loss", "min": 1, "min_rows": 0}]}, "'gates.0.min_rows'"),
        ({"gates": [{"lineage": []}]}, "'gates.0' is wrong: the gate needs licences"),
        ({"gates": [{"lineage": ["taste"]}]}, "'gates.0.lineage.0' is wrong: expected complete"),
        ({"gates": [{"licences": ["MIT"]}, {"fields": ["rows"]}]}, "governance stands twice"),
        ({"gates": [{"serving": "a"}]}, "'gates.0.serving'"),
        ({"gates": [{"serving": "a:b", "golden": {"inputs": []}}]}, "must be a list of rows"),
        ({"gates": [{"serving": "a:b", "golden": {"inputs": [{}], "outputs": []}}]}, "one output"),
        ({"gates": [{"serving": "a:b", "golden": {"input": []}}]}, "may have inputs"),
        ({"gates": [{"predictions": "a:b"}]}, "'gates.0' is wrong: the gate needs a schema"),
        ({"gates": [{"features": "a:b", "predictions": "a:b", "schema": "a:b"}]}, "one of them"),
        ({"gates": [{"features": "a:b", "schema": "a:b"}]}, "need evaluation"),
        ({"gates": [{"onnx": "../m.onnx", "inputs": "a:b", "against": "a:b"}]}, "'gates.0.onnx'"),
        ({"limits": {"memory": "8"}}, "expected a size such as 500MB or 8GB"),
        ({"limits": {"memory": True}}, "expected a size such as 500MB or 8GB"),
        ({"promotion": {"staging": "best"}, "select": None}, "takes the best needs select"),
        ({"select": {}}, "'select.metric' is wrong: it is missing"),
        ({"select": {"metric": "loss", "try": 0}}, "'select.try'"),
        ({"promotion": {"production": "manual"}}, "'promotion.production' is wrong"),
        ({"promotion": {"production": {"approvals": 0}}}, "'promotion.production.*'"),
        ({"promotion": {"a/b": "automatic"}}, "'a/b'"),
        ({"retention": {"compress_after": "30d"}}, "'retention.compress_after'"),
        ({"retention": {"forget_after": "soon"}}, "expected a duration such as"),
        ({"retention": {"forget_after": 30}}, "expected a duration such as"),
        ({"retention": {"forget_after": "99999999999w"}}, "expected a duration such as"),
        ({"retention": {"keep": {"last": -1}}}, "'retention.keep.last'"),
    ],
)
def test_a_wrong_field_is_named(document: dict[str, Any], field: str) -> None:
    with pytest.raises(PolicyError, match=field):
        Policy.of(document)


def test_two_gates_of_one_name_are_refused() -> None:
    gates = [{"metric": "a.b", "min": 1}, {"metric": "a/b", "min": 2}]

    with pytest.raises(PolicyError, match="a_b_min stands twice"):
        Policy.of({"evaluate": "a:b", "evaluation": "c", "gates": gates})


def test_a_gate_of_a_project_has_a_name_and_whatever_arguments() -> None:
    policy = Policy.of({"gates": [{"gate": "a.b:fair", "limit": 0.1, "groups": ["x"]}]})
    (gate,) = policy.gates

    assert policy.required() == ("fair", "integrity", "safety")
    assert isinstance(gate, Custom)
    assert gate.arguments == {"limit": 0.1, "groups": ["x"]}
    assert policy.document() == {"gates": [{"gate": "a.b:fair", "limit": 0.1, "groups": ["x"]}]}


def test_limits_are_written_as_they_are_read() -> None:
    document = {"limits": {"seconds": 60.0, "memory": "500MB"}}

    assert Policy.of(document).document() == document
    assert Policy.of({"limits": {"memory": "2000MB"}}).limits.memory == 2_000_000_000
    assert Policy.of({"limits": {"seconds": 1800, "memory": "8GB"}}).digest == Policy.of({}).digest


def test_no_metric_can_take_the_name_of_a_gate_that_is_always_there() -> None:
    gates = [{"metric": "integrity", "min": 0}, {"metric": "data_contract", "max": 0}]
    policy = Policy.of({"evaluate": "a:b", "evaluation": "c", "gates": gates})

    assert policy.required() == ("data_contract_max", "integrity", "integrity_min", "safety")


@given(count=st.integers(0, 999_999), unit=st.sampled_from("smhdw"))
def test_a_duration_is_written_as_it_is_read(count: int, unit: str) -> None:
    policy = Policy.of({"retention": {"forget_after": f"{count}{unit}"}})

    assert Policy.of(policy.document()).retention == policy.retention
