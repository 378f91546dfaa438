"""The command that brings Dagster's view up to the catalog."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifact_pipelines.cli.opening import projects, reading, settings
from artifact_pipelines.cli.output import Json, note, say, show_json
from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.settings import default_home, prepare_dagster_home, wrote_environment

if TYPE_CHECKING:
    from dagster import DagsterInstance

dagster = typer.Typer(help="Dagster, which shows what the registry holds.", no_args_is_help=True)


@dagster.command("prepare")
def prepare_dagster(*, as_json: Json = False) -> None:
    """Make the Dagster home, and the `.env` by which Dagster's commands find it from here."""
    found = settings()
    here = Path.cwd()
    folder = prepare_dagster_home(found, here)
    if as_json:
        show_json({"dagster_home": str(folder), "environment": str(here / ".env")})
        return
    named = default_home(here) / "dagster"
    if not wrote_environment(here):
        say(f"{folder} is ready. The .env here is your own: it has to set DAGSTER_HOME to that.")
    elif folder != named:
        say(f"{folder} is ready, as the variables of this shell ask for it.")
        note(f"Without them, .env leads the commands that start here to {named}.")
    else:
        say(f"{folder} is ready, and .env names it for the commands that start here.")


@dagster.command("sync")
def sync_dagster(
    project: Annotated[str | None, typer.Argument(help="One project; all when left out.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Report to Dagster what it does not show: after deleted runs, wiped assets, a new instance."""
    from artifact_pipelines.defs.sync import sync

    with reading() as registry, _instance() as instance:
        found = [sync(registry, instance, name) for name in projects(registry, project)]
    if as_json:
        rows = [
            {
                "project": one.project,
                "partitions_added": list(one.added),
                "partitions_removed": list(one.removed),
                "events": one.events,
                "busy": list(one.busy),
            }
            for one in found
        ]
        show_json({"projects": rows})
        return
    for one in found:
        if not (one.added or one.removed or one.events or one.busy):
            say(f"{one.project}: Dagster shows what the registry holds.")
            continue
        said = (
            f"{one.project}: {one.events} events reported, {len(one.added)} partitions added, "
            f"{len(one.removed)} removed."
        )
        say(f"{said} Being worked on: {', '.join(one.busy)}." if one.busy else said)


def _instance() -> "DagsterInstance":
    """Return the Dagster instance that this installation uses."""
    import dagster as dg

    home = os.environ.get("DAGSTER_HOME") or str(prepare_dagster_home(settings()))
    try:
        return dg.DagsterInstance.from_config(home)
    except (dg.DagsterInvalidConfigError, OSError) as error:
        raise ConfigurationError(
            f"the Dagster instance in {home} cannot be opened: {str(error).splitlines()[0]}"
        ) from error
