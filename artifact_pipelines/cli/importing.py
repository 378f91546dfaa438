"""The commands that bring in what other tools keep."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifact_pipelines.cli.opening import writing
from artifact_pipelines.cli.output import Json, say, show_json, show_table

if TYPE_CHECKING:
    from artifact_pipelines.integrations.mlflow_store import Item

imports = typer.Typer(help="Bring in what other tools keep.", no_args_is_help=True)

Project = Annotated[str, typer.Option("--project", help="The project to import into.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be, and change nothing.")]
Receipt = Annotated[
    Path | None, typer.Option("--receipt", help="Also write what was done, as JSON, to a file.")
]


@imports.command("mlflow")
def import_mlflow(
    store: Annotated[
        str,
        typer.Argument(
            help="MLflow's SQLite file, its folder mlruns, the URL of its Postgres database, or "
            "the address of its server."
        ),
    ],
    project: Project,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="This one only, by name.")
    ] = None,
    receipt: Receipt = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Import runs, datasets, models, versions and aliases of an MLflow store, only read."""
    from artifact_pipelines.integrations.mlflow_source import shown
    from artifact_pipelines.integrations.mlflow_store import import_mlflow

    with contextlib.nullcontext() if dry_run else writing() as registry:
        items = import_mlflow(registry, store, project, experiment=experiment)
    _show("MLflow", shown(store), project, items, receipt, dry_run=dry_run, as_json=as_json)


@imports.command("huggingface")
def import_huggingface(
    folder: Annotated[Path, typer.Argument(help="The folder, with config.json and weights.")],
    project: Project,
    run: Annotated[str, typer.Option("--run", help="The name of the run that it becomes.")],
    base: Annotated[
        str | None, typer.Option("--base", help="The checkpoint or model it was made from.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="What it was trained on; repeatable.")
    ] = None,
    receipt: Receipt = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Import a model folder as Hugging Face's libraries save it; it is only read."""
    from artifact_pipelines.integrations.model_folder import import_model_folder

    with writing() as registry:
        items = import_model_folder(
            registry, folder, project, run, base=base, datasets=dataset or (), dry_run=dry_run
        )
    _show("Hugging Face", str(folder), project, items, receipt, dry_run=dry_run, as_json=as_json)


def _show(
    title: str,
    source: str,
    project: str,
    items: "list[Item]",
    receipt: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    shape = {
        "source": source,
        "project": project,
        "dry_run": dry_run,
        "items": [asdict(item) for item in items],
    }
    if receipt is not None:
        receipt.write_text(json.dumps(shape, indent=2), encoding="utf-8")
    if as_json:
        show_json(shape)
    elif items:
        show_table(
            title,
            ("kind", "there", "=outcome", "=here", "said"),
            [(one.kind, one.source, one.outcome, one.reference, one.said) for one in items],
        )
    else:
        say("The store has nothing to import.")
