"""A project's policy: what a model must pass, who must agree, and what is kept.

The digest of the policy document is named in every verdict, approval and promotion.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    model_validator,
)

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.errors import PolicyError

PRODUCTION = "production"
FORMATS = ("safetensors", "json", "parquet", "npy", "npz", "onnx", "csv", "text")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]+)([smhdw])", value)
    if not found:
        raise ValueError("expected a duration such as 12h, 30d or 4w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(lambda value: f"{int(value.total_seconds())}s", return_type=str),
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class MetricBound(_Frozen):
    """A metric on the evaluation data has a floor or a ceiling."""

    metric: str
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "MetricBound":
        if self.min is None and self.max is None:
            raise ValueError("a metric gate needs min or max")
        return self

    @property
    def name(self) -> str:
        """The name of the gate."""
        return f"{self.metric}_{'min' if self.max is None else 'max' if self.min is None else 'range'}"


class NoWorse(_Frozen):
    """A metric is no worse than that of the model in production, on the same data."""

    metric: str
    no_worse_than: Literal["production"]
    tolerance: float = Field(default=0.0, ge=0.0)
    mode: Literal["max", "min"] = "max"

    @property
    def name(self) -> str:
        """The name of the gate."""
        return f"{self.metric}_no_worse_than_production"


class Formats(_Frozen):
    """Every file of the model is of an allowed format, by its content."""

    formats: tuple[Literal["safetensors", "json", "parquet", "npy", "npz", "onnx", "csv", "text"], ...]

    @property
    def name(self) -> str:
        """The name of the gate."""
        return "safety"


def _which(value: Any) -> str:
    keys = set(value) if isinstance(value, Mapping) else set(type(value).model_fields)
    if "formats" in keys:
        return "formats"
    return "no_worse" if "no_worse_than" in keys else "bound"


Gate = Annotated[
    Annotated[MetricBound, Tag("bound")]
    | Annotated[NoWorse, Tag("no_worse")]
    | Annotated[Formats, Tag("formats")],
    Discriminator(_which),
]


class Select(_Frozen):
    """Which checkpoint of a run is put forward first, and how many may follow it."""

    metric: str
    mode: Literal["max", "min"] = "max"
    tries: int = Field(default=1, ge=1, le=100, alias="try")


class Approvals(_Frozen):
    """How many people must approve."""

    approvals: int = Field(ge=1, le=20)


class Keep(_Frozen):
    """The checkpoints of a run that stay whatever their age."""

    last: int = Field(default=1, ge=0)
    best: int = Field(default=1, ge=0)
    every: int | None = Field(default=None, ge=1, description="steps")
    within: Duration | None = None


class Retention(_Frozen):
    """What is kept and when the rest may go."""

    keep: Keep = Keep()
    forget_after: Duration | None = None
    max_share: float = Field(default=0.9, gt=0.0, le=1.0, description="of all items in one plan")


class Contract(_Frozen):
    """What a dataset must be: a Pandera schema, a Great Expectations suite, or both."""

    schema_: str | None = Field(default=None, alias="schema")
    expectations: dict[str, Any] | None = None


class Policy(_Frozen):
    """The policy of one project."""

    evaluate: str | None = None
    evaluation: str | None = None
    select: Select | None = None
    gates: tuple[Gate, ...] = ()
    promotion: dict[str, Literal["automatic"] | Approvals] = Field(default_factory=dict)
    retention: Retention = Retention()
    contracts: dict[str, Contract] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _coherent(self) -> "Policy":
        for stage in self.promotion:
            naming.check_stage(stage)
        names = [gate.name for gate in self.gates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the gate {twice[0]} stands twice")
        measured = [gate for gate in self.gates if not isinstance(gate, Formats)]
        if measured and not (self.evaluate and self.evaluation):
            raise ValueError("gates on metrics need evaluate (a function) and evaluation (a dataset)")
        return self

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

    def document(self) -> dict[str, Any]:
        """Return the policy as plain data."""
        return self.model_dump(mode="json", by_alias=True)

    def encode(self) -> bytes:
        """Return the bytes behind the policy's digest."""
        return digest.canonical(self.document())

    @property
    def digest(self) -> str:
        """The SHA-256 of the policy's bytes."""
        return digest.sha256(self.encode())

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Policy":
        """Return the policy in a document.

        Raises:
            PolicyError: The document breaks a rule; the sentence names the field.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "policy"
            raise PolicyError(f"the policy field {place!r} is wrong: {first['msg']}.") from error
