"""When a stage pointer may move. Every decision gives its reasons."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from artifact_pipelines.domain.policy import Approvals, Policy

_MOST_NAMED = 4
_OF_A_GATE = re.compile(r"the gate (\S+) (.*)")


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
    """An approval whose signature was checked.

    Attributes:
        seq: Its leaf.
        artifact: The model.
        stage: The stage.
        policy: The digest of the policy that was in force.
        pointer: The leaf that had last moved the pointer.
        approver: The name under which the approver's key is registered.
        used: Whether a pointer move has used it up.
        by: The pseudonym of whoever recorded it.
    """

    seq: int
    artifact: str
    stage: str
    policy: str
    pointer: int
    approver: str
    used: bool
    by: str = ""


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
        authors: The pseudonyms of whoever has an open request for this promotion.
        rollback_ready: Whether a former model is whole, or None where there is none to ask for.
    """

    artifact: str
    stage: str
    policy: Policy
    pointer: int
    baseline: str | None
    verdicts: Sequence[VerdictFact]
    approvals: Sequence[ApprovalFact]
    recalled: bool
    authors: Collection[str] = ()
    rollback_ready: bool | None = None


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
        stages = ", ".join(sorted(case.policy.promotion)) or "none"
        return Decision((f"the policy has no stage {case.stage!r}; it has {stages}",))
    if case.recalled:
        reasons.append("the model was recalled")
    if case.rollback_ready is False:
        reasons.append("no former model is whole, so there would be no way back")
    verdicts, against = _judged(case)
    reasons += against
    approvals: tuple[int, ...] = ()
    if isinstance(rule, Approvals):
        approvals, against = _approved(case, rule)
        reasons += against
    return Decision(tuple(reasons), verdicts, approvals)


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


def _judged(case: PromotionCase) -> tuple[tuple[int, ...], list[str]]:
    """Return the first passing verdict of each gate, and what stands against the model.

    Under one policy and one baseline a failure is final: neither a second try nor an old
    statement that is entered again can outvote it. The first pass is the one that counts,
    so a verdict that arrives late does not change what a promotion rests on.
    """
    policy = case.policy.digest
    mine = [
        fact for fact in case.verdicts if fact.artifact == case.artifact and fact.policy == policy
    ]
    passed, reasons = [], []
    for gate in case.policy.required():
        facts = [fact for fact in mine if fact.gate == gate]
        bound = [fact for fact in facts if fact.baseline == case.baseline]
        if not facts:
            reasons.append(f"the gate {gate} has no verdict under the policy in force")
        elif not bound:
            reasons.append(
                f"the gate {gate} was judged against another production model; evaluate it again"
            )
        elif not all(fact.passed for fact in bound):
            reasons.append(f"the gate {gate} failed")
        else:
            passed.append(min(fact.seq for fact in bound))
    return tuple(sorted(passed)), reasons


def _approved(case: PromotionCase, rule: Approvals) -> tuple[tuple[int, ...], list[str]]:
    """Return the first approval of each person that counts, and what is still missing."""
    policy, reasons = case.policy.digest, []
    if not rule.author_may_approve and not case.authors:
        reasons.append(
            "nobody has an open request for it, so its author cannot be told from its approvers"
        )
    counted: dict[str, int] = {}
    own = 0
    for fact in sorted(case.approvals, key=lambda fact: fact.seq):
        if (fact.artifact, fact.stage, fact.policy, fact.pointer, fact.used) != (
            case.artifact,
            case.stage,
            policy,
            case.pointer,
            False,
        ):
            continue
        if not rule.author_may_approve and fact.by in case.authors:
            own += 1
            continue
        counted.setdefault(fact.approver, fact.seq)
    if len(counted) < rule.approvals:
        missing = f"it has {len(counted)} of {rule.approvals} approvals that the policy asks for"
        reasons.append(f"{missing}; its author's own does not count" if own else missing)
    return tuple(sorted(counted.values())), reasons


def gathered(reasons: Sequence[str]) -> list[str]:
    """Return reasons with the gates that say the same named together, after what stands alone."""
    found: dict[str, list[str]] = {}
    for reason in reasons:
        match = _OF_A_GATE.fullmatch(reason)
        found.setdefault(match[2] if match else reason, []).extend([match[1]] if match else [])
    return [
        said
        if not gates
        else f"the gate {gates[0]} {said}"
        if len(gates) == 1
        else f"each of the gates {_listed(gates)} {said}"
        # Many gates that say the same have one cause, and it is seldom what decides.
        for said, gates in sorted(found.items(), key=lambda one: len(one[1]) > 1)
    ]


def _listed(gates: Sequence[str]) -> str:
    shown = gates if len(gates) <= _MOST_NAMED else gates[: _MOST_NAMED - 1]
    left = len(gates) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")
