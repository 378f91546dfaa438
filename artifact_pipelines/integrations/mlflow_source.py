"""What an MLflow store holds, read as it is: a database, a folder of files, or a server.

MLflow itself is not needed, and nothing there is changed.
"""

import json
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import sqlalchemy as sa
import yaml
from sqlalchemy.engine import Connection

from artifact_pipelines.domain import naming
from artifact_pipelines.errors import SourceError
from artifact_pipelines.sdk.files import files_of

Files = Mapping[str, Path | bytes]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that a run used, as MLflow describes it: its rows are elsewhere."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str | None
    context: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run.

    Attributes:
        id: Its id there.
        name: Its name there, which need not be the only one of it.
        experiment: The experiment's name.
        status: `FINISHED`, `FAILED`, `KILLED`, `RUNNING` or `SCHEDULED`.
        began: When it began, in milliseconds.
        ended: When it ended, if it did.
        user: Who ran it.
        place: The URI of its artifacts.
        params: Its parameters.
        tags: Its tags.
        points: Every value of its metrics: name, value, step and time.
        datasets: What it used.
    """

    id: str
    name: str
    experiment: str
    status: str
    began: int
    ended: int | None
    user: str | None
    place: str | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: tuple[tuple[str, float, int, int], ...]
    datasets: tuple[Dataset, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        ordered = sorted(self.points, key=lambda point: (point[2], point[3]))
        return {name: value for name, value, _, _ in ordered}

    @property
    def step(self) -> int:
        """The greatest step at which anything was measured."""
        return max([0, *(step for _, _, step, _ in self.points)])


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model."""

    model: str
    version: int
    run: str | None
    place: str | None
    description: str | None
    stage: str | None
    made: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Artifacts that can be read from here.

    Attributes:
        sizes: Their paths and sizes.
        fetch: Returns their files by path, written below a folder where they are elsewhere.
        here: Whether they are on this machine.
    """

    sizes: Mapping[str, int]
    fetch: Callable[[Path], Files]
    here: bool


class Source(ABC):
    """A store that is open to be read."""

    @abstractmethod
    def experiments(self) -> dict[str, str]:
        """Return the names of the experiments by id."""

    @abstractmethod
    def runs(self, experiments: Mapping[str, str]) -> Iterator[Run]:
        """Yield the runs of experiments that were not deleted, oldest first."""

    @abstractmethod
    def versions(self) -> list[Version]:
        """Return the versions of all models, oldest first."""

    @abstractmethod
    def aliases(self) -> list[tuple[str, str, int]]:
        """Return model, alias and version of each alias."""

    @property
    @abstractmethod
    def base(self) -> Path:
        """The folder that relative paths are from."""

    def place(self, uri: str | None) -> Place | None:
        """Return the artifacts below a URI, or nothing where there are none within reach."""
        parts = urlsplit(uri or "")
        if parts.scheme == "s3":
            return _in_bucket(uri or "")
        if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
            folder = Path(unquote(parts.path))
        elif uri and not parts.scheme:
            folder = self.base / uri
        else:
            return None
        if not folder.is_dir() or not any(folder.iterdir()):
            return None
        found = files_of(folder)
        sizes = {path: Path(str(file)).stat().st_size for path, file in found.items()}
        return Place(sizes, lambda _: found, here=True)


@contextmanager
def open_source(source: str) -> Iterator[Source]:
    """Open a store: a database's path or URL, a folder `mlruns`, or a server's address.

    Raises:
        SourceError: It is no MLflow store, or cannot be read.
    """
    scheme = source.partition("://")[0] if "://" in source else ""
    if scheme in {"http", "https"}:
        from artifact_pipelines.integrations.mlflow_server import Server

        yield Server(source)
        return
    path = Path(source.removeprefix("file://") if scheme == "file" else source)
    if scheme in {"", "file"}:
        if path.is_dir():
            yield _Folder(path)
            return
        if not path.is_file():
            raise SourceError(
                f"there is no file {str(path)!r}; name MLflow's SQLite database, its folder "
                "mlruns, the URL of its database, or the address of its server."
            )
        source = f"sqlite:///{path.absolute()}"
    engine, base = _engine(source)
    name = str(path) if scheme in {"", "file"} else shown(source)
    try:
        with engine.connect() as conn:
            yield _Database(conn, base)
    except sa.exc.SQLAlchemyError as error:
        why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise SourceError(f"{name!r} is no MLflow database: {why}.") from error
    finally:
        engine.dispose()


def shown(source: str) -> str:
    """Return the address of a store without the password in it."""
    head, slashes, rest = source.partition("://")
    if not slashes or "@" not in rest:
        return source
    place, path = rest.partition("/")[::2]
    user, _, host = place.rpartition("@")
    return f"{head}://{user.partition(':')[0]}@{host}" + (f"/{path}" if path else "")


def _engine(source: str) -> tuple[sa.Engine, Path]:
    """Return an engine that can only read, and the folder that paths in it are from."""
    try:
        url = sa.make_url(source)
    except sa.exc.ArgumentError as error:
        raise SourceError(f"{shown(source)!r} is no address of an MLflow store.") from error
    kind = url.get_backend_name()
    if kind == "sqlite":
        file = Path(url.database or "")
        if not file.is_file():
            raise SourceError(f"there is no file {str(file)!r}; name MLflow's SQLite database.")
        # A writer may be at work: the file is opened to be read only.
        address = f"sqlite:///file:{quote(str(file.absolute()))}?mode=ro&uri=true"
        engine = sa.create_engine(address, poolclass=sa.NullPool)

        @sa.event.listens_for(engine, "begin")
        def begin(conn: Connection) -> None:
            conn.exec_driver_sql("BEGIN")

        return engine, file.absolute().parent
    if kind == "postgresql":
        return (
            sa.create_engine(
                url.set(drivername="postgresql+psycopg2"),
                poolclass=sa.NullPool,
                isolation_level="REPEATABLE READ",
                execution_options={"postgresql_readonly": True},
            ),
            Path.cwd(),
        )
    raise SourceError(
        f"a store on {kind} is not read directly; name the address of MLflow's server instead."
    )


class _Database(Source):
    """MLflow's tables on SQLite or Postgres, in one transaction."""

    def __init__(self, conn: Connection, base: Path) -> None:
        self._conn = conn
        self._base = base
        # Columns and tables came with later releases of MLflow.
        self._tables = set(sa.inspect(conn).get_table_names())

    @property
    def base(self) -> Path:
        return self._base

    def experiments(self) -> dict[str, str]:
        statement = "SELECT experiment_id, name FROM experiments"
        return {str(row["experiment_id"]): row["name"] for row in self._rows(statement)}

    def runs(self, experiments: Mapping[str, str]) -> Iterator[Run]:
        statement = (
            "SELECT * FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time, run_uuid"
        )
        for row in self._rows(statement):
            if str(row["experiment_id"]) in experiments:
                yield self._run(row, experiments[str(row["experiment_id"])])

    def versions(self) -> list[Version]:
        tags: dict[tuple[str, int], dict[str, str]] = {}
        for row in self._rows("SELECT * FROM model_version_tags", "model_version_tags"):
            found = tags.setdefault((row["name"], int(row["version"])), {})
            found[row["key"]] = row["value"]
        return [
            Version(
                row["name"],
                int(row["version"]),
                row["run_id"] or None,
                row.get("storage_location") or row["source"],
                row["description"],
                row["current_stage"],
                row["creation_time"],
                tags.get((row["name"], int(row["version"])), {}),
            )
            for row in self._rows(
                "SELECT * FROM model_versions ORDER BY creation_time, name, version"
            )
            if row["current_stage"] != "Deleted_Internal"
        ]

    def aliases(self) -> list[tuple[str, str, int]]:
        statement = "SELECT name, alias, version FROM registered_model_aliases ORDER BY name, alias"
        rows = self._rows(statement, "registered_model_aliases")
        return [(row["name"], row["alias"], int(row["version"])) for row in rows]

    def _rows(self, statement: str, table: str | None = None, **values: Any) -> Sequence[Any]:
        if table is not None and table not in self._tables:
            return []
        return self._conn.execute(sa.text(statement), values).mappings().all()

    def _run(self, row: Any, experiment: str) -> Run:
        run = row["run_uuid"]

        def pairs(table: str) -> dict[str, str]:
            statement = f"SELECT key, value FROM {table} WHERE run_uuid = :run"  # noqa: S608 (ours)
            return {one["key"]: one["value"] for one in self._rows(statement, run=run)}

        statement = "SELECT * FROM metrics WHERE run_uuid = :run ORDER BY key, step, timestamp"
        points = tuple(
            (
                one["key"],
                math.nan if one["is_nan"] else float(one["value"]),
                int(one["step"]),
                int(one["timestamp"]),
            )
            for one in self._rows(statement, run=run)
        )
        return Run(
            run,
            row["name"] or "",
            experiment,
            row["status"],
            row["start_time"],
            row["end_time"],
            row["user_id"],
            row["artifact_uri"],
            pairs("params"),
            pairs("tags"),
            points,
            self._datasets(run),
        )

    def _datasets(self, run: str) -> tuple[Dataset, ...]:
        statement = (
            "SELECT d.*, t.value AS context FROM inputs i JOIN datasets d"
            " ON i.source_type = 'DATASET' AND i.source_id = d.dataset_uuid"
            " LEFT JOIN input_tags t"
            " ON t.input_uuid = i.input_uuid AND t.name = 'mlflow.data.context'"
            " WHERE i.destination_type = 'RUN' AND i.destination_id = :run"
            " ORDER BY d.name, d.digest"
        )
        return tuple(
            Dataset(
                row["name"],
                row["digest"],
                row["dataset_source_type"],
                row["dataset_source"],
                row["dataset_schema"],
                row["dataset_profile"],
                row["context"],
            )
            for row in self._rows(statement, "datasets", run=run)
        )


# As `RunStatus` of MLflow numbers them.
_STATUS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}


class _Folder(Source):
    """MLflow's folder `mlruns`: one file for each fact."""

    def __init__(self, root: Path) -> None:
        self._root = root
        if not any(root.glob("*/meta.yaml")):
            raise SourceError(
                f"the folder {str(root)!r} is no MLflow store: no experiment is in it; "
                "name the folder that is called mlruns."
            )

    @property
    def base(self) -> Path:
        return self._root.absolute().parent

    def experiments(self) -> dict[str, str]:
        found = {}
        for file in sorted(self._root.glob("*/meta.yaml")):
            meta = _meta(file)
            if "experiment_id" in meta and meta.get("lifecycle_stage") == "active":
                found[str(meta["experiment_id"])] = str(meta["name"])
        return found

    def runs(self, experiments: Mapping[str, str]) -> Iterator[Run]:
        found = []
        for experiment in experiments:
            for file in self._root.glob(f"{experiment}/*/meta.yaml"):
                meta = _meta(file)
                if meta.get("lifecycle_stage") == "active" and "run_id" in meta:
                    found.append((meta["start_time"], str(meta["run_id"]), file.parent, meta))
        for _, identity, folder, meta in sorted(found, key=lambda one: one[:2]):
            tags = _texts(folder / "tags")
            status = meta["status"]
            yield Run(
                identity,
                meta.get("run_name") or tags.get("mlflow.runName", ""),
                experiments[str(meta["experiment_id"])],
                _STATUS.get(status, str(status)),
                meta["start_time"],
                meta.get("end_time"),
                meta.get("user_id"),
                meta.get("artifact_uri"),
                _texts(folder / "params"),
                tags,
                tuple(_points(folder / "metrics")),
                tuple(self._datasets(folder)),
            )

    def versions(self) -> list[Version]:
        found = []
        for file in self._root.glob("models/*/version-*/meta.yaml"):
            meta = _meta(file)
            if meta.get("current_stage") == "Deleted_Internal":
                continue
            found.append(
                Version(
                    str(meta["name"]),
                    int(meta["version"]),
                    meta.get("run_id"),
                    meta.get("storage_location") or meta.get("source"),
                    meta.get("description"),
                    str(meta.get("current_stage")),
                    meta["creation_timestamp"],
                    _texts(file.parent / "tags"),
                )
            )
        return sorted(found, key=lambda one: (one.made, one.model, one.version))

    def aliases(self) -> list[tuple[str, str, int]]:
        return [
            (str(_meta(file.parent.parent / "meta.yaml")["name"]), file.name, int(_text(file)))
            for file in sorted(self._root.glob("models/*/aliases/*"))
        ]

    def _datasets(self, run: Path) -> Iterator[Dataset]:
        for file in sorted(run.glob("inputs/*/meta.yaml")):
            meta = _meta(file)
            if meta.get("source_type") != "DATASET":
                continue
            found = _meta(run.parent / "datasets" / str(meta["source_id"]) / "meta.yaml")
            yield Dataset(
                found["name"],
                str(found["digest"]),
                found["source_type"],
                found["source"],
                found.get("schema"),
                found.get("profile"),
                (meta.get("tags") or {}).get("mlflow.data.context"),
            )


def _meta(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SourceError(f"{str(file)!r} cannot be read as MLflow wrote it: {error}.") from error
    if not isinstance(found, dict):
        raise SourceError(f"{str(file)!r} is not what MLflow writes; is it whole?")
    return found


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8").rstrip("\n")


def _texts(folder: Path) -> dict[str, str]:
    """Return the texts below a folder by path: a name there may have slashes."""
    return {
        file.relative_to(folder).as_posix(): _text(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _points(folder: Path) -> Iterator[tuple[str, float, int, int]]:
    for name, text in _texts(folder).items():
        # Time, value and step; the oldest releases wrote no step.
        rows = [[*line.split(" "), "0"][:3] for line in text.splitlines() if line]
        try:
            found = [(int(step), int(time), float(value)) for time, value, step in rows]
        except ValueError as error:
            raise SourceError(f"the metric {name!r} in {str(folder)!r} is damaged.") from error
        yield from ((name, value, step, time) for step, time, value in sorted(found, key=_when))


def _when(point: tuple[int, int, float]) -> tuple[int, int]:
    return point[:2]


def _in_bucket(uri: str) -> Place | None:
    from artifact_pipelines.store.bucket import Bucket

    bucket = Bucket(uri, role="artifact", setting="the address in MLflow")
    listed = {item.key: item for item in bucket.listed() if not item.key.endswith("/")}

    def fetch(folder: Path) -> Files:
        naming.check_paths(listed)
        for path, item in listed.items():
            bucket.download(item, folder / path)
        return {path: folder / path for path in listed}

    sizes = {path: item.size for path, item in listed.items()}
    return Place(sizes, fetch, here=False) if listed else None


@contextmanager
def fetched(places: Mapping[str, Place]) -> Iterator[dict[str, Path | bytes]]:
    """Yield the files of several places, each under a prefix."""
    with tempfile.TemporaryDirectory(prefix="mlflow-") as folder:
        found: dict[str, Path | bytes] = {}
        for number, (prefix, place) in enumerate(places.items()):
            files = place.fetch(Path(folder) / str(number))
            found |= {f"{prefix}{path}": file for path, file in files.items()}
        yield found


def described(dataset: Dataset) -> dict[str, Any]:
    """Return what MLflow says of a dataset, its JSON read where it is some."""
    found = {
        "name": dataset.name,
        "digest": dataset.digest,
        "source_type": dataset.source_type,
        "source": _json(dataset.source),
        "schema": _json(dataset.schema),
        "profile": _json(dataset.profile),
    }
    return {key: value for key, value in found.items() if value is not None}


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text
