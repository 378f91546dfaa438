"""The command line: nouns, then verbs; thin over the registry."""

import json
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from artifact_pipelines.cli import (
    annotating,
    asking,
    auditing,
    comparing,
    encrypting,
    exporting,
    holding,
    importing,
    keeping,
    mirroring,
    proving,
    recalling,
    receiving,
    schemas,
    serving,
    starting,
    sweeping,
    tracing,
    training,
    up,
    watching,
)
from artifact_pipelines.cli.opening import settings
from artifact_pipelines.cli.output import Json, complain, note
from artifact_pipelines.errors import (
    ArtifactError,
    DigestMismatchError,
    InvalidFormatError,
    LedgerError,
    MissingObjectError,
    QuarantinedError,
    RefusedError,
)

DAMAGED_OR_REFUSED = 1
USAGE = 2
_VERDICTS = (
    DigestMismatchError,
    InvalidFormatError,
    LedgerError,
    MissingObjectError,
    QuarantinedError,
    RefusedError,
)


class Commands(TyperGroup):
    """Commands whose errors are one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  as Typer has it
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ArtifactError as error:
            complain(str(error))
            code = DAMAGED_OR_REFUSED if isinstance(error, _VERDICTS) else USAGE
            raise typer.Exit(code) from None
        except OSError as error:
            # The store's own errors are ours: this is a file that the command was told to use.
            if error.filename is None:
                raise
            complain(f"{error.filename} cannot be used: {error.strerror}.")
            raise typer.Exit(USAGE) from None
        except Exception as error:
            if _of_database(error):
                complain(f"the catalog cannot be used: {str(error).splitlines()[0]}")
                raise typer.Exit(USAGE) from None
            raise


app = typer.Typer(
    name="artifact-pipelines",
    cls=Commands,
    help="A governed repository for machine-learning artifacts, carried by Dagster.",
    epilog="References: digits/run-0007@120 · digits/v3 · digits@production · digits/images@3",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(on: bool) -> None:
    if on:
        typer.echo(version("artifact-pipelines"))
        raise typer.Exit


@app.callback()
def options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    """Take the options that come before a noun."""


@app.command()
def demo(
    *,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over in a home that the demo made.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Go from data to a promoted model and back, through Dagster, in about half a minute."""
    from artifact_pipelines.demo import clear_demo, run_demo, show_summary

    found = settings()
    if fresh:
        clear_demo(found)
    summary = run_demo(found, note)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        show_summary(summary)


serving.models.command("compare")(comparing.compare_models)
serving.models.command("provenance")(proving.show_provenance)
auditing.audit.command("export")(proving.export_bundle)
auditing.audit.command("verify-bundle")(proving.verify_exported)
auditing.audit.command("erase")(proving.erase)
auditing.audit.command("witness")(proving.witness_log)
app.command()(auditing.doctor)
app.command(epilog=asking.SEARCH)(asking.search)
app.command()(exporting.export)
training.runs.command("events")(exporting.events)
training.runs.command("reproduce")(exporting.reproduce)
serving.models.command("card")(exporting.card)
app.command()(starting.init)
training.runs.command("start")(sweeping.start_runs)
training.runs.command("withdraw")(sweeping.withdraw_run)
app.command()(up.up)
app.add_typer(training.runs, name="run")
app.add_typer(training.checkpoints, name="checkpoint")
app.add_typer(serving.models, name="model")
app.add_typer(training.datasets, name="dataset")
app.add_typer(schemas.schemas, name="schema")
app.add_typer(tracing.lineage, name="lineage")
app.add_typer(receiving.inbox, name="inbox")
app.add_typer(importing.imports, name="import")
app.add_typer(keeping.retention, name="retention")
app.add_typer(holding.holds, name="hold")
app.add_typer(keeping.archive, name="archive")
app.add_typer(keeping.restore, name="restore")
app.add_typer(keeping.prune, name="prune")
app.add_typer(keeping.storage, name="storage")
app.add_typer(recalling.recalls, name="recall")
app.add_typer(annotating.aliases, name="alias")
app.add_typer(annotating.tags, name="tag")
app.add_typer(annotating.notes, name="note")
app.add_typer(annotating.banners, name="banner")
app.add_typer(encrypting.scopes, name="scope")
app.add_typer(auditing.audit, name="audit")
app.add_typer(auditing.keys, name="key")
app.add_typer(auditing.catalog, name="catalog")
app.add_typer(watching.metrics, name="metrics")
app.add_typer(mirroring.dagster, name="dagster")


def main() -> None:
    """Run the command line."""
    app()


def _of_database(error: Exception) -> bool:
    # SQLAlchemy is slow to import; if its error was raised, it is there.
    module = sys.modules.get("sqlalchemy.exc")
    return module is not None and isinstance(error, module.SQLAlchemyError)
