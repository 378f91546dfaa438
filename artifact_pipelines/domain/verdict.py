"""What a gate found, and the verdict that records it for one artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """What one gate found.

    Attributes:
        gate: The name of the gate.
        passed: Whether the rule holds.
        reasons: Why, one sentence each.
        values: The figures behind it.
        evidence: More that is worth keeping, or nothing.
    """

    gate: str
    passed: bool
    reasons: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one gate for one artifact under one policy and baseline.

    Attributes:
        project: The project.
        artifact: The model that was judged.
        gate: The gate.
        passed: Whether it passed.
        policy: The digest of the policy.
        baseline: The model that was in production, or nothing.
        evaluation: The dataset that it was measured on, or nothing.
        gate_code: The digest of the code that judged.
        reasons: Why.
        values: The figures.
        evidence: The digest of a stored object with more, or nothing.
    """

    project: str
    artifact: str
    gate: str
    passed: bool
    policy: str
    baseline: str | None
    evaluation: str | None
    gate_code: str
    reasons: Sequence[str]
    values: Mapping[str, Any]
    evidence: str | None

    def payload(self, origin: str) -> dict[str, Any]:
        """Return the statement that a gate runner signs."""
        return {
            "type": "verdict",
            "origin": origin,
            "project": self.project,
            "artifact": self.artifact,
            "gate": self.gate,
            "passed": self.passed,
            "policy": self.policy,
            "baseline": self.baseline,
            "evaluation": self.evaluation,
            "gate_code": self.gate_code,
            "reasons": list(self.reasons),
            "values": self.values,
            "evidence": self.evidence,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "Verdict":
        """Return the verdict in a statement."""
        return cls(**{name: payload[name] for name in cls.__slots__})
