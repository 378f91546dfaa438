"""When a stage pointer may move. Every decision gives its reasons."""

from collections.abc import Sequence
from dataclasses import dataclass

from artifact_pipelines.domain.policy import Approvals, Policy


@dataclass(frozen=True, slots=True)
class VerdictFact:
    """A verdict whose signature was checked."""

    seq: int
    artifact: str
    gate: str
    passed: bool
    policy: str
    baseline: str | None


@dataclass(frozen=True, slots=True)
class ApprovalFact:
    """An approval whose signature was checked."""

    seq: int
    artifact: str
    stage: str
    policy: str
    pointer: int
    key: str
    used: bool


@dataclass(frozen=True, slots=True)
class PromotionCase:
    """Everything that a promotion is decided by.

    Attributes:
        artifact: The model.
        stage: The stage.
        policy: The policy in force.
        pointer: The leaf that last moved the pointer; 0 when none did.
        baseline: The model that is in production, or nothing.
        verdicts: The model's verdicts.
        approvals: The approvals for the model.
        recalled: Whether the model was withdrawn.
    """

    artifact: str
    stage: str
    policy: Policy
    pointer: int
    baseline: str | None
    verdicts: Sequence[VerdictFact]
    approvals: Sequence[ApprovalFact]
    recalled: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a pointer may move.

    Attributes:
        reasons: What stands against it; nothing when it may.
        verdicts: The leaves of the verdicts that it rests on.
        approvals: The leaves of the approvals that it uses up.
    """

    reasons: tuple[str, ...]
    verdicts: tuple[int, ...] = ()
    approvals: tuple[int, ...] = ()


def decide_promotion(case: PromotionCase) -> Decision:
    """Return whether a model may be promoted to a stage."""
    reasons = []
    rule = case.policy.promotion.get(case.stage)
    if rule is None:
        reasons.append(f"the policy has no stage {case.stage!r}")
    if case.recalled:
        reasons.append("the model was recalled")
    digest = case.policy.digest
    newest: dict[str, VerdictFact] = {}
    for verdict in sorted(case.verdicts, key=lambda fact: fact.seq):
        if verdict.artifact == case.artifact and verdict.policy == digest:
            newest[verdict.gate] = verdict
    for gate in case.policy.required():
        found = newest.get(gate)
        if found is None:
            reasons.append(f"the gate {gate} has no verdict under the policy in force")
        elif not found.passed:
            reasons.append(f"the gate {gate} failed")
        elif found.baseline != case.baseline:
            reasons.append(
                f"the gate {gate} was judged against another production model; evaluate again"
            )
    approvals: dict[str, int] = {}
    if isinstance(rule, Approvals):
        for approval in case.approvals:
            if (
                approval.artifact == case.artifact
                and approval.stage == case.stage
                and approval.policy == digest
                and approval.pointer == case.pointer
                and not approval.used
            ):
                approvals.setdefault(approval.key, approval.seq)
        if len(approvals) < rule.approvals:
            reasons.append(
                f"it has {len(approvals)} of {rule.approvals} approvals that the policy asks for"
            )
    return Decision(
        tuple(reasons),
        tuple(sorted(newest[gate].seq for gate in case.policy.required() if gate in newest)),
        tuple(sorted(approvals.values())),
    )


def decide_rollback(*, proven: bool, recalled: bool, current: bool) -> Decision:
    """Return whether a pointer may go back to a model.

    The model's own promotion is its proof; today's policy does not stand in the way.
    """
    reasons = []
    if not proven:
        reasons.append("the model was never promoted to this stage")
    if recalled:
        reasons.append("the model was recalled")
    if current:
        reasons.append("the stage points at it already")
    return Decision(tuple(reasons))
