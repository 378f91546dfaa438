"""The commands about the inbox."""

from typing import Annotated

import typer

from artifact_pipelines.cli.opening import writing
from artifact_pipelines.cli.output import Json, say, show_json, show_table

inbox = typer.Typer(
    help="Checkpoints that others leave in a folder or bucket.", no_args_is_help=True
)


@inbox.command("scan")
def scan(
    inbox: Annotated[
        str, typer.Argument(help="A folder, or s3://bucket/prefix, of project/run/drop.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Import complete checkpoints and report on the others; exit 1 when one is refused."""
    with writing() as registry:
        drops = registry.receive(inbox)
    if as_json:
        show_json(
            {
                "drops": [
                    {
                        "path": drop.path,
                        "layout": drop.layout,
                        "outcome": drop.outcome,
                        "reference": drop.reference,
                        "said": drop.said,
                    }
                    for drop in drops
                ]
            }
        )
    elif drops:
        show_table(
            "Inbox",
            ("drop", "layout", "=outcome", "said"),
            [(drop.path, drop.layout, drop.outcome, drop.said) for drop in drops],
        )
    else:
        say("The inbox is empty.")
    if any(drop.outcome == "refused" for drop in drops):
        raise typer.Exit(1)
