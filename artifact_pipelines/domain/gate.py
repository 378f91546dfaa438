"""What a project's policy may ask of a model: each form of a gate, and the name it goes by."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    PlainSerializer,
    Tag,
    model_validator,
)

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.lineage import QUESTIONS
from artifact_pipelines.domain.part import Metric, Part
from artifact_pipelines.domain.schema import Layout

FORMATS: Final = ("safetensors", "json", "parquet", "npy", "npz", "onnx", "csv", "text")
GATE_FORMS: Final = frozenset(
    {"bound", "no_worse", "formats", "custom", "governance", "schema", "serving", "rows", "onnx"}
)
"""What pydantic calls the forms; an error's path holds it, and no document does."""

_SIZE: Final = re.compile(r"([0-9]{1,9})(MB|GB)")
_MEGABYTE: Final = 1_000_000
_GIGABYTE: Final = 1_000_000_000


def _size(value: object) -> int:
    """Return the bytes that a text writes."""
    if isinstance(value, int) and value >= _MEGABYTE:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("expected a size such as 500MB or 8GB")
    return int(found[1]) * (_MEGABYTE if found[2] == "MB" else _GIGABYTE)


def _written(value: int) -> str | int:
    """Return a size in the largest unit that divides it."""
    if value % _MEGABYTE:
        return value
    return f"{value // _GIGABYTE}GB" if value % _GIGABYTE == 0 else f"{value // _MEGABYTE}MB"


def _question(value: str) -> str:
    """Return a question that a lineage is asked."""
    if value not in QUESTIONS:
        raise ValueError(f"expected complete, or some of {', '.join(QUESTIONS)}")
    return value


def _questions(value: object) -> object:
    """Return the questions, each by its name: a later release may know more of them."""
    return QUESTIONS if value == "complete" else value


Size = Annotated[int, BeforeValidator(_size), PlainSerializer(_written)]
Seconds = Annotated[FiniteFloat, Field(gt=0, le=7 * 86_400)]
Column = Annotated[str, Field(min_length=1, max_length=200)]
Question = Annotated[str, AfterValidator(_question)]
Function = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class Limits(Part):
    """How much a project's own code may take when a model is judged.

    Attributes:
        seconds: For one evaluation, or one gate of the project's own.
        memory: What its process may grow by.
    """

    seconds: Seconds = 1800.0
    memory: Size = 8 * _GIGABYTE


class MetricBound(Part):
    """A metric on the evaluation data has a floor or a ceiling, as a whole or in every slice.

    Attributes:
        metric: The metric.
        min: The floor.
        max: The ceiling.
        slice: The column whose values cut the evaluation data into slices.
        min_rows: Slices with fewer rows are shown and not judged.
    """

    metric: Metric
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    slice: Column | None = None
    min_rows: int = Field(default=1, ge=1)

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
        return f"{identifier(self.metric)}_{bound}{_by(self.slice)}"


class NoWorse(Part):
    """A metric is no worse than that of the model in production, on the same data.

    Attributes:
        metric: The metric.
        no_worse_than: The stage whose model it is compared to.
        tolerance: By how much it may be worse.
        mode: Whether more is better, or less.
        confidence: The certainty that it is no worse than the tolerance allows, by paired
            bootstrap over the examples; without it, the difference itself decides.
        slice: The column whose values cut the evaluation data into slices.
        min_rows: Slices with fewer rows are shown and not judged.
    """

    metric: Metric
    no_worse_than: Literal["production"]
    tolerance: FiniteFloat = Field(default=0.0, ge=0.0)
    mode: Literal["max", "min"] = "max"
    confidence: FiniteFloat | None = Field(default=None, ge=0.5, le=0.999)
    slice: Column | None = None
    min_rows: int = Field(default=1, ge=1)

    @property
    def name(self) -> str:
        """The name of the gate."""
        return f"{identifier(self.metric)}_no_worse_than_production{_by(self.slice)}"


class Formats(Part):
    """Every file of the model is of an allowed format, by its content.

    Attributes:
        formats: The formats.
        scanners: Others' scanners that must find nothing either.
    """

    formats: tuple[
        Literal["safetensors", "json", "parquet", "npy", "npz", "onnx", "csv", "text"], ...
    ]
    scanners: tuple[Literal["picklescan"], ...] = ()

    @property
    def name(self) -> str:
        """The name of the gate."""
        return "safety"


class Governance(Part):
    """What a model was made from may be used, is known and is answered for.

    Attributes:
        licences: The SPDX licences that the data and base models may be under, combined.
        sensitivity: The kinds of sensitive data that the data may hold.
        fields: What each dataset's record must say beside.
        lineage: The questions that the lineage must answer in full, or `complete` for all.
        owner: Whose owner must be known: that of the `data`, of the `project` or of both.
    """

    licences: tuple[str, ...] | None = None
    sensitivity: tuple[str, ...] | None = None
    fields_: tuple[str, ...] = Field(default=(), alias="fields")
    lineage: Annotated[tuple[Question, ...], BeforeValidator(_questions)] = ()
    owner: tuple[Literal["data", "project"], ...] = ()

    @model_validator(mode="after")
    def _asking(self) -> Self:
        """Refuse a gate that everything passes."""
        asked = self.fields_ + self.lineage + self.owner
        if self.licences is None and self.sensitivity is None and not asked:
            raise ValueError("the gate needs licences, sensitivity, fields, lineage or owner")
        return self

    @property
    def name(self) -> str:
        """The name of the gate."""
        return "governance"


class Schema(Part):
    """The model's files are laid out as a registered schema says.

    Attributes:
        schema_: The schema and its version, as `name@version`.
        layout: What that version says, registered with the policy; in a project's YAML also
            the path of a YAML or JSON file. Left out, it is registered by itself.
    """

    schema_: str = Field(
        alias="schema", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}@[1-9][0-9]{0,8}$"
    )
    layout: dict[str, Any] | str | None = None

    @model_validator(mode="after")
    def _laid_out(self) -> Self:
        """Refuse a layout that is none."""
        if isinstance(self.layout, dict):
            Layout.of(self.layout)
        return self

    @property
    def name(self) -> str:
        """The name of the gate."""
        return "schema"


class Serving(Part):
    """A model answers by itself, in a fresh process that has only what it declares.

    Attributes:
        serving: The function that answers, called with the model's folder and rows.
        requirements: All that it may import, as `name` or `name>=version`; anything by default.
        golden: What it is asked and answers: `inputs`, a list of rows, and, where they are
            known, `outputs`, one for each, and `dtypes` by column; in a project's YAML, the path
            of a JSON file with them. By default it is asked rows of the evaluation data.
        rows: How many rows of the evaluation data it is asked.
        agree: The share of golden outputs that it must give.
        tolerance: How far a number may be from the golden one, absolutely or relatively.
        seconds: How long it may take from the start of the process.
        memory: How much memory the process may have.
    """

    serving: Function
    requirements: tuple[str, ...] | None = None
    golden: dict[str, Any] | str | None = None
    rows: int = Field(default=32, ge=1, le=10_000)
    agree: FiniteFloat = Field(default=1.0, ge=0.0, le=1.0)
    tolerance: FiniteFloat = Field(default=0.0, ge=0.0)
    seconds: Seconds = 60.0
    memory: Size = 2 * _GIGABYTE

    @model_validator(mode="after")
    def _askable(self) -> Self:
        """Refuse golden rows that cannot be asked or compared."""
        if not isinstance(self.golden, dict):
            return self
        rows, outputs = self.golden.get("inputs"), self.golden.get("outputs")
        if not self.golden.keys() <= {"inputs", "outputs", "dtypes"}:
            raise ValueError("golden may have inputs, outputs and dtypes")
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise ValueError("golden.inputs must be a list of rows, each a mapping by column")
        if outputs is not None and (not isinstance(outputs, list) or len(outputs) != len(rows)):
            raise ValueError("golden.outputs must be a list with one output for each input")
        digest.canonical(self.golden)
        return self

    @property
    def name(self) -> str:
        """The name of the gate."""
        return "serving"


class Rows(Part):
    """What a model predicts, or is given as features, keeps a contract.

    Attributes:
        predictions: The function that predicts, called with the model's folder and the
            evaluation data; it returns a frame, or an array that becomes one.
        features: The function that makes features of the evaluation data, called with it alone.
        schema_: A Pandera schema, as `module:name`.
        expectations: A Great Expectations suite; in a project's YAML, the path of a JSON file.
    """

    predictions: Function | None = None
    features: Function | None = None
    schema_: Function | None = Field(default=None, alias="schema")
    expectations: dict[str, Any] | str | None = None

    @model_validator(mode="after")
    def _asking(self) -> Self:
        """Refuse a contract on nothing, or that everything keeps."""
        if (self.predictions is None) == (self.features is None):
            raise ValueError("the gate needs predictions or features, one of them")
        if self.schema_ is None and self.expectations is None:
            raise ValueError("the gate needs a schema or expectations")
        return self

    @property
    def name(self) -> str:
        """The name of the gate."""
        return "features" if self.predictions is None else "predictions"

    @property
    def function(self) -> str:
        """The function whose rows are held to the contract."""
        return self.predictions or self.features or ""


class Onnx(Part):
    """A model's ONNX export answers as the model itself does.

    Attributes:
        onnx: The file, by its path in the model.
        inputs: The function that makes what the export is fed, called with rows of the
            evaluation data: an array, or arrays by input.
        against: The function that gives what it must answer, called with the model's folder
            and the same rows: an array, or a list of arrays, one for each output.
        rows: How many rows of the evaluation data.
        tolerance: How far a number may be from the model's, absolutely or relatively.
    """

    onnx: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_./-]*\.onnx$")]
    inputs: Function
    against: Function
    rows: int = Field(default=64, ge=1, le=100_000)
    tolerance: FiniteFloat = Field(default=1e-5, ge=0.0)

    @property
    def name(self) -> str:
        """The name of the gate."""
        return "onnx"


class Custom(Part):
    """A gate of the project's own: one function, called with the case and the other fields.

    Attributes:
        gate: The function, as `module:name`.
        as_: The name of the gate, if not the function's.
        seconds: How long it may take, if not as long as the policy's limits say.
        memory: What it may take, if not as much as the policy's limits say.
    """

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    gate: Function
    as_: str | None = Field(default=None, alias="name", pattern=r"^[A-Za-z0-9_]{1,100}$")
    seconds: Seconds | None = None
    memory: Size | None = None

    @model_validator(mode="after")
    def _plain(self) -> Self:
        """Refuse arguments that the policy's document cannot carry."""
        digest.canonical(self.arguments)
        return self

    @property
    def name(self) -> str:
        """The name of the gate."""
        return self.as_ or self.gate.partition(":")[2]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the function is called with beside the case."""
        return dict(self.model_extra or {})


FILES: Final = ("expectations", "golden", "layout")
"""The fields of gates that may name a JSON or YAML file, whose content is the field of a policy."""


def identifier(metric: str) -> str:
    """Return a metric's name as a gate may carry it, whose name is also an asset check's."""
    return re.sub(r"[^A-Za-z0-9_]", "_", metric)


def _by(column: str | None) -> str:
    return "" if column is None else f"_by_{identifier(column)}"


# The field by which a form is known, in the order in which they are looked for.
_KNOWN_BY: Final = (
    ("gate", "custom"),
    ("serving", "serving"),
    ("onnx", "onnx"),
    ("predictions", "rows"),
    ("features", "rows"),
    ("formats", "formats"),
    ("schema", "schema"),
    ("schema_", "schema"),
    ("no_worse_than", "no_worse"),
    ("licences", "governance"),
    ("sensitivity", "governance"),
    ("fields", "governance"),
    ("fields_", "governance"),
    ("lineage", "governance"),
    ("owner", "governance"),
)


def _which(value: object) -> str:
    """Return which gate a mapping describes, by the fields it has."""
    if isinstance(value, Mapping):
        keys = set(value)
    elif isinstance(value, Part):
        keys = set(type(value).model_fields)
    else:
        keys = set()
    return next((form for field, form in _KNOWN_BY if field in keys), "bound")


Gate = Annotated[
    Annotated[MetricBound, Tag("bound")]
    | Annotated[NoWorse, Tag("no_worse")]
    | Annotated[Formats, Tag("formats")]
    | Annotated[Custom, Tag("custom")]
    | Annotated[Governance, Tag("governance")]
    | Annotated[Onnx, Tag("onnx")]
    | Annotated[Rows, Tag("rows")]
    | Annotated[Schema, Tag("schema")]
    | Annotated[Serving, Tag("serving")],
    Discriminator(_which),
]

GATES_BY_FORM: Final[Mapping[str, type[Part]]] = {
    "bound": MetricBound,
    "no_worse": NoWorse,
    "formats": Formats,
    "custom": Custom,
    "governance": Governance,
    "onnx": Onnx,
    "rows": Rows,
    "schema": Schema,
    "serving": Serving,
}
"""The forms, by what pydantic calls them."""

GATE_FIELDS: Final = tuple(field for field, _ in _KNOWN_BY if not field.endswith("_"))
"""The fields by one of which a form is known; without any it is a bound on a metric."""
