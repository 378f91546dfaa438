"""Import from MLflow: runs, datasets, models, versions and aliases of a store.

Each becomes what it is here, with its history where MLflow keeps one; the store is only read.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from artifact_pipelines.domain import digest
from artifact_pipelines.errors import ArtifactError, InvalidNameError, SourceError
from artifact_pipelines.integrations.mlflow_source import (
    Dataset,
    Place,
    Run,
    Source,
    Version,
    described,
    fetched,
    open_source,
)
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.reading import Artifact, RunView

HISTORY_FILE = "metrics.jsonl"
_IMPORTED_BY = "mlflow"
_OUTCOMES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "failed"}
_EVALUATING = {"eval", "evaluation", "test", "testing", "validation"}


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one thing of the store.

    Attributes:
        kind: `run`, `dataset`, `checkpoint`, `model` or `alias`.
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


@dataclass(slots=True)
class _Import:
    """What was done so far, by the ids of MLflow."""

    project: str
    source: Source
    versions: Sequence[Version]
    items: list[Item] = field(default_factory=list)
    runs: dict[str, Artifact] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    checkpoints: dict[str, Artifact] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    within_reach: set[str] = field(default_factory=set)

    def say(self, kind: str, source: str, outcome: str, reference: str | None, said: str) -> None:
        """Add to the receipt."""
        self.items.append(Item(kind, source, outcome, reference, said))


def import_mlflow(
    registry: Registry | None, source: str, project: str, *, experiment: str | None = None
) -> list[Item]:
    """Import a store into a project, and return what became of each thing; twice is once.

    Args:
        registry: Where to; nothing for a dry run, which says what would be imported.
        source: MLflow's database by path or URL, its folder `mlruns`, or its server's address.
        project: The project.
        experiment: This experiment alone, by name.

    Raises:
        SourceError: It is no MLflow store, cannot be read, or has no such experiment.
    """
    with open_source(source) as store:
        experiments = store.experiments()
        if experiment is not None:
            chosen = {key: name for key, name in experiments.items() if name == experiment}
            if not chosen:
                known = ", ".join(sorted(experiments.values()))
                raise SourceError(f"there is no experiment {experiment!r}; there is {known}.")
            experiments = chosen
        doing = _Import(project, store, store.versions())
        for run in store.runs(experiments):
            doing.seen.add(run.id)
            if run.status not in _OUTCOMES:
                said = f"it is {run.status} in MLflow; import it once it has ended."
                doing.say("run", f"run {run.id}", "skipped", None, said)
                continue
            try:
                _import_run(registry, doing, run)
            except (ArtifactError, OSError) as error:
                doing.say("run", f"run {run.id}", "skipped", None, str(error))
        for child, parent in doing.parents.items():
            if registry is not None and parent in doing.runs:
                registry.declare(doing.runs[child].id, doing.runs[parent].id, "parent_run")
        models = {
            (one.model, one.version): model
            for one in doing.versions
            if (model := _import_version(registry, doing, one)) is not None
        }
        for named, alias, version in store.aliases():
            doing.items.append(_import_alias(registry, named, alias, version, models))
        return doing.items


def _import_run(registry: Registry | None, doing: _Import, run: Run) -> None:
    name, source = _run_name(run), f"run {run.id}"
    places = _places(doing, run)
    count = sum(len(place.sizes) for place in places.values())
    if registry is None:
        said = f"{len(run.params)} parameters, {len(run.points)} points of metrics."
        doing.say("run", source, "planned", f"{doing.project}/{name}", said)
        for one in run.datasets:
            doing.say("dataset", f"{one.name} {one.digest}", "planned", None, f"used by {source}.")
        if count:
            reference = f"{doing.project}/{name}@{run.step}"
            doing.say("checkpoint", source, "planned", reference, f"{count} files.")
        return
    started, known = _begin(registry, doing.project, run, name)
    doing.runs[run.id] = started
    if "mlflow.parentRunId" in run.tags:
        doing.parents[run.id] = run.tags["mlflow.parentRunId"]
    outcome = "known" if known else "imported"
    doing.say("run", source, outcome, started.reference, f"it {run.status}.")
    for one in run.datasets:
        _import_dataset(registry, doing, started, one)
    if count:
        made, there = _import_files(registry, started, run, places)
        doing.checkpoints[run.id] = made
        outcome = "known" if there else "imported"
        doing.say("checkpoint", source, outcome, made.reference, f"{count} files.")
    ended = _OUTCOMES[run.status]
    registry.finish_run(started, ended, "" if ended == "finished" else f"MLflow says {run.status}.")


def _import_files(
    registry: Registry, started: Artifact, run: Run, places: Mapping[str, Place]
) -> tuple[Artifact, bool]:
    """Return a run's artifacts as a checkpoint, and whether it was there before."""
    saved = registry.checkpoints(started.project, started.name)
    there = next((one for one in saved if one.step == run.step), None)
    if there is not None and not any(place.here for place in places.values()):
        # What would have to be sent again is known by its paths and sizes.
        sizes = {entry.path: entry.size for entry in registry.files(there.id)}
        if sizes == {
            f"{prefix}{path}": size
            for prefix, place in places.items()
            for path, size in place.sizes.items()
        }:
            return there, True
    facts = {"metrics": run.metrics, "layout": _IMPORTED_BY}
    with fetched(places) as files:
        made = registry.publish_checkpoint(started, files, step=run.step, facts=facts)
    return made, there is not None


def _begin(registry: Registry, project: str, run: Run, name: str) -> tuple[Artifact, bool]:
    """Return the run as it is here, and whether it was imported before."""
    known = next((view for view in _runs(registry, project) if view.artifact.name == name), None)
    # What ended here is not begun again: a failed run would be resumed, and fail once more.
    if known is not None and known.state == _OUTCOMES[run.status]:
        started = known.artifact
    else:
        history = "".join(
            json.dumps({"name": key, "value": str(value), "step": step, "time": time}) + "\n"
            for key, value, step, time in run.points
        )
        code = {
            "imported_by": _IMPORTED_BY,
            "commit": run.tags.get("mlflow.source.git.commit"),
            "entry_point": run.tags.get("mlflow.source.name"),
        }
        about = {
            "run": run.id,
            "name": run.name,
            "experiment": run.experiment,
            "status": run.status,
            "began": run.began,
            "ended": run.ended,
            "tags": {k: v for k, v in run.tags.items() if not k.startswith("mlflow.")},
        }
        started = registry.start_run(
            project,
            name,
            params=dict(run.params),
            code={key: value for key, value in code.items() if value},
            files={HISTORY_FILE: history.encode()} if history else {},
            facts={"mlflow": about},
            annex={"user": run.user, "source": run.tags.get("mlflow.source.name")},
        )
    if started.record.code.get("imported_by") != _IMPORTED_BY:
        raise SourceError(f"the run {started.reference} was not imported; choose another project.")
    return started, known is not None


def _import_dataset(registry: Registry, doing: _Import, run: Artifact, one: Dataset) -> None:
    """Register what MLflow says of a dataset, and declare that a run used it."""
    source, about = f"{one.name} {one.digest}", described(one)
    facts: dict[str, object] = {}
    place = about.get("source")
    if isinstance(place, dict):
        uri = next((place[key] for key in ("uri", "url", "path") if place.get(key)), None)
        if uri:
            facts["sources"] = [{"uri": str(uri), "version": one.digest}]
    profile = about.get("profile")
    if isinstance(profile, dict) and isinstance(profile.get("num_rows"), int):
        facts["rows"] = profile["num_rows"]
    columns = (about.get("schema") or {}) if isinstance(about.get("schema"), dict) else {}
    if isinstance(columns.get("mlflow_colspec"), list):
        facts["columns"] = {
            str(column.get("name", place)): str(column.get("type"))
            for place, column in enumerate(columns["mlflow_colspec"])
        }
    try:
        known = {found.id for found in registry.datasets(doing.project)}
        name = _plain(one.name) or "dataset"
        files = {"mlflow.json": digest.canonical(about)}
        made = registry.publish_dataset(doing.project, name, files, facts=facts)
        use = "evaluation" if (one.context or "").lower() in _EVALUATING else "dataset"
        registry.declare(run.id, made.id, f"{use}:{made.name}")
    except ArtifactError as error:
        doing.say("dataset", source, "skipped", None, str(error))
        return
    said = f"{run.reference} used it; its rows stay where they are."
    doing.say("dataset", source, "known" if made.id in known else "imported", made.reference, said)


def _import_version(registry: Registry | None, doing: _Import, one: Version) -> Artifact | None:
    source = f"{one.model} version {one.version}"

    def skip(said: str) -> None:
        doing.say("model", source, "skipped", None, said)

    if one.run not in doing.seen:
        skip("its run is not in what is imported.")
    elif (one.place or "") not in doing.within_reach:
        skip(f"its files, at {one.place or 'no address'}, are not within reach.")
    elif registry is None:
        doing.say("model", source, "planned", None, f"from run {one.run}.")
    elif one.run not in doing.checkpoints:
        skip("its run was not imported, for the reason that is given there.")
    else:
        before = {model.id for model in registry.models(doing.project)}
        model = registry.publish_model(doing.checkpoints[one.run])
        _say_of_version(registry, model, one, source)
        outcome = "known" if model.id in before else "imported"
        doing.say("model", source, outcome, model.reference, f"from run {one.run}.")
        return model
    return None


def _say_of_version(registry: Registry, model: Artifact, one: Version, source: str) -> None:
    text = f"MLflow: {source}, stage {one.stage or 'None'}, made {one.made}."
    text += f" {one.description}" if one.description else ""
    for name, value in one.tags.items():
        try:
            registry.tag(model.id, name, value, f"MLflow: {source}")
        except InvalidNameError:
            text += f" Tag {name}: {value}."
    if text not in {note.text for note in registry.annotations(model.id)}:
        registry.annotate(model.id, text)


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


def _places(doing: _Import, run: Run) -> dict[str, Place]:
    """Return a run's artifacts, and the models made of it where they lie elsewhere, by prefix."""
    found: dict[str, Place] = {}
    place = doing.source.place(run.place)
    if place is not None:
        found[""] = place
    for one in doing.versions:
        if one.run != run.id or not one.place:
            continue
        inside = run.place is not None and one.place.startswith(f"{run.place.rstrip('/')}/")
        if inside and place is not None:
            below = one.place.removeprefix(run.place or "").strip("/") + "/"
            if any(path.startswith(below) for path in place.sizes):
                doing.within_reach.add(one.place)
            continue
        elsewhere = doing.source.place(one.place)
        if elsewhere is not None:
            doing.within_reach.add(one.place)
            found[f"models/{_plain(one.model)}-{one.version}/"] = elsewhere
    return found


def _run_name(run: Run) -> str:
    """Return a name that is one here: MLflow's own need be neither plain nor the only one."""
    return f"{_plain(run.name) or 'run'}-{run.id[:8]}"


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]


def _runs(registry: Registry, project: str) -> list[RunView]:
    return registry.runs(project) if project in registry.projects() else []
