"""Layouts of models: what a consumer reads, and which change of it which consumer survives.

A layout is read in two ways. What is made *conforms* to it; a consumer *relies* on it. The one
question behind every mode is whether whoever relies on one layout can read everything that
conforms to another.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.part import Part
from artifact_pipelines.errors import InvalidFormatError

FORMAT: Final = "artifact-pipelines/layout/v1"
JSON_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")


class Mode(StrEnum):
    """Which consumers a new version of a layout must leave able to read.

    BACKWARD: those of the new version read what was made before, so that a rollback works.
    FORWARD: those of the version before read what is made now, so that nobody has to change.
    FULL: both. NONE: neither is asked. A mode asks about the version before, and one that ends in
    `_TRANSITIVE` about every earlier one.
    """

    BACKWARD = "BACKWARD"
    FORWARD = "FORWARD"
    FULL = "FULL"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"
    NONE = "NONE"

    @property
    def transitive(self) -> bool:
        """Whether every earlier version counts, not the one before alone."""
        return self.endswith("_TRANSITIVE")

    @property
    def pairwise(self) -> "Mode":
        """What is asked of any two versions."""
        return Mode(self.removesuffix("_TRANSITIVE"))


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _json_types(value: object) -> object:
    values = _listed(value)
    if isinstance(values, list | tuple) and not set(values) <= set(JSON_TYPES):
        raise ValueError(f"expected some of {', '.join(JSON_TYPES)}")
    return values


Types = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_json_types)]
Size = Annotated[int, Field(ge=0, strict=True)] | str | None


class _Maybe(Part):
    """What may be missing."""

    optional: bool = False


class Tensor(_Maybe):
    """A tensor.

    Attributes:
        dtype: Its type as safetensors writes it, or those that it may have.
        shape: A number, a name (the same number wherever it stands) or null (any) for each
            dimension; left out, any shape.
        optional: Whether it may be missing.
    """

    dtype: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)]
    shape: tuple[Size, ...] | None = None


class Value(_Maybe):
    """A field of a JSON file, or an input or output of a served model.

    Attributes:
        type_: Its JSON type, or those that it may have.
        optional: Whether it may be missing.
    """

    type_: Types = Field(alias="type")


class Layout(Part):
    """What a model's files hold and what it is asked and answers when it is served.

    Attributes:
        format: The format of this document.
        files: Files that must be there.
        tensors: The tensors of all its safetensors files.
        fields: The fields of its JSON files, by file.
        inputs: What a served model is asked with, by name.
        outputs: What it answers, by name.
        extra: Whether there may be other tensors, fields and outputs, which a consumer passes
            over, and other inputs, which the model passes over.
    """

    format: Literal["artifact-pipelines/layout/v1"] = FORMAT
    files: tuple[str, ...] = ()
    tensors: dict[str, Tensor] = Field(default_factory=dict)
    fields_: dict[str, dict[str, Value]] = Field(default_factory=dict, alias="fields")
    inputs: dict[str, Value] = Field(default_factory=dict)
    outputs: dict[str, Value] = Field(default_factory=dict)
    extra: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        """Refuse a layout that everything conforms to."""
        if not (self.files or self.tensors or self.fields_ or self.inputs or self.outputs):
            raise ValueError("a layout names files, tensors, fields, inputs or outputs")
        return self

    def encode(self) -> bytes:
        """Return the bytes behind the layout's digest."""
        document = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return digest.canonical({"format": FORMAT, **document})

    @property
    def digest(self) -> str:
        """The SHA-256 of the layout's bytes."""
        return digest.sha256(self.encode())

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the layout in a document.

        Raises:
            InvalidFormatError: It is none; the sentence names the field.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole"
            said = first["msg"].removeprefix("Value error, ")
            raise InvalidFormatError(f"the layout is wrong at {place!r}: {said}.") from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the layout that stored bytes hold."""
        return cls.of(digest.parse(data))


@dataclass(frozen=True, slots=True)
class Contents:
    """What the files of one model hold.

    Attributes:
        files: Their paths.
        tensors: Type and shape of each tensor.
        fields: The JSON type of each field, by file.
    """

    files: frozenset[str] = frozenset()
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def incompatible(new: Layout, old: Layout, mode: Mode) -> tuple[str, ...]:
    """Return why a new version may not follow an old one under a mode; nothing if it may."""
    reasons: list[str] = []
    asked = mode.pairwise
    if asked in {Mode.BACKWARD, Mode.FULL}:
        reasons += [f"BACKWARD: {one}" for one in unreadable(reader=new, writer=old)]
    if asked in {Mode.FORWARD, Mode.FULL}:
        reasons += [f"FORWARD: {one}" for one in unreadable(reader=old, writer=new)]
    return tuple(reasons)


def unreadable(*, reader: Layout, writer: Layout) -> tuple[str, ...]:
    """Return why a consumer that relies on one layout cannot read all that conforms to another.

    Args:
        reader: What the consumer relies on.
        writer: What the models conform to.
    """
    given = {*writer.files, *(name for name, found in writer.fields_.items() if _required(found))}
    needed = {*reader.files, *(name for name, found in reader.fields_.items() if _required(found))}
    reasons = [f"the file {name} may be missing" for name in sorted(needed - given)]
    loose = (reader.extra, writer.extra)
    reasons += _tensors(reader.tensors, writer.tensors, loose)
    for name in sorted({*reader.fields_, *writer.fields_}):
        mine, theirs = reader.fields_.get(name), writer.fields_.get(name)
        if mine is not None:
            # A file that nobody wrote about may hold anything, where it is there at all.
            known = (reader.extra, writer.extra if theirs is not None else True)
            reasons += _values(f"the field {name}:", mine, theirs or {}, known)
    reasons += _values("the output ", reader.outputs, writer.outputs, loose)
    # Whoever relies on a layout sends its inputs, and no others: here the model reads.
    reasons += _values("the input ", writer.inputs, reader.inputs, (writer.extra, False))
    return tuple(reasons)


def _required(fields: Mapping[str, Value]) -> bool:
    return any(not found.optional for found in fields.values())


def _tensors(
    reader: Mapping[str, Tensor], writer: Mapping[str, Tensor], loose: tuple[bool, bool]
) -> Iterator[str]:
    yield from _presence("the tensor ", reader, writer, loose)
    sizes: dict[str, list[object]] = {}
    for name in sorted(reader.keys() & writer.keys()):
        mine, theirs = reader[name], writer[name]
        odd = sorted(set(theirs.dtype) - set(mine.dtype))
        if odd:
            yield f"the tensor {name} may be {', '.join(odd)}, not {' or '.join(mine.dtype)}"
        if mine.shape is None:
            continue
        if theirs.shape is None or len(theirs.shape) != len(mine.shape):
            found = "any shape" if theirs.shape is None else f"{len(theirs.shape)} dimensions"
            yield f"the tensor {name} may have {found}, not {len(mine.shape)} dimensions"
            continue
        for place, (asked, told) in enumerate(zip(mine.shape, theirs.shape, strict=True)):
            if isinstance(asked, str):
                sizes.setdefault(asked, []).append(told)
            elif asked is not None and asked != told:
                what = "any size" if told is None else told
                yield f"the tensor {name} may have {what} in dimension {place}, not {asked}"
    for size, known in sorted(sizes.items()):
        # Sizes that have no name are independent of each other.
        if len(known) > 1 and (None in known or len(set(known)) > 1):
            yield f"the sizes called {size} may differ"


def _values(
    what: str, reader: Mapping[str, Value], writer: Mapping[str, Value], loose: tuple[bool, bool]
) -> Iterator[str]:
    yield from _presence(what, reader, writer, loose)
    for name in sorted(reader.keys() & writer.keys()):
        odd = sorted(
            kind
            for kind in set(writer[name].type_) - set(reader[name].type_)
            if not (kind == "integer" and "number" in reader[name].type_)
        )
        if odd:
            wanted = " or ".join(reader[name].type_)
            yield f"{what}{name} may be {', '.join(odd)}, not {wanted}"


def _presence(
    what: str,
    reader: Mapping[str, _Maybe],
    writer: Mapping[str, _Maybe],
    loose: tuple[bool, bool],
) -> Iterator[str]:
    """Yield what may be missing, and what may be there that the reader does not know."""
    passes_over, may_have_more = loose
    for name, mine in sorted(reader.items()):
        theirs = writer.get(name)
        if not mine.optional and (theirs is None or theirs.optional):
            yield f"{what}{name} may be missing"
        elif theirs is None and may_have_more:
            yield f"{what}{name} may be of any kind, where it is there at all"
    if not passes_over:
        for name in sorted(writer.keys() - reader.keys()):
            yield f"{what}{name} may be there, and is not known"
        if may_have_more:
            yield f"{what.strip().removesuffix(':')} may be one that nobody named"


def nonconforming(layout: Layout, found: Contents) -> tuple[str, ...]:
    """Return where the files of a model are not as a layout says; nothing if they are."""
    needed = {*layout.files, *(name for name, one in layout.fields_.items() if _required(one))}
    reasons = [f"the file {name} is missing" for name in sorted(needed - found.files)]
    reasons += _absences("the tensor ", layout.tensors, found.tensors, extra=layout.extra)
    sizes: dict[str, set[int]] = {}
    for name in sorted(layout.tensors.keys() & found.tensors.keys()):
        asked, (dtype, shape) = layout.tensors[name], found.tensors[name]
        if dtype not in asked.dtype:
            reasons.append(f"the tensor {name} is {dtype}, not {' or '.join(asked.dtype)}")
        if asked.shape is None:
            continue
        if len(shape) != len(asked.shape):
            reasons.append(f"the tensor {name} has {len(shape)} dimensions, not {len(asked.shape)}")
            continue
        for place, (size, wanted) in enumerate(zip(shape, asked.shape, strict=True)):
            if isinstance(wanted, str):
                sizes.setdefault(wanted, set()).add(size)
            elif wanted is not None and size != wanted:
                reasons.append(f"the tensor {name} has {size} in dimension {place}, not {wanted}")
    reasons += [
        f"the sizes called {size} are {' and '.join(map(str, sorted(told)))}"
        for size, told in sorted(sizes.items())
        if len(told) > 1
    ]
    for name, asked_fields in sorted(layout.fields_.items()):
        if name in found.fields:
            reasons += misfits(f"the field {name}:", asked_fields, found.fields[name], layout.extra)
    return tuple(reasons)


def misfits(
    what: str, asked: Mapping[str, Value], found: Mapping[str, str], extra: bool
) -> list[str]:
    """Return where named values, each of a JSON type, are not what is asked."""
    reasons = list(_absences(what, asked, found, extra=extra))
    for name in sorted(asked.keys() & found.keys()):
        kinds = asked[name].type_
        if found[name] not in kinds and not (found[name] == "integer" and "number" in kinds):
            reasons.append(f"{what}{name} is {found[name]}, not {' or '.join(kinds)}")
    return reasons


def _absences(
    what: str,
    asked: Mapping[str, _Maybe],
    found: Mapping[str, Any],
    *,
    extra: bool,
) -> Iterator[str]:
    for name, one in sorted(asked.items()):
        if not one.optional and name not in found:
            yield f"{what}{name} is missing"
    if not extra:
        for name in sorted(found.keys() - asked.keys()):
            yield f"{what}{name} is there, and is not known"


def json_type(value: object) -> str:  # noqa: PLR0911 (one branch for each type)
    """Return the JSON type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case _ if isinstance(value, Sequence):
            return "array"
        case _:
            raise InvalidFormatError(f"a {type(value).__name__} is no JSON.")
