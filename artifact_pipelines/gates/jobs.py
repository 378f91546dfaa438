"""What a sandbox can be asked to do: each job runs a project's own code, and answers in JSON."""

import contextlib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.policy import Contract
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import (
    ArtifactError,
    ConfigurationError,
    InvalidFormatError,
    WrongAnswerError,
)
from artifact_pipelines.gates import data, scanning
from artifact_pipelines.gates.case import packed

if TYPE_CHECKING:
    import pandas as pd

MAX_SLICES: Final = 200


@dataclass(frozen=True, slots=True)
class GateCase:
    """What a project's own gate is called with.

    Attributes:
        model: The folder of the model's files.
        baseline: The folder of the model in production, if there is one.
        data: The evaluation data, if the policy names any.
        metrics: What the evaluation function measured, if there is one.
        policy: The policy's document.
    """

    model: Path
    baseline: Path | None
    data: "pd.DataFrame | None"
    metrics: Mapping[str, Any]
    policy: Mapping[str, Any]


def load_function(path: str) -> Any:  # noqa: ANN401 (whatever a project's module holds)
    """Return the object that `module:name` names.

    Raises:
        ConfigurationError: There is no such module or name.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{path!r} cannot be loaded ({error}); write it as module:function."
        ) from error


def sources(functions: Sequence[str]) -> dict[str, str | None]:
    """Return the SHA-256 of the source file of each function, where it has one."""
    return {path: source_of(load_function(path)) for path in functions}


def source_of(function: object) -> str | None:
    """Return the SHA-256 of the source file of a function, where it has one."""
    bare: Any = inspect.unwrap(function)  # type: ignore[arg-type]
    while isinstance(bare, partial):
        bare = inspect.unwrap(bare.func)
    bare = bare if inspect.isroutine(bare) or inspect.isclass(bare) else type(bare)
    with contextlib.suppress(TypeError, OSError):
        file = inspect.getsourcefile(bare)
        return None if file is None else digest.sha256(Path(file).read_bytes())
    return None


def measure(
    function: str, model: str, evaluation: str, slices: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return what an evaluation function measures on the data, and on the slices of it."""
    look, frame = load_function(function), _frame(evaluation)
    metrics, examples = _split(look(Path(model), frame.copy()), len(frame))
    return {
        "metrics": metrics,
        "examples": {name: packed(values) for name, values in examples.items()},
        "slices": {
            column: _sliced(look, Path(model), frame, examples, column, wanted)
            for column, wanted in slices.items()
        },
    }


def _sliced(
    look: Callable[[Path, Any], Mapping[str, Any]],
    model: Path,
    frame: "pd.DataFrame",
    examples: Mapping[str, Sequence[float]],
    column: str,
    wanted: Sequence[str],
) -> dict[str, Any]:
    """Return what each slice measures: the mean of its rows, or else the function on them."""
    if column not in frame.columns:
        return {}
    groups = frame.reset_index(drop=True).groupby(column, dropna=False, sort=True, observed=True)
    if groups.ngroups > MAX_SLICES:
        raise InvalidFormatError(
            f"the column {column} has {groups.ngroups} values; slices may be {MAX_SLICES}"
        )
    found: dict[str, Any] = {}
    for value, rows in groups.indices.items():
        measured: dict[str, Any] = {
            name: math.fsum(examples[name][row] for row in rows) / len(rows)
            for name in wanted
            if name in examples
        }
        if len(measured) < len(wanted):
            part = frame.iloc[rows].reset_index(drop=True)
            measured = _split(look(model, part), len(part))[0] | measured
        kept = {name: measured[name] for name in wanted if name in measured}
        index = [int(row) for row in rows] if examples else []
        found[str(value)] = {"rows": len(rows), "metrics": kept, "index": index}
    return found


def _split(
    given: Any,  # noqa: ANN401 (what a project's function gives)
    rows: int,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Return the metrics of an answer, and the scores of each row for those that came so."""
    if not isinstance(given, Mapping):
        raise WrongAnswerError(f"it gave a {type(given).__name__} in place of metrics by name")
    metrics: dict[str, Any] = {}
    examples: dict[str, list[float]] = {}
    for name, value in given.items():
        if isinstance(value, bool | str):
            metrics[str(name)] = value
        elif hasattr(value, "__len__") and getattr(value, "ndim", 1) == 1:
            scores = [float(score) for score in value]
            if len(scores) != rows:
                raise WrongAnswerError(
                    f"{name} has {len(scores)} scores for {rows} rows; give one for each"
                )
            examples[str(name)] = scores
            metrics[str(name)] = math.fsum(scores) / rows if rows else math.nan
        else:
            number = hasattr(value, "__float__") and not isinstance(value, bytes)
            metrics[str(name)] = float(value) if number else repr(value)[:100]
    return metrics, examples


def rows(evaluation: str, count: int) -> dict[str, Any]:
    """Return the first rows of the evaluation data, by column."""
    frame = _frame(evaluation).head(count)
    return {
        str(name): {
            "dtype": str(frame[name].dtype),
            "values": [None if value != value else _plain(value) for value in frame[name]],  # noqa: PLR0124 (NaN is not itself)
        }
        for name in frame.columns
    }


def contract(name: str, folder: str, rules: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what each part of a dataset's contract found."""
    found = data.contract_findings(
        name, _frame(folder), Contract.model_validate(rules), load_function
    )
    return [as_json(finding) for finding in found]


def rows_contract(
    name: str, function: str, model: str | None, evaluation: str, rules: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what each part of a contract found in what a function makes of the data."""
    frame, look = _frame(evaluation).copy(), load_function(function)
    made = look(frame) if model is None else look(Path(model), frame)
    found = data.contract_findings(
        name, _as_frame(made, len(frame)), Contract.model_validate(rules), load_function
    )
    return [as_json(finding) for finding in found]


def _as_frame(made: Any, rows: int) -> "pd.DataFrame":  # noqa: ANN401 (what a function gives)
    """Return what a function made as a frame of so many rows; an array's columns are numbered."""
    import pandas as pd  # noqa: PLC0415 (a job that reads no table should not pay for it)

    frame = pd.DataFrame(made)
    if not isinstance(made, pd.DataFrame):
        names = [str(name) for name in frame.columns]
        frame.columns = pd.Index(["prediction"] if names == ["0"] else names)
    if len(frame) != rows:
        raise WrongAnswerError(f"it gave {len(frame)} rows for {rows}")
    return frame


def onnx(
    model: str, file: str, evaluation: str, rows: int, inputs: str, against: str, tolerance: float
) -> dict[str, Any]:
    """Return how far the answers of an ONNX export are from the model's."""
    import numpy as np  # noqa: PLC0415 (a job that needs none should not pay for it)

    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise InvalidFormatError(
            "ONNX Runtime is not installed; run: pip install 'artifact-pipelines[onnx]'"
        ) from None
    frame = _frame(evaluation).head(rows)
    session = runtime.InferenceSession(str(Path(model) / file), providers=["CPUExecutionProvider"])
    fed = load_function(inputs)(frame.copy())
    if not isinstance(fed, Mapping):
        fed = {session.get_inputs()[0].name: fed}
    answers = session.run(None, {name: np.asarray(array) for name, array in fed.items()})
    wanted = load_function(against)(Path(model), frame.copy())
    wanted = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    names = [output.name for output in session.get_outputs()]
    if len(wanted) != len(answers):
        raise WrongAnswerError(f"the export answers {len(answers)} outputs, not {len(wanted)}")
    outputs = {}
    for name, one, other in zip(names, answers, map(np.asarray, wanted), strict=True):
        if one.shape != other.shape:
            raise WrongAnswerError(f"the output {name} is {one.shape}, not {other.shape}")
        same = np.isclose(one, other, rtol=tolerance, atol=tolerance)
        far = np.abs(one.astype(np.float64) - other.astype(np.float64))
        outputs[name] = {
            "different": int((~same).sum()),
            "of": int(same.size),
            "furthest": float(np.nan_to_num(far, nan=math.inf).max(initial=0.0)),
        }
    return {"rows": len(frame), "outputs": outputs, "runtime": runtime.__version__}


def custom(
    function: str,
    name: str,
    model: str,
    baseline: str | None,
    evaluation: str | None,
    metrics: Mapping[str, Any],
    policy: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a project's own gate found."""
    case = GateCase(
        model=Path(model),
        baseline=None if baseline is None else Path(baseline),
        data=None if evaluation is None else _frame(evaluation).copy(),
        metrics=metrics,
        policy=policy,
    )
    return as_json(_finding(name, load_function(function)(case, **arguments)))


def _finding(name: str, given: Any) -> Finding:  # noqa: ANN401 (what a project's function gives)
    """Return what a project's gate gave, as a finding under its name."""
    if isinstance(given, Finding):
        given = {
            field: getattr(given, field) for field in ("passed", "reasons", "values", "evidence")
        }
    known = {"passed", "reasons", "values", "evidence"}
    if not isinstance(given, Mapping) or not {"passed", "reasons"} <= given.keys() <= known:
        raise WrongAnswerError(
            "a gate gives a mapping of passed, reasons and, if it likes, values and evidence"
        )
    reasons = given["reasons"]
    given_reasons = (reasons,) if isinstance(reasons, str) else tuple(map(str, reasons))
    # A reason is a line of a table, of a check and of a verdict.
    reasons = tuple(" ".join(reason.split()) for reason in given_reasons)
    passed = given["passed"]
    # NumPy's truth values are no bool; anything else must not be taken for a pass.
    passed = passed.item() if hasattr(passed, "item") else passed
    if type(passed) is not bool:
        raise WrongAnswerError(f"a gate passed or not, but said {passed!r}")
    if not reasons:
        raise WrongAnswerError("a gate gives at least one reason")
    values, evidence = given.get("values") or {}, given.get("evidence")
    return Finding(name, passed, reasons, _plain(values), _plain(evidence))


def as_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as plain JSON."""
    return {
        "gate": finding.gate,
        "passed": finding.passed,
        "reasons": list(finding.reasons),
        "values": _plain(finding.values),
        "evidence": _plain(finding.evidence),
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return a value with NumPy's scalars and arrays as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    try:
        digest.canonical(value)
    except ArtifactError:
        return str(value)
    return value


@cache
def _frame(folder: str) -> "pd.DataFrame":
    """Return the rows of a dataset, read once for all jobs."""
    return data.read_dataset(Path(folder))


JOBS: Final[Mapping[str, Callable[..., Any]]] = {
    "contract": contract,
    "custom": custom,
    "measure": measure,
    "onnx": onnx,
    "rows": rows,
    "rows_contract": rows_contract,
    "scan": scanning.scan,
    "sources": sources,
}
