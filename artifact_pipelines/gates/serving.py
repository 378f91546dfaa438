"""The gate that asks whether a model answers by itself: in a fresh process, soon and rightly."""

import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from artifact_pipelines.domain.gate import Schema, Serving
from artifact_pipelines.domain.schema import Layout, json_type, misfits
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates import alone, loading
from artifact_pipelines.gates.case import TABLES, Case
from artifact_pipelines.gates.sandbox import MEGABYTE, GoneError, Watched

EXAMPLES: Final = 5
# What a program needs to find its interpreter's libraries, and how many threads it may have.
_ENVIRONMENT: Final = (
    "LANG", "LC_ALL", "LD_LIBRARY_PATH", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "PATH", "TMPDIR",
)  # fmt: skip


def serving_gate(gate: Serving, case: Case) -> Finding:
    """Return whether a model is loaded and answers in a process that has only what it declares."""
    inputs, expected = _questions(gate, case)
    if not inputs:
        return _failed(gate, "there is nothing to ask it: declare golden inputs or an evaluation")
    wanted = _Wanted(gate.requirements)
    if wanted.wrong:
        return _failed(gate, *wanted.wrong)
    request = {
        "path": [str(Path(entry).absolute()) for entry in sys.path],
        "allowed": wanted.modules(gate.serving),
        "distributions": wanted.by_module,
        "function": gate.serving,
        "model": str(case.files),
        "inputs": inputs,
    }
    try:
        answer = ask_alone(request, gate.seconds, gate.memory)
    except GoneError as error:
        return _failed(gate, f"the model's own process {error}")
    rows = len(next(iter(inputs.values()))["values"])
    if "raised" in answer:
        missing = ", ".join(answer["undeclared"])
        more = f"; it asked for {missing}, which is not declared" if missing else ""
        return _failed(gate, f"it raised {answer['raised']}{more}")
    found = _judged(gate, answer, rows, expected)
    wrong = [] if not found.passed else _against_schema(case, inputs, answer["answers"])
    return found if not wrong else replace(found, passed=False, reasons=tuple(wrong))


def load_alone(case: Case) -> Finding:
    """Return whether a fresh process can read a model's files, where nobody serves it."""
    request: dict[str, Any] = {
        "path": [str(Path(entry).absolute()) for entry in sys.path],
        "allowed": None,
        "distributions": {},
        "function": f"{loading.__name__}:{loading.load.__name__}",
        "model": str(case.files),
        "inputs": {},
    }
    limits = case.policy.limits
    try:
        answer = ask_alone(request, limits.seconds, limits.memory)
    except GoneError as error:
        return Finding("loading", passed=False, reasons=(f"the model's own process {error}",))
    if "raised" in answer:
        return Finding("loading", passed=False, reasons=(f"reading it raised {answer['raised']}",))
    count = sum(answer["answers"])
    said = f"a fresh process read its tensors: {count}" if count else "it holds no tensors to read"
    return Finding("loading", passed=True, reasons=(said,))


def ask_alone(request: Mapping[str, Any], seconds: float, memory: int) -> dict[str, Any]:
    """Return what a fresh interpreter answers; it is killed with its children afterwards.

    Raises:
        GoneError: It did not answer within the limits.
    """
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with theirs:
            process = subprocess.Popen(  # noqa: S603 (this interpreter and a file of ours)
                [sys.executable, "-I", str(Path(alone.__file__)), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                cwd=folder,
                env={**environment, "HOME": folder},
                start_new_session=True,
            )
        watched = Watched(process.pid, ours, lambda: _status(process.wait()))
        try:
            return watched.ask(request, seconds, memory)
        finally:
            watched.end()
            process.wait()


def _status(code: int) -> int:
    """Return an exit code of `subprocess` as `os.waitpid` says it."""
    return -code if code < 0 else code << 8


def _questions(gate: Serving, case: Case) -> tuple[dict[str, Any], Sequence[Any] | None]:
    """Return the columns that the model is asked with, and what it must answer, if known."""
    if isinstance(gate.golden, dict):
        rows = gate.golden["inputs"]
        names = list(dict.fromkeys(name for row in rows for name in row))
        kinds = gate.golden.get("dtypes") or {}
        columns = {
            name: {"dtype": kinds.get(name), "values": [row.get(name) for row in rows]}
            for name in names
        }
        return columns, gate.golden.get("outputs")
    if case.evaluation is None:
        return {}, None
    found = case.sandbox.ask(
        "reading the evaluation data",
        "rows",
        modules=TABLES,
        evaluation=str(case.evaluation),
        count=gate.rows,
    )
    return found, None


def _judged(
    gate: Serving, answer: Mapping[str, Any], rows: int, expected: Sequence[Any] | None
) -> Finding:
    """Return the finding on what a model answered."""
    took, answers = answer["seconds"], answer["answers"]
    values = {
        "serving_seconds": round(sum(took.values()), 3),
        "serving_milliseconds": round(1000 * took["again"], 3),
        "serving_megabytes": round(answer["memory"] / MEGABYTE, 1),
        "serving_answers": rows,
    }
    evidence = {"seconds": took, "used": answer["used"], "same_again": answer["same"]}
    wrong = []
    if answer["memory"] > gate.memory:
        wrong.append(f"it used more than {gate.memory // MEGABYTE} MB of memory")
    if not isinstance(answers, list) or len(answers) != rows:
        count = len(answers) if isinstance(answers, list) else "no list of"
        wrong.append(f"it gave {count} answers to {rows} rows")
    elif any(_unusable(row) for row in answers):
        wrong.append("it gave answers that are not finite, or no JSON")
    elif expected is not None:
        same = [
            _close(row, other, gate.tolerance) for row, other in zip(answers, expected, strict=True)
        ]
        share = sum(same) / rows
        values["serving_agreement"] = share
        evidence["different"] = [
            {"row": row, "answer": answers[row], "golden": expected[row]}
            for row, right in enumerate(same)
            if not right
        ][:EXAMPLES]
        if share < gate.agree:
            wrong.append(
                f"it agrees with {sum(same)} of {rows} golden answers, fewer than {gate.agree:.0%}"
            )
    used = sorted(answer["used"].items())
    needs = ", ".join(f"{name} {version}" for name, version in used) or "nothing"
    kept = (
        f"it answered {rows} rows in {values['serving_milliseconds']:.0f} ms, "
        f"{values['serving_seconds']:.1f} s with loading, with {needs}"
    )
    if expected is not None and not wrong:
        kept += f"; {values['serving_agreement']:.0%} as the golden answers say"
    return Finding(gate.name, not wrong, tuple(wrong) or (kept,), values, evidence)


def _against_schema(case: Case, inputs: Mapping[str, Any], answers: Sequence[Any]) -> list[str]:
    """Return where inputs and answers are not what the policy's schema says, if it has one."""
    wrong: dict[str, None] = {}
    for gate in case.policy.gates:
        if not isinstance(gate, Schema):
            continue
        layout = case.layout(gate.schema_)
        if layout.inputs:
            for row in zip(*(column["values"] for column in inputs.values()), strict=True):
                kinds = {name: json_type(value) for name, value in zip(inputs, row, strict=True)}
                wrong |= dict.fromkeys(misfits("the input ", layout.inputs, kinds, layout.extra))
        if layout.outputs:
            for answer in answers:
                # An answer without names is the only output.
                named = answer if isinstance(answer, Mapping) else {_sole(layout): answer}
                kinds = {name: json_type(value) for name, value in named.items()}
                wrong |= dict.fromkeys(misfits("the output ", layout.outputs, kinds, layout.extra))
    return list(wrong)[:EXAMPLES]


def _sole(layout: Layout) -> str:
    return next(iter(layout.outputs)) if len(layout.outputs) == 1 else "without a name"


def _failed(gate: Serving, *reasons: str) -> Finding:
    return Finding(gate.name, passed=False, reasons=reasons)


def _unusable(value: Any) -> bool:  # noqa: ANN401 (JSON)
    """Return whether an answer holds what is no JSON, or no number."""
    if isinstance(value, Mapping):
        return not {"not finite", "no JSON"}.isdisjoint(value) or any(
            _unusable(item) for item in value.values()
        )
    return isinstance(value, list) and any(_unusable(item) for item in value)


def _close(one: Any, other: Any, tolerance: float) -> bool:  # noqa: ANN401 (JSON)
    """Return whether two answers are equal, numbers within a tolerance."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            _close(left, right, tolerance) for left, right in zip(one, other, strict=True)
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(
            _close(one[key], other[key], tolerance) for key in one
        )
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return bool(one == other)


class _Wanted:
    """The distributions that a model declares, with all that these need."""

    def __init__(self, requirements: Sequence[str] | None) -> None:
        self.declared = requirements is not None
        self.wrong: list[str] = []
        self.by_module: dict[str, str] = {}
        for text in requirements or ():
            self._check(text)
        if not self.wrong:
            for name in self._closure(requirements or ()):
                self.by_module |= dict.fromkeys(_modules(metadata.distribution(name)), name)

    def modules(self, function: str) -> list[str] | None:
        """Return the modules that may be imported, or None where all may."""
        if not self.declared:
            return None
        return sorted({*self.by_module, function.partition(":")[0].partition(".")[0]})

    def _check(self, text: str) -> None:
        try:
            wanted = Requirement(text)
            version = metadata.version(wanted.name)
        except InvalidRequirement:
            self.wrong.append(f"{text!r} is no requirement; expected such as numpy>=2")
        except metadata.PackageNotFoundError:
            self.wrong.append(f"the requirement {text} is not installed")
        else:
            if not wanted.specifier.contains(version, prereleases=True):
                self.wrong.append(f"the requirement {text} is not met by {version}")

    @staticmethod
    def _closure(requirements: Sequence[str]) -> Iterator[str]:
        """Yield the names of distributions and of what they need, as far as it is installed."""
        seen: set[str] = set()
        frontier = [(Requirement(text), "") for text in requirements]
        while frontier:
            wanted, extra = frontier.pop()
            name = canonicalize_name(wanted.name)
            asked = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
            key = f"{name}[{','.join(sorted(wanted.extras))}]"
            if not asked or key in seen:
                continue
            seen.add(key)
            try:
                needs = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            yield name
            for extra_name in ("", *wanted.extras):
                frontier += [(Requirement(text), extra_name) for text in needs]


def _modules(distribution: metadata.Distribution) -> set[str]:
    """Return the top-level modules that a distribution brings."""
    found = set()
    for file in distribution.files or ():
        top = file.parts[0]
        if len(file.parts) > 1 and not top.endswith((".dist-info", ".data")) and top != "..":
            found.add(top)
        elif len(file.parts) == 1 and file.suffix in {".py", ".so", ".pyd"}:
            found.add(top.partition(".")[0])
    return {name for name in found if name.isidentifier()}
