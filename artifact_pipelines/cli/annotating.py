"""The commands about what people say: aliases, tags, notes and banners."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from artifact_pipelines.cli.opening import reading
from artifact_pipelines.cli.output import Json, moment, say, show_json, show_table

if TYPE_CHECKING:
    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.annotating import Annotation
    from artifact_pipelines.registry.reading import Artifact

aliases = typer.Typer(help="Names of models that move without proof.", no_args_is_help=True)
tags = typer.Typer(help="Tags of artifacts.", no_args_is_help=True)
notes = typer.Typer(help="Notes on artifacts.", no_args_is_help=True)
banners = typer.Typer(help="Lines shown over artifacts and projects.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="Such as digits/v3 or digits/run-0007@120.")]
Project = Annotated[str, typer.Argument(help="The project.")]
Name = Annotated[str, typer.Argument(help="Its name.")]
Subject = Annotated[str, typer.Argument(help="An artifact, or a project's name.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the ledger.")]


@aliases.command("set")
def set_alias(reference: Reference, name: Name, reason: Reason = "") -> None:
    """Have an alias such as champion name a model."""
    with reading() as registry:
        model = registry.set_alias(reference, name, reason)
    say(f"{model.project}@{name} is {model.reference}.")


@aliases.command("remove")
def remove_alias(project: Project, name: Name, reason: Reason = "") -> None:
    """Take an alias away."""
    with reading() as registry:
        registry.remove_alias(project, name, reason)
    say(f"{project}@{name} names nothing any more.")


@aliases.command("list")
def list_aliases(project: Project, *, as_json: Json = False) -> None:
    """List the aliases of a project."""
    with reading() as registry:
        found = registry.aliases(project)
    rows = [
        {"alias": name, "reference": model.reference, "artifact_id": model.id}
        for name, model in found.items()
    ]
    if as_json:
        show_json({"project": project, "aliases": rows})
    else:
        show_table(
            "Aliases", ("alias", "=model"), [(row["alias"], row["reference"]) for row in rows]
        )


@tags.command("set")
def set_tag(
    reference: Reference,
    name: Name,
    value: Annotated[str, typer.Argument(help="Its value.")],
    reason: Reason = "",
) -> None:
    """Give an artifact a tag; retention policies may go by it."""
    with reading() as registry:
        artifact = registry.tag(reference, name, value, reason)
    say(f"{artifact.reference} has the tag {name}={value}.")


@tags.command("remove")
def remove_tag(reference: Reference, name: Name, reason: Reason = "") -> None:
    """Take a tag away."""
    with reading() as registry:
        artifact = registry.tag(reference, name, None, reason)
    say(f"{artifact.reference} has no tag {name}.")


@notes.command("add")
def add_note(
    reference: Reference,
    text: Annotated[str, typer.Argument(help="What there is to say.")],
    reason: Reason = "",
) -> None:
    """Add a note to an artifact; `audit erase` can take its words back."""
    with reading() as registry:
        artifact = registry.annotate(reference, text, reason)
    say(f"{artifact.reference} has a note more.")


@notes.command("list")
def list_notes(reference: Reference, *, as_json: Json = False) -> None:
    """List what was said about an artifact: banners, tags, aliases and notes."""
    with reading() as registry:
        found = registry.find(reference)
        shape = said_about(registry, found)
    if as_json:
        show_json({"reference": found.reference, **shape})
    else:
        show_said(shape)


@banners.command("set")
def set_banner(
    subject: Subject,
    text: Annotated[str, typer.Argument(help="The line.")],
    reason: Reason = "",
) -> None:
    """Show a line over an artifact or a whole project."""
    with reading() as registry:
        registry.set_banner(subject, text, reason)
    say(f"{subject} stands under the banner: {text}")


@banners.command("remove")
def remove_banner(subject: Subject, reason: Reason = "") -> None:
    """Take the banner down."""
    with reading() as registry:
        registry.set_banner(subject, None, reason)
    say(f"{subject} stands under no banner.")


def said_about(registry: "Registry", found: "Artifact") -> dict[str, Any]:
    """Return what people said about an artifact."""
    return {
        "aliases": [
            name for name, model in registry.aliases(found.project).items() if model.id == found.id
        ],
        "tags": registry.tags(found.id),
        "notes": [_note(note) for note in registry.annotations(found.id)],
        "banners": [_note(banner) for banner in registry.banners(found)],
    }


def show_said(shape: dict[str, Any]) -> None:
    """Print what people said, where they said anything."""
    for banner in shape["banners"]:
        say(f"! {banner['text']} ({banner['actor']}, {moment(banner['time'])})")
    said = [("alias", name, "", "", "") for name in shape["aliases"]]
    said += [("tag", f"{name}={value}", "", "", "") for name, value in shape["tags"].items()]
    said += [
        ("note", note["text"], note["reason"], note["actor"], moment(note["time"]))
        for note in shape["notes"]
    ]
    if said:
        show_table("Said about it", ("what", "text", "why", "who", "=when"), said)


def _note(found: "Annotation") -> dict[str, Any]:
    return {
        "leaf": found.seq,
        "time": found.time,
        "actor": found.actor,
        "text": found.text,
        "reason": found.reason,
    }
