"""What a gate found, and the verdict that records it for one artifact."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.errors import InvalidFormatError

_GATE: Final = re.compile(r"[A-Za-z0-9_]{1,200}")


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

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """Return the finding that plain JSON holds."""
        return cls(**{**found, "reasons": tuple(found["reasons"])})


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

    def __post_init__(self) -> None:
        """Refuse what no verdict may say."""
        naming.check_project(self.project)
        if not naming.matches(_GATE, self.gate):
            raise InvalidFormatError(
                f"{self.gate!r} cannot name a gate: use letters, digits and _."
            )
        # A gate that hands on a NumPy truth value, or None, must not be taken for a pass.
        if type(self.passed) is not bool:
            raise InvalidFormatError(f"gate {self.gate} passed or not, but said {self.passed!r}.")
        for name in ("artifact", "policy", "gate_code"):
            digest.check_sha256(getattr(self, name), f"the {name} of a verdict")
        for name in ("baseline", "evaluation", "evidence"):
            if getattr(self, name) is not None:
                digest.check_sha256(getattr(self, name), f"the {name} of a verdict")

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
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Return the verdict in a statement.

        Raises:
            InvalidFormatError: The statement is no verdict.
        """
        names = [item.name for item in fields(cls)]
        if payload.get("type") != "verdict" or payload.keys() != {"type", "origin", *names}:
            raise InvalidFormatError("a statement is no verdict.")
        reasons = payload["reasons"]
        if not isinstance(reasons, list) or not isinstance(payload["values"], Mapping):
            raise InvalidFormatError("a verdict needs a list of reasons and figures by name.")
        return cls(**{name: payload[name] for name in names} | {"reasons": tuple(reasons)})
