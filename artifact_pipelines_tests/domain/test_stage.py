"""A pointer moves when nothing stands against it; each case here changes one thing."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.stage import (
    ApprovalFact,
    PromotionCase,
    VerdictFact,
    decide_promotion,
    decide_rollback,
    gathered,
)

POLICY = Policy.of({"promotion": {"staging": "automatic", "production": {"approvals": 2}}})
STRICT = Policy.of({"promotion": {"production": {"approvals": 1, "author_may_approve": False}}})
MODEL, OTHER, LIVE = "a" * 64, "b" * 64, "c" * 64


def verdict(seq: int, gate: str, *, passed: bool = True, policy: Policy = POLICY) -> VerdictFact:
    return VerdictFact(seq, MODEL, gate, passed, policy.digest, LIVE)


def approval(seq: int, key: str, *, policy: Policy = POLICY, by: str = "") -> ApprovalFact:
    return ApprovalFact(seq, MODEL, "production", policy.digest, 7, key, used=False, by=by)


def case(policy: Policy = POLICY, **changes: Any) -> PromotionCase:
    whole = PromotionCase(
        artifact=MODEL,
        stage="production",
        policy=policy,
        pointer=7,
        baseline=LIVE,
        verdicts=[verdict(10, "integrity", policy=policy), verdict(11, "safety", policy=policy)],
        approvals=[approval(12, "alice", policy=policy), approval(13, "bob", policy=policy)],
        recalled=False,
    )
    return replace(whole, **changes)


def test_a_whole_case_is_allowed_and_says_what_it_rests_on() -> None:
    decision = decide_promotion(case())

    assert decision.reasons == ()
    assert decision.verdicts == (10, 11)
    assert decision.approvals == (12, 13)


def test_an_automatic_stage_uses_no_approval() -> None:
    decision = decide_promotion(case(stage="staging"))

    assert decision.reasons == ()
    assert decision.approvals == ()


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"stage": "canary"}, "the policy has no stage 'canary'"),
        ({"recalled": True}, "the model was recalled"),
        ({"rollback_ready": False}, "no way back"),
        ({"verdicts": []}, "integrity has no verdict under the policy in force"),
        ({"baseline": OTHER}, "safety was judged against another production model"),
        ({"baseline": None}, "safety was judged against another production model"),
        ({"artifact": OTHER}, "integrity has no verdict"),
        ({"pointer": 8}, "it has 0 of 2 approvals"),
        ({"approvals": []}, "it has 0 of 2 approvals"),
    ],
)
def test_what_stands_against_it_is_said(changes: dict[str, Any], reason: str) -> None:
    assert reason in "; ".join(decide_promotion(case(**changes)).reasons)


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact": OTHER},
        {"stage": "staging"},
        {"policy": STRICT.digest},
        {"pointer": 6},
        {"used": True},
        {"approver": "alice"},
    ],
)
def test_an_approval_of_something_else_does_not_count(changes: dict[str, Any]) -> None:
    approvals = [approval(12, "alice"), replace(approval(13, "bob"), **changes)]
    decision = decide_promotion(case(approvals=approvals))

    assert decision.reasons == ("it has 1 of 2 approvals that the policy asks for",)
    assert decision.approvals == (12,)


def test_a_verdict_under_another_policy_does_not_count() -> None:
    verdicts = [verdict(10, "integrity"), verdict(11, "safety", policy=STRICT)]

    assert decide_promotion(case(verdicts=verdicts)).reasons == (
        "the gate safety has no verdict under the policy in force",
    )


@pytest.mark.parametrize("seq", [5, 99])
def test_a_failed_gate_stays_failed_whatever_is_entered_around_it(seq: int) -> None:
    verdicts = [*case().verdicts, verdict(seq, "safety", passed=False)]

    assert decide_promotion(case(verdicts=verdicts)).reasons == ("the gate safety failed",)


def test_a_failure_against_another_baseline_is_another_question() -> None:
    verdicts = [*case().verdicts, replace(verdict(99, "safety", passed=False), baseline=OTHER)]

    assert decide_promotion(case(verdicts=verdicts)).reasons == ()


def test_a_late_verdict_does_not_change_what_a_promotion_rests_on() -> None:
    verdicts = [*case().verdicts, verdict(99, "safety")]

    assert decide_promotion(case(verdicts=verdicts)).verdicts == (10, 11)


def test_whoever_asked_may_not_approve_where_the_policy_says_so() -> None:
    mine = case(STRICT, approvals=[approval(12, "k1", policy=STRICT, by="ann")], authors={"ann"})
    other = case(STRICT, approvals=[approval(12, "k1", policy=STRICT, by="bob")], authors={"ann"})

    assert "its author's own does not count" in decide_promotion(mine).reasons[0]
    assert decide_promotion(other).reasons == ()


def test_without_a_request_nobody_can_be_told_from_its_author() -> None:
    decision = decide_promotion(case(STRICT))

    assert "nobody has an open request" in decision.reasons[0]


verdicts_drawn = st.builds(
    VerdictFact,
    st.integers(1, 9),
    st.sampled_from([MODEL, OTHER]),
    st.sampled_from(["integrity", "safety"]),
    st.booleans(),
    st.sampled_from([POLICY.digest, STRICT.digest]),
    st.sampled_from([None, LIVE]),
)
approvals_drawn = st.builds(
    ApprovalFact,
    st.integers(1, 9),
    st.sampled_from([MODEL, OTHER]),
    st.sampled_from(["staging", "production"]),
    st.sampled_from([POLICY.digest, STRICT.digest]),
    st.sampled_from([6, 7]),
    st.sampled_from(["alice", "bob", "carol"]),
    st.booleans(),
)


@given(
    verdicts=st.lists(verdicts_drawn, max_size=12),
    approvals=st.lists(approvals_drawn, max_size=8),
)
def test_what_is_allowed_has_every_proof(
    verdicts: list[VerdictFact], approvals: list[ApprovalFact]
) -> None:
    decision = decide_promotion(case(verdicts=verdicts, approvals=approvals))
    bound = [
        fact
        for fact in verdicts
        if (fact.artifact, fact.policy, fact.baseline) == (MODEL, POLICY.digest, LIVE)
    ]
    approvers = {
        fact.approver
        for fact in approvals
        if (fact.artifact, fact.stage, fact.policy, fact.pointer, fact.used)
        == (MODEL, "production", POLICY.digest, 7, False)
    }
    judged = {fact.gate for fact in bound} == {"integrity", "safety"}
    proven = judged and all(fact.passed for fact in bound) and len(approvers) >= 2

    assert (decision.reasons == ()) == proven


def test_a_rollback_needs_the_models_own_promotion_only() -> None:
    assert decide_rollback(proven=True, recalled=False, current=False).reasons == ()


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"proven": False}, "never promoted to this stage"),
        ({"recalled": True}, "recalled"),
        ({"current": True}, "points at it already"),
    ],
)
def test_a_rollback_is_refused_with_its_reason(changes: dict[str, bool], reason: str) -> None:
    facts = {"proven": True, "recalled": False, "current": False, **changes}

    assert reason in decide_rollback(**facts).reasons[0]


def test_gates_that_say_the_same_are_named_together() -> None:
    old = "was judged against another production model; evaluate again"
    reasons = [
        f"the gate a {old}",
        "it has 0 of 1 approvals",
        f"the gate b {old}",
        "the gate c failed",
    ]

    assert gathered(reasons) == [
        "it has 0 of 1 approvals",
        "the gate c failed",
        f"each of the gates a, b {old}",
    ]


def test_of_many_gates_that_say_the_same_a_few_are_named() -> None:
    said = [gathered([f"the gate {name} failed" for name in names]) for names in ("abcd", "abcde")]

    assert said == [
        ["each of the gates a, b, c, d failed"],
        ["each of the gates a, b, c and 2 more failed"],
    ]
