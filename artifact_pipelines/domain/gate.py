"""What a project's policy may ask of a model: each form of a gate, and the name it goes by."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Discriminator, Field, FiniteFloat, Tag, model_validator

from artifact_pipelines.domain.part import Metric, Part

FORMATS: Final = ("safetensors", "json", "parquet", "npy", "npz", "onnx", "csv", "text")
GATE_FORMS: Final = frozenset({"bound", "no_worse", "formats"})
"""What pydantic calls the forms; an error's path holds it, and no document does."""


class MetricBound(Part):
    """A metric on the evaluation data has a floor or a ceiling."""

    metric: Metric
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        """Refuse a gate that nothing or everything passes."""
        if self.min is None and self.max is None:
            raise ValueError("a metric gate needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("a metric gate's min is above its max")
        return self

    @property
    def name(self) -> str:
        """The name of the gate."""
        bound = "min" if self.max is None else "max" if self.min is None else "range"
        return f"{_identifier(self.metric)}_{bound}"


class NoWorse(Part):
    """A metric is no worse than that of the model in production, on the same data."""

    metric: Metric
    no_worse_than: Literal["production"]
    tolerance: FiniteFloat = Field(default=0.0, ge=0.0)
    mode: Literal["max", "min"] = "max"

    @property
    def name(self) -> str:
        """The name of the gate."""
        return f"{_identifier(self.metric)}_no_worse_than_production"


class Formats(Part):
    """Every file of the model is of an allowed format, by its content."""

    formats: tuple[
        Literal["safetensors", "json", "parquet", "npy", "npz", "onnx", "csv", "text"], ...
    ]

    @property
    def name(self) -> str:
        """The name of the gate."""
        return "safety"


def _identifier(metric: str) -> str:
    """Return a metric's name as a gate may carry it, whose name is also an asset check's."""
    return re.sub(r"[^A-Za-z0-9_]", "_", metric)


def _which(value: object) -> str:
    """Return which gate a mapping describes, by the fields it has."""
    if isinstance(value, Mapping):
        keys = set(value)
    elif isinstance(value, Part):
        keys = set(type(value).model_fields)
    else:
        keys = set()
    if "formats" in keys:
        return "formats"
    return "no_worse" if "no_worse_than" in keys else "bound"


Gate = Annotated[
    Annotated[MetricBound, Tag("bound")]
    | Annotated[NoWorse, Tag("no_worse")]
    | Annotated[Formats, Tag("formats")],
    Discriminator(_which),
]
