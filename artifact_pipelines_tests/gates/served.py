"""Functions that serve a model whose whole content is a factor, well and badly."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Rows = dict[str, list[Any]]


def factor(model: Path) -> float:
    """Return what a model multiplies by."""
    return float(json.loads((model / "model.json").read_text())["factor"])


def times(model: Path, rows: Rows) -> list[float]:
    """Return each x times the factor."""
    return [factor(model) * x for x in rows["x"]]


def named(model: Path, rows: Rows) -> list[dict[str, Any]]:
    """Return mappings with text and nested lists in them."""
    return [{"score": [value], "name": f"n{value:g}"} for value in times(model, rows)]


def of_frame(model: Path, rows: Any) -> Any:  # noqa: ANN401 (a frame)
    """Return an array, of a frame."""
    return rows["x"].to_numpy() * factor(model)


def short(model: Path, rows: Rows) -> list[float]:
    """Forget a row."""
    return times(model, rows)[1:]


def infinite(model: Path, rows: Rows) -> list[list[float]]:
    """Return what is no number."""
    return [[factor(model) * float("inf")] for _ in rows["x"]]


def strange(model: Path, rows: Rows) -> list[object]:
    """Return what is no JSON."""
    return [factor(model) and object() for _ in rows["x"]]


def fails(model: Path, rows: Rows) -> list[float]:
    """Raise."""
    raise ValueError(f"no such layer in {model.name} for {len(rows)} columns")


def undeclared(model: Path, rows: Rows) -> list[float]:
    """Need a library."""
    importlib.import_module("numpy")
    return times(model, rows)


def probes(model: Path, rows: Rows) -> list[float]:
    """Look for a library that may be there, and need another."""
    for name in ("numpy", "pandas"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    try:
        importlib.import_module("safetensors")
    except ImportError as error:
        raise RuntimeError("no way to read the weights") from error
    return times(model, rows)


def ours(model: Path, rows: Rows) -> list[float]:
    """Need the registry itself."""
    importlib.import_module("artifact_pipelines.registry")
    return times(model, rows)


def hangs(_: Path, __: Rows) -> list[float]:
    """Never answer, nor let a child end."""
    subprocess.Popen(["sleep", "600"])  # noqa: S607
    while True:
        time.sleep(1)


def breeds(model: Path, rows: Rows) -> list[float]:
    """Leave a process behind, in a session of its own."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: S607
    model.with_name("child").write_text(str(child.pid))
    return times(model, rows)


def swells(model: Path, rows: Rows) -> list[float]:
    """Take memory for a moment."""
    taken = len(b"x" * 150_000_000)
    return [value for value in times(model, rows) if taken]


def grows(_: Path, __: Rows) -> list[float]:
    """Take memory without end."""
    kept = []
    while True:
        kept.append(b"x" * 10_000_000)


def dies(_: Path, __: Rows) -> list[float]:
    """End the process."""
    os._exit(9)


def surroundings(model: Path, rows: Rows) -> list[dict[str, Any]]:
    """Tell where it is: settings, home, folder and whether the interpreter is isolated."""
    seen = {
        "variables": sorted(name for name in os.environ if "ARTIFACT" in name or "PYTHON" in name),
        "alone": Path.cwd() == Path.home() and not list(Path.cwd().iterdir()),
        "isolated": sys.flags.isolated,
    }
    return [seen for _ in times(model, rows)]
