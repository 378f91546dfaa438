"""The commands about encrypted projects."""

from typing import Annotated

import typer

from artifact_pipelines.cli.opening import listing, reading, writing
from artifact_pipelines.cli.output import Json, Yes, ask, note, say, show_json, show_table

scopes = typer.Typer(help="Projects that are encrypted at rest.", no_args_is_help=True)

Project = Annotated[str, typer.Argument(help="The project.")]


@scopes.command("create")
def create_scope(project: Project, *, as_json: Json = False) -> None:
    """Encrypt a project from its first artifact on."""
    with writing() as registry:
        found = registry.encrypt(project)
        folder = registry.keys.scopes.root
    if as_json:
        show_json({"project": found.project, "scope": found.id, "state": found.state})
        return
    say(f"{found.project} is encrypted; its key is in {folder}.")
    note("Keep a backup of that folder apart from the store: without it nothing can be read.")


@scopes.command("list")
def list_scopes(*, as_json: Json = False) -> None:
    """List the encrypted projects, and whether their keys are at hand."""
    with listing() as registry:
        found = [] if registry is None else registry.scopes()
    rows = [
        {
            "project": one.project,
            "scope": one.id,
            "state": one.state,
            "at_hand": one.at_hand,
            "trouble": one.trouble,
        }
        for one in found
    ]
    if as_json:
        show_json({"scopes": rows})
        return
    show_table(
        "Encrypted projects",
        ("project", "scope", "state", "trouble"),
        [(one.project, one.id, one.state, one.trouble) for one in found],
    )


@scopes.command("rotate")
def rotate_scope(project: Project, *, as_json: Json = False) -> None:
    """Wrap the data keys of a project with a new key; the former one is no longer of use."""
    with reading() as registry:
        wrapped = registry.rotate(project)
    if as_json:
        show_json({"project": project, "wrapped": wrapped})
        return
    say(f"{wrapped} data keys of {project} were wrapped with a new key.")
    note("Back up its key file again, and destroy the former backups.")


@scopes.command("shred")
def shred_scope(
    project: Project,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the ledger.")],
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Destroy the key of a project, so that nobody can read its bytes again."""
    with reading() as registry:
        ask(f"making every byte of {project} unreadable for ever", yes=yes)
        found = registry.shred(project, reason)
    if as_json:
        show_json({"project": found.project, "scope": found.id, "state": found.state})
        return
    say(f"The key of {found.project} is destroyed. Destroy its backups as well.")
