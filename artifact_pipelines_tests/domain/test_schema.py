"""A change of layout is allowed when real readers can really load what is really written.

Each layout is made into all the models that conform to it, as files; each layout is also a
reader that loads files with safetensors and json and stops at what it does not expect.
"""

import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from artifact_pipelines.domain.schema import Layout, Mode, incompatible, nonconforming, unreadable
from artifact_pipelines.errors import InvalidFormatError
from artifact_pipelines.gates.layout import contents_of

DTYPES = {"F32": "float32", "F16": "float16", "I64": "int64"}
SAMPLES: dict[str, Any] = {
    "integer": 1, "number": 1.5, "string": "a", "boolean": True, "array": [1], "object": {"a": 1},
    "null": None,
}  # fmt: skip
KINDS = {int: "integer", float: "number", str: "string", bool: "boolean", list: "array",
         dict: "object", type(None): "null"}  # fmt: skip
SIZES = (2, 3)
ODD: tuple[Any, ...] = (None, [])


class UnreadableError(Exception):
    """What a reader stops at."""


Chosen = tuple[str, str, tuple[Any, ...]]


def models(layout: Layout, also: Layout) -> Iterator[dict[str, Any]]:
    """Yield models of every kind that conform to a layout.

    Args:
        layout: The layout.
        also: Another one, whose names an open layout's models may use for anything.
    """
    for chosen in itertools.product(*tensors_of(layout)):
        there = [one for one in chosen if one is not None]
        for made in sized(there):
            for values, more, extra in itertools.product(
                itertools.product(*fields_of(layout)), loose_fields(layout, also),
                loose_tensors(layout, also),
            ):  # fmt: skip
                yield {
                    "files": set(layout.files),
                    "tensors": made | extra,
                    "fields": [*(one for one in values if one), *more],
                }


def tensors_of(layout: Layout) -> list[list[Chosen | None]]:
    """Return what each tensor may be."""
    found: list[list[Chosen | None]] = []
    for name, tensor in layout.tensors.items():
        shapes = [(2,), (3, 2)] if tensor.shape is None else [tensor.shape]
        kinds: list[Chosen | None] = [
            (name, kind, shape) for kind in tensor.dtype for shape in shapes
        ]
        found.append([*kinds, None] if tensor.optional else kinds)
    return found


def sized(chosen: list[Chosen]) -> Iterator[dict[str, Any]]:
    """Yield the tensors with every size that they may have."""
    places = [size for _, _, shape in chosen for size in shape]
    names = sorted({size for size in places if isinstance(size, str)})
    for sizes in itertools.product(SIZES, repeat=len(names) + places.count(None)):
        known: dict[Any, int] = dict(zip(names, sizes, strict=False))
        free = list(sizes[len(names) :])
        yield {
            name: (
                kind,
                tuple(free.pop() if size is None else known.get(size, size) for size in shape),
            )
            for name, kind, shape in chosen
        }


def fields_of(layout: Layout) -> list[list[tuple[str, str, Any] | None]]:
    """Return what each field may be."""
    found: list[list[tuple[str, str, Any] | None]] = []
    for file, values in layout.fields_.items():
        for name, value in values.items():
            kinds: list[Any] = [(file, name, SAMPLES[kind]) for kind in value.type_]
            found.append([*kinds, None] if value.optional else kinds)
    return found


def loose_tensors(layout: Layout, also: Layout) -> list[dict[str, Any]]:
    """Return what else an open layout's models may hold."""
    if not layout.extra:
        return [{}]
    names = ["nobody", *(name for name in also.tensors if name not in layout.tensors)]
    # Of a type that no reader here takes.
    return [{}, *({name: ("I64", (7,))} for name in names)]


def loose_fields(layout: Layout, also: Layout) -> list[list[tuple[str, str, Any]]]:
    """Return what else files may hold of which the layout says nothing."""
    found: list[list[tuple[str, str, Any]]] = [[]]
    for file in {*layout.fields_, *also.fields_}:
        if file in layout.fields_ and not layout.extra:
            continue
        known = layout.fields_.get(file, {})
        names = [name for name in also.fields_.get(file, {}) if name not in known]
        found += [[(file, "nobody", 1)], *([(file, name, kind)] for name in names for kind in ODD)]
    return found


def write(model: dict[str, Any], folder: Path) -> None:
    for name in model["files"]:
        (folder / name).write_text("{}")
    if model["tensors"]:
        arrays = {
            name: np.zeros(shape, DTYPES[kind]) for name, (kind, shape) in model["tensors"].items()
        }
        save_file(arrays, folder / "model.safetensors")
    files: dict[str, dict[str, Any]] = {}
    for file, name, value in model["fields"]:
        files.setdefault(file, {})[name] = value
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))


def load(reader: Layout, folder: Path) -> None:
    """Load a model as one that relies on a layout does, or stop."""
    for file in reader.files:
        expect((folder / file).is_file(), file)
    path = folder / "model.safetensors"
    arrays = load_file(path) if path.exists() else {}
    sizes: dict[str, int] = {}
    for name, wanted in reader.tensors.items():
        expect(wanted.optional or name in arrays, name)
        if name in arrays:
            array = arrays[name]
            expect(str(array.dtype) in {DTYPES[kind] for kind in wanted.dtype}, name)
            if wanted.shape is not None:
                expect(len(array.shape) == len(wanted.shape), name)
                for size, asked in zip(array.shape, wanted.shape, strict=True):
                    if isinstance(asked, str):
                        expect(sizes.setdefault(asked, size) == size, name)
                    else:
                        expect(asked in {None, size}, name)
    expect(reader.extra or arrays.keys() <= reader.tensors.keys(), "unknown tensor")
    for file, values in reader.fields_.items():
        there = (folder / file).is_file()
        expect(there or all(value.optional for value in values.values()), file)
        content = json.loads((folder / file).read_text()) if there else {}
        for name, value in values.items():
            expect(value.optional or name in content, name)
            if name in content:
                kind = KINDS[type(content[name])]
                expect(kind in value.type_ or (kind == "integer" and "number" in value.type_), name)
        expect(reader.extra or content.keys() <= values.keys(), "unknown field")


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise UnreadableError(what)


def loads_all(reader: Layout, writer: Layout) -> bool:
    """Return whether a reader really loads every model of a writer."""
    for model in itertools.islice(models(writer, reader), 2_000):
        with tempfile.TemporaryDirectory() as folder:
            write(model, Path(folder))
            try:
                load(reader, Path(folder))
            except UnreadableError:
                return False
    return True


def layout(**document: Any) -> Layout:
    return Layout.of(document)


def tensor(
    dtype: str | list[str] = "F32", shape: Sequence[object] = ("n", 4), **more: object
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, **more}


OLD: dict[str, Any] = {
    "files": ["card.md"],
    "tensors": {"w": tensor(), "b": tensor(shape=["n"])},
    "fields": {"config.json": {"classes": {"type": "integer"}}},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**OLD, **changes}


def tensors(**changes: Any) -> dict[str, Any]:
    found = {**OLD["tensors"], **changes}
    return changed(tensors={name: one for name, one in found.items() if one is not None})


def fields(**changes: Any) -> dict[str, Any]:
    found = {**OLD["fields"]["config.json"], **changes}
    return changed(fields={"config.json": {name: one for name, one in found.items() if one}})


LOOSE = {"type": "string", "optional": True}

# A change of the layout, whether its consumers read old models, and whether old ones read new.
CHANGES: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "nothing": (OLD, True, True),
    "a new tensor": (tensors(x=tensor()), False, False),
    "a new tensor that may be missing": (tensors(x=tensor(optional=True)), True, False),
    "a tensor less": (tensors(b=None), False, False),
    "an optional tensor now": (tensors(b=tensor(shape=["n"], optional=True)), True, False),
    "another type": (tensors(w=tensor("F16")), False, False),
    "one type more": (tensors(w=tensor(["F32", "F16"])), True, False),
    "a size that is free now": (tensors(w=tensor(shape=["n", None])), True, False),
    "another size": (tensors(w=tensor(shape=["n", 5])), False, False),
    "a size that is fixed now": (tensors(w=tensor(shape=[3, 4]), b=tensor(shape=[3])), False, True),
    "sizes that are not the same now": (tensors(b=tensor(shape=["m"])), True, False),
    "one dimension more": (tensors(b=tensor(shape=["n", 1])), False, False),
    "any shape": (tensors(w={"dtype": "F32"}), True, False),
    "a size renamed": (tensors(w=tensor(shape=["m", 4]), b=tensor(shape=["m"])), True, True),
    "anything more, passed over": (changed(extra=True), True, False),
    "a file less": (changed(files=[]), True, False),
    "a file more": (changed(files=["card.md", "terms.txt"]), False, True),
    "a new field": (fields(lr={"type": "number"}), False, False),
    "a new field that may be missing": (fields(lr=LOOSE), True, False),
    "a wider field": (fields(classes={"type": "number"}), True, False),
    "a field that may be null now": (fields(classes={"type": ["integer", "null"]}), True, False),
    "another type of field": (fields(classes={"type": "string"}), False, False),
    "a field less": (fields(classes=None, other=LOOSE), False, False),
    "no fields at all": (changed(fields={}), True, False),
    "fields of another file": (
        changed(fields={**OLD["fields"], "terms.json": {"a": {"type": "string"}}}),
        False,
        True,
    ),
    "fields of another file, if it is there": (
        changed(fields={**OLD["fields"], "terms.json": {"a": LOOSE}}),
        False,
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("name", CHANGES)
def test_a_mode_allows_what_its_consumers_can_really_load(name: str, mode: Mode) -> None:
    document, backward, forward = CHANGES[name]
    new, old = Layout.of(document), Layout.of(OLD)
    allowed = {
        Mode.NONE: True,
        Mode.BACKWARD: backward,
        Mode.FORWARD: forward,
        Mode.FULL: backward and forward,
    }[mode.pairwise]

    assert (incompatible(new, old, mode) == ()) == allowed, incompatible(new, old, mode)
    if mode is Mode.BACKWARD:
        assert loads_all(new, old) == backward
    if mode is Mode.FORWARD:
        assert loads_all(old, new) == forward


SIZE = st.sampled_from([2, "n", "m", None])
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([["F32"], ["F16"], ["F32", "F16"]]),
        "shape": st.none() | st.lists(SIZE, min_size=1, max_size=2),
        "optional": st.booleans(),
    }
)
VALUE = st.fixed_dictionaries(
    {
        "type": st.sampled_from([["integer"], ["number"], ["string", "null"], ["array"]]),
        "optional": st.booleans(),
    }
)
LAYOUT = st.fixed_dictionaries(
    {
        "files": st.sampled_from([[], ["card.md"]]),
        "tensors": st.dictionaries(st.sampled_from("ab"), TENSOR, max_size=2),
        "fields": st.dictionaries(
            st.sampled_from(["c.json", "d.json"]),
            st.dictionaries(st.sampled_from("xy"), VALUE, min_size=1, max_size=2),
            max_size=1,
        ),
        "outputs": st.just({"y": {"type": "number"}}),
        "extra": st.booleans(),
    }
).map(Layout.of)


@given(reader=LAYOUT, writer=LAYOUT)
@settings(max_examples=60, deadline=None)
def test_what_may_be_read_can_be_loaded_and_nothing_else(reader: Layout, writer: Layout) -> None:
    assert (unreadable(reader=reader, writer=writer) == ()) == loads_all(reader, writer)


@pytest.mark.deep
@given(reader=LAYOUT, writer=LAYOUT)
@settings(max_examples=3_000, deadline=None)
def test_what_may_be_read_can_be_loaded_at_length(reader: Layout, writer: Layout) -> None:
    assert (unreadable(reader=reader, writer=writer) == ()) == loads_all(reader, writer)


@given(found=LAYOUT, other=LAYOUT)
@settings(max_examples=40, deadline=None)
def test_a_model_conforms_when_a_reader_of_its_layout_loads_it(
    found: Layout, other: Layout
) -> None:
    for model in itertools.islice(models(found, other), 20):
        with tempfile.TemporaryDirectory() as folder:
            write(model, Path(folder))
            for one in (found, other):
                contents = contents_of(Path(folder), one.fields_)
                try:
                    load(one, Path(folder))
                except UnreadableError:
                    assert nonconforming(one, contents)
                else:
                    assert nonconforming(one, contents) == ()


def served(inputs: dict[str, Any], outputs: dict[str, Any], **more: Any) -> Layout:
    return layout(inputs=inputs, outputs=outputs, **more)


NUMBER, INTEGER, MAYBE = (
    {"type": "number"},
    {"type": "integer"},
    {"type": "number", "optional": True},
)


@pytest.mark.parametrize(
    "new, said",
    [
        (served({"x": NUMBER}, {"y": NUMBER}), ""),
        (served({"x": INTEGER}, {"y": NUMBER}), "the input x may be number, not integer"),
        (served({"x": NUMBER, "z": NUMBER}, {"y": NUMBER}), "the input z may be missing"),
        (served({"x": NUMBER, "z": MAYBE}, {"y": NUMBER}), ""),
        (served({}, {"y": NUMBER}), "the input x may be there, and is not known"),
        (served({"x": NUMBER}, {"y": INTEGER}), ""),
        (served({"x": NUMBER}, {"y": {"type": "string"}}), "the output y may be string"),
        (served({"x": NUMBER}, {"y": NUMBER, "z": NUMBER}), "the output z may be there"),
        (served({"x": NUMBER}, {"z": NUMBER}), "the output y may be missing"),
    ],
)
def test_callers_of_before_can_ask_a_new_model(new: Layout, said: str) -> None:
    reasons = incompatible(new, served({"x": NUMBER}, {"y": NUMBER}), Mode.FORWARD)

    assert bool(reasons) == bool(said)
    assert said in " ".join(reasons)


def test_a_layout_has_one_digest_however_it_is_written() -> None:
    spelt = {
        **OLD,
        "extra": False,
        "tensors": {"w": {**tensor(), "optional": False}, "b": tensor(shape=["n"])},
    }

    assert Layout.of(spelt).digest == Layout.of(OLD).digest
    assert Layout.decode(Layout.of(OLD).encode()) == Layout.of(OLD)


@pytest.mark.parametrize(
    "document, said",
    [
        ({}, "a layout names files, tensors, fields, inputs or outputs"),
        ({"tensors": {"a": {"dtype": []}}}, "tensors.a.dtype"),
        ({"tensors": {"a": {"dtype": "F32", "shape": [-1]}}}, "tensors.a.shape"),
        ({"fields": {"a.json": {"b": {"type": "int"}}}}, "expected some of array"),
        ({"tensor": {}}, "'tensor'"),
        ({"format": "artifact-pipelines/layout/v2", "files": ["a"]}, "'format'"),
    ],
)
def test_a_layout_that_is_none_is_refused(document: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidFormatError, match=said):
        Layout.of(document)
