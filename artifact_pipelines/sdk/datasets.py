"""A dataset as it is registered: its files, and what is known about them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from artifact_pipelines.domain import naming
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import ConfigurationError, SourceError
from artifact_pipelines.sdk.machine import surroundings
from artifact_pipelines.sdk.opening import open_home, settings_of

if TYPE_CHECKING:
    from artifact_pipelines.registry.reading import Artifact

_MOST_DESCRIBED = 1000  # columns; a table with more is a matrix
_SIGNIFICANT = 6  # digits: what summing in another order would change is left out


@dataclass(frozen=True, slots=True)
class Content:
    """What a loader returned, as files.

    Attributes:
        files: The files, by path.
        facts: What is known about them: rows, columns, statistics.
        frame: The rows, where it is a table.
    """

    files: Mapping[str, Path | bytes]
    facts: Mapping[str, Any]
    frame: Any


def register_dataset(
    project: str,
    name: str,
    data: Any,  # noqa: ANN401 (a frame, arrays or a path)
    *,
    licence: str | None = None,
    sensitivity: Sequence[str] | None = None,
    sources: Sequence[str | Mapping[str, str]] | None = None,
    owner: str | None = None,
    inputs: Mapping[str, str] | None = None,
    home: str | Path | None = None,
) -> "Artifact":
    """Return a dataset version, registered unless the same one is there.

    Args:
        project: The project.
        name: The dataset's name.
        data: A pandas frame, a mapping of arrays by name, or the path of a file or folder.
        licence: Under what it may be used, as an SPDX expression.
        sensitivity: The kinds of sensitive data in it; an empty list says that there are none.
        sources: Where it comes from, each as a URI or as `uri` and `version`.
        owner: Who answers for it, as `team:name` or an e-mail address.
        inputs: References of the datasets that it was made from, by what each was used as:
            a feature step is a dataset with such an input.
        home: The home of the registry; `ARTIFACT_PIPELINES_HOME` when left out.

    Raises:
        SourceError: The data is nothing that can be registered.
        InvalidNameError: The owner is neither a team nor an e-mail address.
    """
    declared = declared_facts(licence, sensitivity, sources, owner)
    with content_of(data, name) as content, open_home(settings_of(home)) as registry:
        cited = [
            Input(f"dataset:{role}", registry.find(reference).id)
            for role, reference in (inputs or {}).items()
        ]
        return registry.publish_dataset(
            project,
            name,
            content.files,
            facts={**content.facts, **declared},
            inputs=cited,
            annex=surroundings(),
        )


def declared_facts(
    licence: str | None,
    sensitivity: Sequence[str] | None,
    sources: Sequence[str | Mapping[str, str]] | None,
    owner: str | None,
) -> dict[str, Any]:
    """Return what people said about a dataset, as its record says it.

    Raises:
        ConfigurationError: A source has no URI.
        InvalidNameError: The owner is neither a team nor an e-mail address.
    """
    facts: dict[str, Any] = {}
    if licence is not None:
        facts["licence"] = licence
    if sensitivity is not None:
        facts["sensitivity"] = sorted(set(sensitivity))
    if sources is not None:
        facts["sources"] = [_source(source) for source in sources]
    if owner is not None:
        facts["owner"] = naming.check_owner(owner)
    return facts


def _source(source: str | Mapping[str, str]) -> dict[str, str]:
    found = {"uri": source} if isinstance(source, str) else dict(source)
    if not found.get("uri") or not found.keys() <= {"uri", "version"}:
        raise ConfigurationError(
            f"the source {source!r} of a dataset must be a URI, or have a uri and a version."
        )
    return found


@contextmanager
def content_of(value: Any, name: str) -> Iterator[Content]:  # noqa: ANN401 (the loader decides)
    """Yield what a loader returned as files; the same rows are the same bytes.

    Raises:
        SourceError: It is nothing that can be registered.
    """
    with TemporaryDirectory(prefix="dataset-") as folder:
        if isinstance(value, str | Path):
            yield _of_path(Path(value), name)
        elif hasattr(value, "to_parquet") and hasattr(value, "dtypes"):
            yield _of_frame(value, Path(folder), name)
        elif isinstance(value, Mapping) and value:
            yield _of_arrays(value, name)
        else:
            raise SourceError(
                f"the dataset {name!r} was loaded as {type(value).__name__}; return a pandas "
                "frame, a mapping of arrays by name, or the path of a file or folder."
            )


def _of_frame(frame: Any, folder: Path, name: str) -> Content:  # noqa: ANN401 (pandas is imported late)
    if not len(frame):
        raise SourceError(f"the dataset {name!r} was loaded without any rows.")
    file = folder / "data.parquet"
    try:
        frame.to_parquet(file, index=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise SourceError(f"the dataset {name!r} does not fit into Parquet: {error}.") from error
    columns = {str(column): str(kind) for column, kind in frame.dtypes.items()}
    facts: dict[str, Any] = {"rows": len(frame), "columns": columns}
    if len(columns) <= _MOST_DESCRIBED:
        facts["statistics"] = {str(column): statistics(frame[column]) for column in frame}
    return Content({file.name: file}, facts, frame)


def _of_arrays(arrays: Mapping[str, Any], name: str) -> Content:
    import numpy as np
    from safetensors.numpy import save

    try:
        plain = {str(key): np.ascontiguousarray(array) for key, array in arrays.items()}
        written = save(plain)
    except Exception as error:  # a foreign type, of which safetensors makes a foreign error
        raise SourceError(
            f"the dataset {name!r} holds what is no array of numbers: {error}."
        ) from error
    lengths = {array.shape[0] if array.ndim else 1 for array in plain.values()}
    columns = {key: f"{array.dtype}{list(array.shape[1:])}" for key, array in plain.items()}
    facts: dict[str, Any] = {
        "columns": columns,
        "statistics": {key: statistics(array) for key, array in plain.items()},
    }
    if len(lengths) == 1:
        facts["rows"] = lengths.pop()
    return Content({"data.safetensors": written}, facts, None)


def _of_path(path: Path, name: str) -> Content:
    if path.is_file():
        return Content({path.name: path}, {}, None)
    files: dict[str, Path | bytes] = {
        file.relative_to(path).as_posix(): file
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    if not files:
        raise SourceError(f"the dataset {name!r} was loaded as {path}, where there is no file.")
    return Content(files, {}, None)


def statistics(column: Any) -> dict[str, Any]:  # noqa: ANN401 (a pandas column, or an array)
    """Return what the values of a column are like; the same values give the same on any machine."""
    import numpy as np
    import pandas as pd

    if not isinstance(column, pd.Series):
        column = pd.Series(np.asarray(column).reshape(-1))
    found: dict[str, Any] = {"nulls": int(column.isna().sum())}
    if pd.api.types.is_bool_dtype(column.dtype):
        return {**found, "true": int(column.sum())}
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(
        column.dtype
    ):
        values = column.dropna().to_numpy(dtype=np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            found |= {
                "min": _number(values.min()),
                "max": _number(values.max()),
                "mean": _number(values.mean()),
                "std": _number(values.std()),
            }
        return found
    try:
        return {**found, "distinct": int(column.nunique())}
    except TypeError:  # lists and arrays in cells
        return found


def _number(value: float) -> float:
    rounded = float(f"{float(value):.{_SIGNIFICANT}g}")
    return rounded if math.isfinite(rounded) else 0.0
