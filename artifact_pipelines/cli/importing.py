"""The commands that bring in what other tools keep."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from artifact_pipelines.cli.opening import writing
from artifact_pipelines.cli.output import Json, say, show_json, show_table

imports = typer.Typer(help="Bring in what other tools keep.", no_args_is_help=True)

Project = Annotated[str, typer.Option("--project", help="The project to import into.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be, and change nothing.")]
Receipt = Annotated[
    Path | None, typer.Option("--receipt", help="Also write what was done, as JSON, to a file.")
]


@imports.command("mlflow")
def import_mlflow(
    database: Annotated[Path, typer.Argument(help="MLflow's SQLite database, such as mlflow.db.")],
    project: Project,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="This one only, by name.")
    ] = None,
    receipt: Receipt = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Import runs, models, versions and aliases of an MLflow store; it is only read."""
    from artifact_pipelines.integrations.mlflow_store import import_mlflow

    with contextlib.nullcontext() if dry_run else writing() as registry:
        items = import_mlflow(registry, database, project, experiment=experiment)
    shape = {
        "source": str(database),
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
            "MLflow",
            ("kind", "there", "=outcome", "=here", "said"),
            [(one.kind, one.source, one.outcome, one.reference, one.said) for one in items],
        )
    else:
        say("The store has nothing to import.")
