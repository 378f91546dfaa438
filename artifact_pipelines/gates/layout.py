"""The gate that asks whether a model's files are laid out as its consumers expect."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from artifact_pipelines.domain import schema
from artifact_pipelines.domain.gate import Schema
from artifact_pipelines.domain.schema import Contents, Layout
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.gates import formats
from artifact_pipelines.gates.case import Case

MAX_REASONS: Final = 20


def schema_gate(gate: Schema, case: Case) -> Finding:
    """Return whether a model's files conform to a registered layout."""
    try:
        layout = case.layout(gate.schema_)
    except UnknownArtifactError as error:
        return Finding(gate.name, passed=False, reasons=(str(error).rstrip("."),))
    return schema_finding(gate, layout, case.files)


def schema_finding(gate: Schema, layout: Layout, folder: Path) -> Finding:
    """Return whether the files in a folder conform to a layout."""
    found = contents_of(folder, layout.fields_)
    reasons = list(schema.nonconforming(layout, found))
    if len(reasons) > MAX_REASONS:
        reasons[MAX_REASONS:] = [f"{len(reasons) - MAX_REASONS} more differences"]
    kept = (
        f"its {len(found.files)} files with {len(found.tensors)} tensors are as {gate.schema_} says"
    )
    tensors = {
        name: {"dtype": dtype, "shape": list(shape)}
        for name, (dtype, shape) in sorted(found.tensors.items())
    }
    return Finding(
        gate.name,
        not reasons,
        tuple(reasons) or (kept,),
        {"schema": gate.schema_, "schema_tensors": len(tensors)},
        {"layout": layout.digest, "tensors": tensors, "fields": found.fields},
    )


def contents_of(folder: Path, json_files: Iterable[str]) -> Contents:
    """Return what the files of a folder hold, by their own headers.

    Raises:
        InvalidFormatError: A safetensors file is not sound, or a JSON file holds no object.
    """
    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, path in sorted(files.items()):
        if name.endswith(".safetensors"):
            with path.open("rb") as file:
                header = formats.read_safetensors(file, path.stat().st_size)
            tensors |= {
                tensor: (found["dtype"], tuple(found["shape"])) for tensor, found in header.items()
            }
    fields: dict[str, Mapping[str, str]] = {}
    for name in json_files:
        if name in files:
            with files[name].open("rb") as file:
                formats.check_json(file, files[name].stat().st_size)
            content: Any = json.loads(files[name].read_bytes())
            found = content if isinstance(content, dict) else {}
            fields[name] = {key: schema.json_type(value) for key, value in found.items()}
    return Contents(frozenset(files), tensors, fields)
