"""Strict readings of the file formats that may be served. None runs anything it reads.

Each function returns if the file is what its format says, to the last byte, and raises
`InvalidFormatError` with a clause that says what is wrong if it is not.
"""

import ast
import base64
import codecs
import csv
import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from artifact_pipelines.errors import InvalidFormatError

MIB: Final = 1024 * 1024
MAX_SAFETENSORS_HEADER: Final = 100 * 1000 * 1000
MAX_NPY_HEADER: Final = 10_000
MAX_JSON: Final = 256 * MIB
MAX_MESSAGES: Final = 5_000_000
MAX_DEPTH: Final = 32

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_BITS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def check_safetensors(file: BinaryIO, size: int) -> None:
    """Check that a header describes every byte behind it exactly once."""
    read_safetensors(file, size)


def read_safetensors(file: BinaryIO, size: int) -> dict[str, Any]:
    """Return the type, shape and place of each tensor, checked like the whole file."""
    file.seek(0)
    length = _U64.unpack(_exactly(file, _U64.size))[0]
    if length > min(MAX_SAFETENSORS_HEADER, size - _U64.size):
        raise InvalidFormatError(f"its header of {length} bytes does not fit")
    header = _json_object(_exactly(file, length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        raise InvalidFormatError("its metadata is not a table of texts")
    end = 0
    spans = [(*_span(name, tensor), name) for name, tensor in header.items()]
    for start, stop, name in sorted(spans):
        if start != end:
            kind = "overlaps another" if start < end else "leaves a gap before it"
            raise InvalidFormatError(f"tensor {name!r} {kind}")
        end = stop
    held = size - _U64.size - length
    if end != held:
        raise InvalidFormatError(f"its tensors take {end} bytes and the file holds {held}")
    return header


def _span(name: str, tensor: object) -> tuple[int, int]:
    """Return where a tensor begins and ends, which its type and shape must confirm."""
    if not isinstance(tensor, dict) or tensor.keys() != {"dtype", "shape", "data_offsets"}:
        raise InvalidFormatError(f"tensor {name!r} is not described by dtype, shape, data_offsets")
    bits = _BITS.get(tensor["dtype"]) if isinstance(tensor["dtype"], str) else None
    if bits is None:
        raise InvalidFormatError(f"tensor {name!r} is of the unknown type {tensor['dtype']!r}")
    shape, offsets = tensor["shape"], tensor["data_offsets"]
    if not _counts(shape) or not _counts(offsets) or len(offsets) != len(("start", "stop")):
        raise InvalidFormatError(f"tensor {name!r} has a shape or offsets that are no counts")
    start, stop = offsets
    # Integers do not wrap here, as they would in a reader that multiplies 64-bit sizes.
    if (stop - start) * 8 != math.prod(shape) * bits:
        raise InvalidFormatError(f"tensor {name!r} has offsets that its shape does not explain")
    return start, stop


def _counts(values: object) -> bool:
    return isinstance(values, list) and all(type(one) is int and 0 <= one < 2**63 for one in values)


def check_npy(file: BinaryIO, size: int) -> None:
    """Check that an array holds plain values, exactly as many as its shape says."""
    import numpy as np  # noqa: PLC0415 (a registry that reads no array should not pay for it)

    file.seek(0)
    magic = _exactly(file, 8)
    version = (magic[6], magic[7])
    if not magic.startswith(b"\x93NUMPY") or version not in {(1, 0), (2, 0), (3, 0)}:
        raise InvalidFormatError("it has no version of the format that is known")
    prefix = _U16 if version == (1, 0) else _U32
    length = prefix.unpack(_exactly(file, prefix.size))[0]
    if length > MAX_NPY_HEADER:
        raise InvalidFormatError(f"its header of {length} bytes is too long")
    header = _literal(_exactly(file, length))
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise InvalidFormatError("its header does not name descr, fortran_order and shape")
    shape = header["shape"]
    if not isinstance(shape, tuple) or not _counts(list(shape)):
        raise InvalidFormatError("its shape is no tuple of counts")
    dtype = np.lib.format.descr_to_dtype(header["descr"])
    if dtype.hasobject:
        raise InvalidFormatError("it holds Python objects, which are pickled")
    wanted = math.prod(shape) * dtype.itemsize
    if size - file.tell() != wanted:
        raise InvalidFormatError(f"it holds {size - file.tell()} bytes where {wanted} belong")


def _literal(data: bytes) -> Any:  # noqa: ANN401
    """Return the literal that a header is, without running what it may be instead."""
    try:
        return ast.literal_eval(data.decode("utf-8").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise InvalidFormatError("its header is no plain literal") from None


def check_parquet(file: BinaryIO, size: int) -> None:
    """Check that a table's metadata is sound and names no type that is loaded by code."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415

    file.seek(max(0, size - 8))
    footer = file.read(8)
    if size < len(b"PAR1") * 3 or footer[4:] != b"PAR1" or _U32.unpack(footer[:4])[0] > size - 12:
        raise InvalidFormatError("its footer does not fit")
    file.seek(0)
    metadata = pq.ParquetFile(file).metadata
    arrow = base64.b64decode((metadata.metadata or {}).get(b"ARROW:schema", b""))
    if b"arrow.py_extension_type" in arrow:
        raise InvalidFormatError("it names a type that is loaded from a pickle")


def check_json(file: BinaryIO, size: int) -> None:
    """Check that a text is one JSON object or array."""
    if size > MAX_JSON:
        raise InvalidFormatError(f"it is larger than {MAX_JSON} bytes")
    file.seek(0)
    try:
        value = json.loads(file.read().decode("utf-8"))
    except RecursionError:
        raise InvalidFormatError("it is nested too deeply") from None
    except ValueError as error:
        raise InvalidFormatError(f"it is no JSON: {error}") from None
    if not isinstance(value, dict | list):
        raise InvalidFormatError("it is neither an object nor an array")


def check_text(file: BinaryIO, _: int) -> None:
    """Check that bytes are UTF-8 without control characters."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    while block := file.read(MIB):
        _check_characters(decoder.decode(block))
    _check_characters(decoder.decode(b"", final=True))


def is_csv(file: BinaryIO) -> bool:
    """Return whether the first lines of a text are rows of the same two or more fields."""
    file.seek(0)
    head = file.read(MIB).decode("utf-8", errors="ignore")
    lines = head.splitlines()[: -1 if len(head) > MIB // 2 else None][:100]
    try:
        widths = {len(row) for row in csv.reader(lines, strict=True) if row}
    except csv.Error:
        return False
    return len(lines) > 1 and len(widths) == 1 and min(widths) > 1


def _check_characters(text: str) -> None:
    if found := _CONTROL.search(text):
        raise InvalidFormatError(f"it holds the control character {found.group()!r}")


# ONNX is protobuf without a magic number, so it is known by its structure: a message may
# hold these fields only, each of these kinds.

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KNOWN: Final[Mapping[str, frozenset[int]]] = {
    "Model": frozenset((*range(1, 9), 14, 20, 25, 26)),
    "Graph": frozenset((1, 2, 5, *range(10, 17))),
    "Node": frozenset(range(1, 11)),
    "Attribute": frozenset((*range(1, 12), 13, 14, 15, 20, 21, 22, 23)),
    "Tensor": frozenset((*range(1, 15), 16)),
    "Sparse": frozenset(range(1, 4)),
    "Training": frozenset(range(1, 5)),
    "Function": frozenset((1, *range(4, 15))),
}
_NESTED: Final[Mapping[tuple[str, int], str]] = {
    ("Model", 7): "Graph",
    ("Model", 20): "Training",
    ("Model", 25): "Function",
    ("Graph", 1): "Node",
    ("Graph", 5): "Tensor",
    ("Graph", 15): "Sparse",
    ("Node", 5): "Attribute",
    ("Attribute", 5): "Tensor",
    ("Attribute", 6): "Graph",
    ("Attribute", 10): "Tensor",
    ("Attribute", 11): "Graph",
    ("Attribute", 22): "Sparse",
    ("Attribute", 23): "Sparse",
    ("Sparse", 1): "Tensor",
    ("Sparse", 2): "Tensor",
    ("Training", 1): "Graph",
    ("Training", 2): "Graph",
    ("Function", 7): "Node",
    ("Function", 11): "Attribute",
}
_EXTERNAL: Final = {13, 14}
_REQUIRED: Final = {1, 7, 8}  # the IR version, the graph, the operator sets


def check_onnx(file: BinaryIO, size: int) -> None:
    """Check that a model is whole, and keeps all its tensors in the file."""
    messages = _Messages(file)
    if not messages.walk("Model", 0, size, 0) >= _REQUIRED:
        raise InvalidFormatError("it lacks a version, a graph or operator sets")


class _Messages:
    """A walk over nested protobuf messages."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._count = 0

    def walk(self, kind: str, start: int, stop: int, depth: int) -> set[int]:
        """Return the fields of a message, once all that it nests is found sound."""
        if depth > MAX_DEPTH:
            raise InvalidFormatError("it is nested too deeply")
        fields = set()
        at = start
        while at < stop:
            self._count += 1
            if self._count > MAX_MESSAGES:
                raise InvalidFormatError(f"it has more than {MAX_MESSAGES} fields")
            tag, at = self._varint(at, stop)
            field, wire = tag >> 3, tag & 7
            if field not in _KNOWN[kind]:
                raise InvalidFormatError(f"a {kind.lower()} has the unknown field {field}")
            value, begin, at = self._value(wire, at, stop)
            if kind == "Tensor" and field in _EXTERNAL and (wire == _BYTES or value):
                raise InvalidFormatError("it keeps a tensor outside of the file")
            nested = _NESTED.get((kind, field))
            if nested:
                if wire != _BYTES:
                    raise InvalidFormatError(f"a {nested.lower()} is not a message")
                self.walk(nested, begin, at, depth + 1)
            fields.add(field)
        return fields

    def _value(self, wire: int, at: int, stop: int) -> tuple[int, int, int]:
        """Return a number, and where the value begins and ends."""
        if wire == _VARINT:
            value, end = self._varint(at, stop)
            return value, at, end
        if wire == _BYTES:
            length, at = self._varint(at, stop)
        elif wire in {_FIXED64, _FIXED32}:
            length = 8 if wire == _FIXED64 else 4
        else:
            raise InvalidFormatError(f"it has a value of the unknown kind {wire}")
        if at + length > stop:
            raise InvalidFormatError("a value is longer than what holds it")
        return 0, at, at + length

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        """Return a number and where it ends."""
        self._file.seek(at)
        data = self._file.read(min(10, stop - at))
        value = 0
        for index, byte in enumerate(data):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:  # noqa: PLR2004 (the last byte has no high bit)
                return value, at + index + 1
        raise InvalidFormatError("a number does not end")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise InvalidFormatError("it ends in the middle")
    return data


def _json_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object in which no key stands twice."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except InvalidFormatError:
        raise
    except RecursionError:
        raise InvalidFormatError("its header is nested too deeply") from None
    except ValueError as error:
        raise InvalidFormatError(f"its header is no JSON: {error}") from None
    if not data.startswith(b"{") or not isinstance(value, dict):
        raise InvalidFormatError("its header is no JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidFormatError("its header names a tensor twice")
    return value
