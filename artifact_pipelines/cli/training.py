"""The commands about training runs, checkpoints and datasets."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifact_pipelines.cli import shapes
from artifact_pipelines.cli.opening import listing, projects, reading, writing
from artifact_pipelines.cli.output import (
    Json,
    figures,
    lately,
    moment,
    note,
    say,
    short,
    show_facts,
    show_json,
    show_table,
    size,
)
from artifact_pipelines.cli.tracing import compare_runs, diff_checkpoints, prove_resume
from artifact_pipelines.errors import ConflictError, SourceError, UnknownArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.reading import Artifact
    from artifact_pipelines.registry.sweeping import PlannedRun

runs = typer.Typer(help="Training runs.", no_args_is_help=True)
checkpoints = typer.Typer(help="What training runs saved.", no_args_is_help=True)
datasets = typer.Typer(help="The data that models are trained and judged on.", no_args_is_help=True)

Project = Annotated[str | None, typer.Argument(help="One project; all when left out.")]
Reference = Annotated[
    str, typer.Argument(help="Such as digits/run-0007@120, or a digest's digits.")
]
Target = Annotated[Path, typer.Option("--to", help="The folder to make.")]

_IMPORT = {"imported_by": "artifact-pipelines checkpoint import"}


@runs.command("list")
def list_runs(project: Project = None, *, as_json: Json = False) -> None:
    """List training runs, oldest first."""
    with listing() as registry:
        names = projects(registry, project)
        found = [] if registry is None else [run for name in names for run in registry.runs(name)]
        planned = [] if registry is None else registry.planned(names)
        silent = (
            set()
            if registry is None
            else {
                one.artifact.id
                for one in found
                if one.state == "running" and not registry.in_training(one.artifact)
            }
        )
    if as_json:
        show_json(
            {
                "runs": [shapes.run(view) for view in found],
                "planned": [shapes.planned(run) for run in planned],
            }
        )
        return
    if not found and not planned:
        _say_empty("runs")
        return
    if planned:
        show_planned(planned)
    if not found:
        return
    show_table(
        "Training runs",
        ("=run", "=state", "#step", "last metrics", "=begun"),
        [
            (
                view.artifact.reference,
                "silent" if view.artifact.id in silent else view.state,
                view.checkpoints[-1].step if view.checkpoints else "",
                figures(view.checkpoints[-1].metrics, 1) if view.checkpoints else "",
                lately(view.artifact.published),
            )
            for view in found
        ],
    )
    if silent:
        note("silent: no process trains it. It goes on when it is begun again under its name.")


@runs.command("show")
def show_run(reference: Reference, *, as_json: Json = False) -> None:
    """Show a training run with its inputs and checkpoints."""
    with reading() as registry:
        artifact = registry.find(reference)
        if artifact.kind != "training_run":
            raise UnknownArtifactError(
                f"{reference} is a {_kind(artifact)}, not a run; write {artifact.project}/run-name."
            )
        view = registry.run(artifact.project, artifact.name)
        state = f"{view.state}: {view.reason}" if view.reason else view.state
        if view.state == "running" and not registry.in_training(artifact):
            last = view.checkpoints[-1] if view.checkpoints else artifact
            state = (
                f"running, no sign of life since {moment(last.published)}: no process trains it; "
                "it goes on when it is begun again under its name"
            )
        shape = shapes.details(registry, artifact) | {
            "run_state": view.state,
            "reason": view.reason,
            "checkpoints": [shapes.artifact(found) for found in view.checkpoints],
        }
    if as_json:
        show_json(shape)
        return
    show_facts(
        artifact.reference,
        {
            "state": state,
            "begun": moment(artifact.published),
            "parameters": ", ".join(f"{name} {value}" for name, value in shape["params"].items()),
            "made from": "\n".join(
                f"{item['role']}  {item['reference']}" for item in shape["inputs"]
            ),
            "artifact id": artifact.id,
        },
    )
    if view.checkpoints:
        _show_checkpoints("Checkpoints", view.checkpoints)


@checkpoints.command("list")
def list_checkpoints(
    scope: Annotated[
        str | None, typer.Argument(help="A project, or a run such as digits/run-0007.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List checkpoints by run and step."""
    project, _, run = (scope or "").partition("/")
    with listing() as registry:
        names = projects(registry, project or None)
        found: list[Artifact] = []
        if registry is not None:
            if run:
                registry.run(project, run)
            for name in names:
                found += registry.checkpoints(name, run or None)
    if as_json:
        show_json({"checkpoints": [shapes.artifact(one) for one in found]})
    elif found:
        _show_checkpoints("Checkpoints", found)
    else:
        _say_empty("checkpoints")


runs.command("compare")(compare_runs)
checkpoints.command("diff")(diff_checkpoints)
checkpoints.command("prove-resume")(prove_resume)


@checkpoints.command("show")
def show_checkpoint(reference: Reference, *, as_json: Json = False) -> None:
    """Show a checkpoint with its files and metrics."""
    _show(reference, as_json=as_json)


@checkpoints.command("fetch")
def fetch_checkpoint(
    reference: Reference,
    to: Target,
    path: Annotated[
        list[str] | None, typer.Option("--only", "--path", help="Only this file; may be repeated.")
    ] = None,
    tensor: Annotated[
        list[str] | None,
        typer.Option("--tensor", help="Only this tensor, into tensors.safetensors; repeatable."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Write a checkpoint's files to a folder, verified, all or nothing."""
    if tensor and path:
        raise typer.BadParameter("give --only or --tensor, not both.")
    fetch(reference, to, path, tensor, as_json=as_json)


@checkpoints.command("verify")
def verify_checkpoints(
    references: Annotated[list[str], typer.Argument(metavar="REFERENCE…", help="What to verify.")],
    *,
    as_json: Json = False,
) -> None:
    """Read every byte again and compare it with its digest; exit 1 where one differs."""
    with reading() as registry:
        found = [registry.verify(reference) for reference in references]
    ok = all(one.ok for one in found)
    if as_json:
        show_json({"ok": ok, "artifacts": [shapes.verification(one) for one in found]})
    else:
        for one in found:
            if one.ok:
                say(
                    f"{one.reference}: {one.files} files, {size(one.size)}, every byte as recorded."
                )
            for sentence in one.damaged:
                say(f"DAMAGED {sentence}")
    if not ok:
        raise typer.Exit(1)


@checkpoints.command("import")
def import_checkpoint(
    path: Annotated[Path, typer.Argument(help="A file, or a folder with everything in it.")],
    project: Annotated[str, typer.Option("--project", help="The project.")],
    run: Annotated[str, typer.Option("--run", help="The run's name; made when it is new.")],
    step: Annotated[int, typer.Option("--step", min=0, help="After how many training steps.")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="name=value; may be repeated.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="A dataset it was trained on; may be repeated."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Register a checkpoint that was trained elsewhere."""
    facts = {"metrics": dict(_metric(text) for text in metric or ())}
    files = _files(path)
    with writing() as registry:
        trained_on = [_dataset(registry, reference) for reference in dataset or ()]
        started = _imported_run(registry, project, run)
        made = registry.publish_checkpoint(started, files, step=step, facts=facts)
        # Nobody here saw that it was trained on them: it is said.
        for one in trained_on:
            registry.declare(started.id, one.id, f"dataset:{one.name}")
        registry.finish_run(started, "finished")
    if as_json:
        show_json(shapes.artifact(made))
    else:
        say(
            f"{made.reference}: {len(files)} files, {size(made.size)}, "
            f"content {short(made.content)}."
        )


@datasets.command("list")
def list_datasets(project: Project = None, *, as_json: Json = False) -> None:
    """List dataset versions, oldest first."""
    with listing() as registry:
        names = projects(registry, project)
        found = (
            [] if registry is None else [one for name in names for one in registry.datasets(name)]
        )
    if as_json:
        show_json({"datasets": [shapes.artifact(one) | _rows(one) for one in found]})
        return
    if not found:
        _say_empty("datasets")
        return
    show_table(
        "Datasets",
        ("=dataset", "#rows", "#size", "=content", "registered"),
        [
            (
                one.reference,
                one.record.facts.get("rows"),
                size(one.size),
                short(one.content),
                moment(one.published)[:16],
            )
            for one in found
        ],
    )


@datasets.command("show")
def show_dataset(reference: Reference, *, as_json: Json = False) -> None:
    """Show a dataset version with its files."""
    _show(reference, as_json=as_json)


@datasets.command("import")
def import_dataset(
    path: Annotated[Path, typer.Argument(help="A .parquet or .csv table, a file or a folder.")],
    project: Annotated[str, typer.Option("--project", help="The project.")],
    name: Annotated[str, typer.Option("--name", help="The dataset's name.")],
    licence: Annotated[
        str | None, typer.Option("--licence", help="An SPDX expression, such as CC-BY-4.0.")
    ] = None,
    sensitive: Annotated[
        list[str] | None,
        typer.Option("--sensitive", help="A kind of sensitive data in it; may be repeated."),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="A URI it comes from; may be repeated.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", help="Who answers for it: team:name or an e-mail.")
    ] = None,
    *,
    harmless: Annotated[
        bool, typer.Option("--not-sensitive", help="Say that it holds nothing sensitive.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register a dataset; a table is described column by column."""
    from artifact_pipelines.sdk.datasets import register_dataset

    if not path.exists():
        raise SourceError(f"there is no file or folder {str(path)!r}.")
    made = register_dataset(
        project,
        name,
        _table(path),
        licence=licence,
        sensitivity=sensitive or ([] if harmless else None),
        sources=source or None,
        owner=owner,
    )
    if as_json:
        show_json(shapes.artifact(made) | _rows(made))
    else:
        say(f"{made.reference}: {size(made.size)}, content {short(made.content)}.")


def show_planned(planned: "Sequence[PlannedRun]") -> None:
    """Print planned runs as a table."""
    show_table(
        "Planned runs",
        ("=run", "parameters", "=plan"),
        [
            (
                f"{run.project}/{run.name}",
                ", ".join(f"{name} {value}" for name, value in run.params.items()),
                run.plan,
            )
            for run in planned
        ],
    )


def fetch(
    reference: str,
    to: Path,
    paths: list[str] | None,
    tensors: list[str] | None = None,
    *,
    as_json: bool,
) -> None:
    """Write an artifact's files to a folder and say so."""
    with reading() as registry:
        found = registry.find(reference)
        if tensors:
            place = registry.fetch_tensors(found.id, tensors, to)
        else:
            place = registry.fetch(found.id, to, paths or None)
    if as_json:
        show_json(shapes.artifact(found) | {"folder": str(place)})
    else:
        say(f"{found.reference} is in {place}, verified.")


def _table(path: Path) -> object:
    """Return a table where a file holds one, else the path."""
    if path.suffix == ".csv":
        import pandas as pd

        return pd.read_csv(path)
    if path.suffix == ".parquet":
        import pandas as pd

        return pd.read_parquet(path)
    return path


def _show(reference: str, *, as_json: bool) -> None:
    with reading() as registry:
        found = registry.find(reference)
        shape = shapes.details(registry, found)
    if as_json:
        show_json(shape)
        return
    facts: dict[str, object] = {
        "kind": _kind(found),
        "state": "recalled" if found.recalled else found.state,
        "registered": moment(found.published),
        "size": size(found.size),
    }
    facts |= {name: f"{value:.6g}" for name, value in sorted(found.metrics.items())}
    facts |= {
        name: value
        for name, value in shape["facts"].items()
        if isinstance(value, str | int | float)
    }
    facts |= {
        "made from": "\n".join(f"{item['role']}  {item['reference']}" for item in shape["inputs"]),
        "content": found.content,
        "artifact id": found.id,
    }
    show_facts(found.reference, facts)
    show_table(
        "Files",
        ("path", "#size", "sha256"),
        [
            (entry["path"], size(entry["size_bytes"]), short(entry["sha256"]))
            for entry in shape["files"]
        ],
    )


def _show_checkpoints(title: str, found: "list[Artifact] | tuple[Artifact, ...]") -> None:
    show_table(
        title,
        ("=checkpoint", "#size", "metrics", "=content", "=state"),
        [
            (one.reference, size(one.size), figures(one.metrics, 1), short(one.content), one.state)
            for one in found
        ],
    )


def _say_empty(what: str) -> None:
    say(f"There are no {what} yet.")
    note("Try: artifact-pipelines demo")


def _kind(artifact: "Artifact") -> str:
    return str(artifact.kind).replace("_", " ")


def _rows(artifact: "Artifact") -> dict[str, object]:
    return {"rows": artifact.record.facts.get("rows")}


def _metric(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = None
    if not (name and separator) or number is None:
        raise typer.BadParameter(f"{text!r} is not name=value with a number.")
    return name, number


def _files(path: Path) -> dict[str, Path | bytes]:
    """Return the files to import by their paths inside the checkpoint."""
    if not path.is_dir():
        return {path.name: path}
    found: dict[str, Path | bytes] = {}

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename} cannot be read: {error.strerror}.") from error

    for folder, folders, names in os.walk(path, onerror=refuse):
        folders.sort()
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            # Links are in it too, so that they are refused and not silently left out.
            source = Path(folder) / name
            found[source.relative_to(path).as_posix()] = source
    if not found:
        raise SourceError(f"the folder {path} has no files.")
    return found


def _dataset(registry: "Registry", reference: str) -> "Artifact":
    found = registry.find(reference)
    if found.kind != "dataset":
        raise SourceError(f"{reference} is a {_kind(found)}, not a dataset.")
    return found


def _imported_run(registry: "Registry", project: str, name: str) -> "Artifact":
    """Return the run that imported checkpoints belong to.

    Raises:
        ConflictError: The name is that of a run that was trained here.
    """
    for view in registry.runs(project):
        if view.artifact.name == name and dict(view.artifact.record.code) != _IMPORT:
            raise ConflictError(
                f"the run {project}/{name} was trained here, and is not added to from outside; "
                "choose another run name."
            )
    return registry.start_run(project, name, code=_IMPORT)
