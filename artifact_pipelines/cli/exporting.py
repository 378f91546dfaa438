"""The commands that hand on what the registry holds."""

import json
from pathlib import Path
from typing import Annotated

import typer

from artifact_pipelines.cli.opening import reading
from artifact_pipelines.cli.output import Json, say, show_json


def export(
    what: Annotated[str, typer.Argument(help="A project, or a reference such as digits/v3.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to fill; empty or new.")],
    *,
    as_json: Json = False,
) -> None:
    """Write artifacts as plain files with their records, verified; nothing is changed."""
    with reading() as registry:
        found = registry.export(what, to)
    if as_json:
        show_json({"folder": str(to), "artifacts": [one.reference for one in found]})
    else:
        say(f"{len(found)} artifact{' is' if len(found) == 1 else 's are'} in {to}, verified.")


def card(reference: Annotated[str, typer.Argument(help="Such as digits@production.")]) -> None:
    """Print the Hugging Face model card of a model."""
    with reading() as registry:
        typer.echo(registry.model_card(reference), nl=False)


def events(reference: Annotated[str, typer.Argument(help="Such as digits/run-1.")]) -> None:
    """Print the OpenLineage events of a training run, one JSON object a line."""
    with reading() as registry:
        for event in registry.run_events(reference):
            typer.echo(json.dumps(event))


def reproduce(
    reference: Annotated[str, typer.Argument(help="Such as digits/run-1.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to fill; empty or new.")],
    *,
    as_json: Json = False,
) -> None:
    """Write a script and a lock file that train a run again and compare its checkpoints."""
    from artifact_pipelines.sdk.repeating import write_reproduction

    with reading() as registry:
        run = write_reproduction(registry, reference, to)
    if as_json:
        show_json({"run": run.reference, "folder": str(to), "script": str(to / "reproduce.py")})
    else:
        say(f"To train {run.reference} again: python {to / 'reproduce.py'}")
