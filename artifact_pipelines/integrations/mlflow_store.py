"""Import from MLflow: runs, models, versions and aliases of a tracking store on SQLite.

The database and the artifact folders are read as they are; MLflow itself is not needed.
"""

import json
import math
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from artifact_pipelines.errors import ArtifactError, SourceError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.reading import Artifact, RunView
from artifact_pipelines.sdk.files import files_of

HISTORY_FILE = "metrics.jsonl"
_IMPORTED_BY = "mlflow"
_OUTCOMES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "failed"}


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one thing of the store.

    Attributes:
        kind: `run`, `checkpoint`, `model` or `alias`.
        source: What it is there.
        outcome: `planned`, `imported`, `known` or `skipped`.
        reference: What it is here, or nothing.
        said: Why, one sentence.
    """

    kind: str
    source: str
    outcome: str
    reference: str | None
    said: str


@dataclass(frozen=True, slots=True)
class _Run:
    id: str
    name: str
    experiment: str
    status: str
    began: int
    ended: int | None
    user: str | None
    folder: Path | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: tuple[tuple[str, float, int, int], ...]

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
class _Version:
    model: str
    version: int
    run: str | None
    folder: Path | None
    description: str | None
    stage: str | None
    made: int


@dataclass(slots=True)
class _Store:
    runs: list[_Run] = field(default_factory=list)
    versions: list[_Version] = field(default_factory=list)
    aliases: list[tuple[str, str, int]] = field(default_factory=list)


def import_mlflow(
    registry: Registry | None, database: Path, project: str, *, experiment: str | None = None
) -> list[Item]:
    """Import a store into a project, and return what became of each thing; twice is once.

    Args:
        registry: Where to; nothing for a dry run, which says what would be imported.
        database: MLflow's database.
        project: The project.
        experiment: This experiment alone, by name.

    Raises:
        SourceError: The file is no MLflow database, or has no such experiment.
    """
    store = _read(database, experiment)
    items: list[Item] = []
    made: dict[str, Artifact] = {}
    began: dict[str, Artifact] = {}
    for run in store.runs:
        name, source = _run_name(run), f"run {run.id}"
        versions = [one for one in store.versions if one.run == run.id]
        if run.status not in _OUTCOMES:
            said = f"it is {run.status} in MLflow; import it once it has ended."
            items.append(Item("run", source, "skipped", None, said))
            continue
        try:
            files = _files(run, versions)
            if registry is None:
                items += _planned(project, run, name, len(files))
                continue
            _import_run(registry, project, run, name, files, items, began, made)
        except (ArtifactError, OSError) as error:
            items.append(Item("run", source, "skipped", None, str(error)))
    for run in store.runs:
        parent = run.tags.get("mlflow.parentRunId")
        if registry is not None and run.id in began and parent in began:
            registry.declare(began[run.id].id, began[parent].id, "parent_run")
    models = _import_versions(registry, project, store, made, items)
    for model, alias, version in store.aliases:
        items.append(_import_alias(registry, model, alias, version, models))
    return items


def _planned(project: str, run: _Run, name: str, files: int) -> list[Item]:
    said = f"{len(run.params)} parameters, {len(run.points)} points of metrics."
    found = [Item("run", f"run {run.id}", "planned", f"{project}/{name}", said)]
    if files:
        reference = f"{project}/{name}@{run.step}"
        found.append(Item("checkpoint", f"run {run.id}", "planned", reference, f"{files} files."))
    return found


def _import_run(
    registry: Registry,
    project: str,
    run: _Run,
    name: str,
    files: dict[str, Path | bytes],
    items: list[Item],
    began: dict[str, Artifact],
    made: dict[str, Artifact],
) -> None:
    views = _runs(registry, project)
    known = next((view for view in views if view.artifact.name == name), None)
    history = "".join(
        json.dumps({"name": key, "value": str(value), "step": step, "time": time}) + "\n"
        for key, value, step, time in run.points
    )
    code = {
        "imported_by": _IMPORTED_BY,
        "commit": run.tags.get("mlflow.source.git.commit"),
        "entry_point": run.tags.get("mlflow.source.name"),
    }
    # What ended here is not begun again: a failed run would be resumed, and fail once more.
    over = known is not None and known.state == _OUTCOMES[run.status]
    started = (
        known.artifact
        if known is not None and over
        else registry.start_run(
            project,
            name,
            params=dict(run.params),
            code={key: value for key, value in code.items() if value},
            files={HISTORY_FILE: history.encode()} if history else {},
            facts={
                "mlflow": {
                    "run": run.id,
                    "name": run.name,
                    "experiment": run.experiment,
                    "status": run.status,
                    "began": run.began,
                    "ended": run.ended,
                    "tags": {k: v for k, v in run.tags.items() if not k.startswith("mlflow.")},
                }
            },
            annex={"user": run.user, "source": run.tags.get("mlflow.source.name")},
        )
    )
    if started.record.code.get("imported_by") != _IMPORTED_BY:
        raise SourceError(f"the run {started.reference} was not imported; choose another project.")
    began[run.id] = started
    outcome = "imported" if known is None else "known"
    items.append(Item("run", f"run {run.id}", outcome, started.reference, f"it {run.status}."))
    if files:
        step = run.step
        there = [one for one in registry.checkpoints(project, name) if one.step == step]
        made[run.id] = registry.publish_checkpoint(
            started, files, step=step, facts={"metrics": run.metrics, "layout": _IMPORTED_BY}
        )
        items.append(
            Item(
                "checkpoint",
                f"run {run.id}",
                "known" if there else "imported",
                made[run.id].reference,
                f"{len(files)} files.",
            )
        )
    outcome = _OUTCOMES[run.status]
    reason = "" if outcome == "finished" else f"MLflow says {run.status}."
    registry.finish_run(started, outcome, reason)


def _import_versions(
    registry: Registry | None,
    project: str,
    store: _Store,
    made: Mapping[str, Artifact],
    items: list[Item],
) -> dict[tuple[str, int], Artifact]:
    models: dict[tuple[str, int], Artifact] = {}
    runs = {run.id for run in store.runs}
    for one in store.versions:
        source = f"{one.model} version {one.version}"
        if one.run not in runs:
            said = "its run is not in what is imported."
            items.append(Item("model", source, "skipped", None, said))
        elif one.folder is None or not one.folder.is_dir():
            said = "its files are not in a folder that is here."
            items.append(Item("model", source, "skipped", None, said))
        elif registry is None:
            items.append(Item("model", source, "planned", None, f"from run {one.run}."))
        elif one.run not in made:
            said = "its run was not imported, for the reason that is given there."
            items.append(Item("model", source, "skipped", None, said))
        else:
            before = {model.id for model in registry.models(project)}
            model = registry.publish_model(made[one.run])
            models[one.model, one.version] = model
            text = f"MLflow: {source}, stage {one.stage or 'None'}, made {one.made}."
            text += f" {one.description}" if one.description else ""
            if text not in {note.text for note in registry.annotations(model.id)}:
                registry.annotate(model.id, text)
            outcome = "known" if model.id in before else "imported"
            items.append(Item("model", source, outcome, model.reference, f"from run {one.run}."))
    return models


def _import_alias(
    registry: Registry | None,
    model: str,
    alias: str,
    version: int,
    models: Mapping[tuple[str, int], Artifact],
) -> Item:
    source, said = f"{model}@{alias}", f"it names version {version}."
    if registry is None:
        return Item("alias", source, "planned", None, said)
    found = models.get((model, version))
    if found is None:
        return Item("alias", source, "skipped", None, f"version {version} was not imported.")
    reference = f"{found.project}@{alias}"
    there = registry.aliases(found.project).get(alias)
    if there is not None and there.id == found.id:
        return Item("alias", source, "known", reference, said)
    if there is not None:
        said = f"{reference} names {there.reference} already, and is left as it is."
        return Item("alias", source, "skipped", None, said)
    try:
        registry.set_alias(found.id, alias, f"MLflow: {source}")
    except ArtifactError as error:
        return Item("alias", source, "skipped", None, str(error))
    return Item("alias", source, "imported", reference, said)


def _files(run: _Run, versions: list[_Version]) -> dict[str, Path | bytes]:
    """Return a run's artifacts, and the models that were made of it where they lie elsewhere."""
    found: dict[str, Path | bytes] = {}
    if run.folder is not None and run.folder.is_dir() and any(run.folder.iterdir()):
        found |= files_of(run.folder)
    for one in versions:
        if one.folder is None or not one.folder.is_dir():
            continue
        if run.folder is not None and one.folder.is_relative_to(run.folder):
            continue
        inside = files_of(one.folder)
        found |= {f"models/{one.folder.parent.name}/{path}": file for path, file in inside.items()}
    return found


def _read(database: Path, experiment: str | None) -> _Store:
    if not database.is_file():
        raise SourceError(f"there is no file {str(database)!r}; name MLflow's SQLite database.")
    try:
        # A writer may be at work: the file is opened to be read only, and changed by nobody here.
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as conn:
            conn.row_factory = sqlite3.Row
            conn.execute("BEGIN")
            return _read_all(conn, database.absolute().parent, experiment)
    except sqlite3.Error as error:
        raise SourceError(f"{str(database)!r} is no MLflow database: {error}.") from error


def _read_all(conn: sqlite3.Connection, base: Path, experiment: str | None) -> _Store:
    names = {row["experiment_id"]: row["name"] for row in conn.execute("SELECT * FROM experiments")}
    if experiment is not None and experiment not in names.values():
        raise SourceError(
            f"there is no experiment {experiment!r}; there is {', '.join(sorted(names.values()))}."
        )
    store = _Store()
    statement = "SELECT * FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time, run_uuid"
    for row in conn.execute(statement).fetchall():
        if experiment in {None, names[row["experiment_id"]]}:
            store.runs.append(_run(conn, row, names[row["experiment_id"]], base))
    statement = "SELECT * FROM model_versions ORDER BY creation_time, name, version"
    for row in conn.execute(statement):
        if row["current_stage"] == "Deleted_Internal":
            continue
        place = row["source"]
        if "storage_location" in row.keys() and row["storage_location"]:  # noqa: SIM118 (a Row)
            place = row["storage_location"]
        store.versions.append(
            _Version(
                row["name"],
                int(row["version"]),
                row["run_id"] or None,
                _folder(place, base),
                row["description"],
                row["current_stage"],
                row["creation_time"],
            )
        )
    statement = "SELECT name, alias, version FROM registered_model_aliases ORDER BY name, alias"
    store.aliases += [
        (row["name"], row["alias"], int(row["version"])) for row in conn.execute(statement)
    ]
    return store


def _run(conn: sqlite3.Connection, row: sqlite3.Row, experiment: str, base: Path) -> _Run:
    def pairs(table: str) -> dict[str, str]:
        statement = f"SELECT key, value FROM {table} WHERE run_uuid = ?"  # noqa: S608 (ours)
        return {one["key"]: one["value"] for one in conn.execute(statement, [row["run_uuid"]])}

    statement = "SELECT * FROM metrics WHERE run_uuid = ? ORDER BY key, step, timestamp"
    points = tuple(
        (
            one["key"],
            math.nan if one["is_nan"] else float(one["value"]),
            int(one["step"]),
            int(one["timestamp"]),
        )
        for one in conn.execute(statement, [row["run_uuid"]])
    )
    return _Run(
        row["run_uuid"],
        row["name"] or "",
        experiment,
        row["status"],
        row["start_time"],
        row["end_time"],
        row["user_id"],
        _folder(row["artifact_uri"], base),
        pairs("params"),
        pairs("tags"),
        points,
    )


def _folder(uri: str | None, base: Path) -> Path | None:
    """Return the folder of this machine that a URI names, if it does; a path is from the store."""
    if not uri:
        return None
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Path(unquote(parts.path))
    return base / uri if not parts.scheme else None


def _run_name(run: _Run) -> str:
    """Return a name that is one here: MLflow's own need be neither plain nor the only one."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", run.name).strip("-")[:40]
    return f"{plain or 'run'}-{run.id[:8]}"


def _runs(registry: Registry, project: str) -> list[RunView]:
    return registry.runs(project) if project in registry.projects() else []
