"""A project's policy: what a model must pass, who must agree, and what is kept.

The digest of the policy document is named in every verdict, approval and promotion.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.gate import (
    FILES,
    FORMATS,
    GATE_FORMS,
    Formats,
    Gate,
    Governance,
    Limits,
    MetricBound,
    NoWorse,
    Onnx,
    Rows,
)
from artifact_pipelines.domain.keeping import Retention
from artifact_pipelines.domain.part import Metric, Part
from artifact_pipelines.errors import ArtifactError, PolicyError

PRODUCTION = "production"

# The path of a wrong field names the form that pydantic read it as, which no document has.
_FORM = 2
_FORMS_OF_A_RULE = frozenset({"literal['automatic','best']", "Approvals"})


class Select(Part):
    """Which checkpoint of a run is put forward first, and how many may follow it."""

    metric: Metric
    mode: Literal["max", "min"] = "max"
    tries: int = Field(default=1, ge=1, le=100, alias="try")


class Approvals(Part):
    """How many people must approve, and whether whoever asked may be one of them."""

    approvals: int = Field(ge=1, le=20)
    author_may_approve: bool = True


class Contract(Part):
    """What a dataset must be: a Pandera schema, a Great Expectations suite, or both."""

    schema_: str | None = Field(default=None, alias="schema")
    expectations: dict[str, Any] | None = None


class Policy(Part):
    """The policy of one project."""

    evaluate: str | None = None
    evaluation: str | None = None
    # Said of a project that has no other dataset: its figures are then of what it learnt.
    trains_on_evaluation: bool = False
    select: Select | None = None
    gates: tuple[Gate, ...] = ()
    limits: Limits = Limits()
    promotion: dict[str, Literal["automatic", "best"] | Approvals] = Field(default_factory=dict)
    retention: Retention = Retention()
    contracts: dict[str, Contract] = Field(default_factory=dict)
    owners: tuple[str, ...] = ()

    _stored: bytes | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        """Refuse parts that do not go together."""
        for stage in self.promotion:
            naming.check_stage(stage)
        if "best" in self.promotion.values() and not (
            self.select and self.evaluate and self.evaluation
        ):
            raise ValueError(
                "a stage that takes the best needs select (a metric), evaluate (a function) and "
                "evaluation (a dataset)"
            )
        names = ["integrity", "data_contract", *(gate.name for gate in self.gates)]
        if not any(isinstance(gate, Formats) for gate in self.gates):
            names.append("safety")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the gate {twice[0]} stands twice")
        for gate in self.gates:
            for field in FILES:
                if isinstance(getattr(gate, field, None), str):
                    raise ValueError(  # noqa: TRY004 (pydantic takes no other)
                        f"the gate {gate.name} names a file as its {field}; a policy holds content"
                    )
        if any(isinstance(gate, Rows | Onnx) for gate in self.gates) and not self.evaluation:
            raise ValueError("gates on predictions, features and onnx need evaluation (a dataset)")
        measured = [gate for gate in self.gates if isinstance(gate, MetricBound | NoWorse)]
        if measured and not (self.evaluate and self.evaluation):
            raise ValueError(
                "gates on metrics need evaluate (a function) and evaluation (a dataset)"
            )
        return self

    def asks_for_owners(self) -> bool:
        """Return whether a gate asks who owns the project."""
        return any(isinstance(gate, Governance) and "project" in gate.owner for gate in self.gates)

    def required(self) -> tuple[str, ...]:
        """Return the names of the gates that a model must pass."""
        names = {"integrity", "safety"} | {gate.name for gate in self.gates}
        if self.contracts:
            names.add("data_contract")
        return tuple(sorted(names))

    def formats(self) -> tuple[str, ...]:
        """Return the file formats that a model may have."""
        for gate in self.gates:
            if isinstance(gate, Formats):
                return gate.formats
        return FORMATS

    def scanners(self) -> tuple[str, ...]:
        """Return the scanners that must find nothing in a model's files either."""
        return tuple(
            name for gate in self.gates if isinstance(gate, Formats) for name in gate.scanners
        )

    def document(self) -> dict[str, Any]:
        """Return the policy as plain data, without what is as it is by default.

        A rule that a later release adds, off by default, then changes no digest.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def encode(self) -> bytes:
        """Return the bytes behind the policy's digest: those it was read from, where it was."""
        return digest.canonical(self.document()) if self._stored is None else self._stored

    @property
    def digest(self) -> str:
        """The SHA-256 of the policy's bytes."""
        return digest.sha256(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the policy that stored bytes hold, with these bytes behind its digest.

        Raises:
            InvalidFormatError: They are no JSON object.
            PolicyError: The document breaks a rule.
        """
        policy = cls.of(digest.parse(data))
        policy._stored = data  # noqa: SLF001  its own
        return policy

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the policy in a document.

        Raises:
            PolicyError: The document breaks a rule; the sentence names the field.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise PolicyError(_sentence(error)) from error
        except ArtifactError as error:
            raise PolicyError(f"the policy is wrong: {error}") from error


def _sentence(error: ValidationError) -> str:
    """Return what is wrong first, with the path of the field as it stands in the document."""
    first = error.errors()[0]
    forms = {"gates": GATE_FORMS, "promotion": _FORMS_OF_A_RULE}
    known = forms.get(str(first["loc"][0]) if first["loc"] else "", frozenset())
    parts = [
        str(part) for depth, part in enumerate(first["loc"]) if depth != _FORM or part not in known
    ]
    place = ".".join(parts)
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        said = "there is no such field here"
    elif first["type"] == "missing":
        said = "it is missing"
    if not place:
        return f"the policy is wrong: {said}."
    return f"the policy field {place!r} is wrong: {said}."
