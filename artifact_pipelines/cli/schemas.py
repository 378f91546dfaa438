"""The commands about schemas: what models look like to those who read them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from artifact_pipelines.cli.opening import listing, reading, writing
from artifact_pipelines.cli.output import Json, note, say, short, show_facts, show_json, show_table
from artifact_pipelines.cli.training import Project
from artifact_pipelines.errors import ConfigurationError

if TYPE_CHECKING:
    from artifact_pipelines.domain.schema import Layout, Mode
    from artifact_pipelines.registry.describing import Schema

schemas = typer.Typer(
    help="What models look like to those who read them, in versions.", no_args_is_help=True
)

Owner = Annotated[str, typer.Argument(metavar="PROJECT", help="The project.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The schema's name.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The layout, in YAML or JSON.")]
Asked = Annotated[
    str | None,
    typer.Option(
        "--mode",
        help="Who must still be able to read: BACKWARD, FORWARD, FULL or NONE, with _TRANSITIVE "
        "for all earlier versions; by default as for the version before, and FULL for the first.",
    ),
]


@schemas.command("list")
def list_schemas(project: Project = None, *, as_json: Json = False) -> None:
    """List schemas, every version of each."""
    with listing() as registry:
        found = [] if registry is None else [_row(one) for one in registry.schemas(project)]
    if as_json:
        show_json({"schemas": found})
        return
    if not found:
        say("There are no schemas yet.")
        note("Register one: artifact-pipelines schema register PROJECT NAME FILE")
        return
    show_table(
        "Schemas",
        ("=project", "=schema", "=mode", "=digest", "#leaf"),
        [
            (row["project"], row["schema"], row["mode"], short(row["digest"]), row["leaf"])
            for row in found
        ],
    )


@schemas.command("show")
def show_schema(
    project: Owner,
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Such as mlp or mlp@2.")],
    *,
    as_json: Json = False,
) -> None:
    """Show what a version of a schema says; the newest unless it is named."""
    import yaml

    with reading() as registry:
        found = registry.schema(project, name)
        layout = registry.layout(found)
    document = layout.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if as_json:
        show_json({**_row(found), "layout": document})
        return
    show_facts(
        f"{project}/{found.reference}",
        {"mode": found.mode.value, "digest": found.digest, "leaf": found.seq},
    )
    typer.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip())


@schemas.command("register")
def register_schema(
    project: Owner, name: Name, file: File, *, mode: Asked = None, as_json: Json = False
) -> None:
    """Register a layout as the next version; exit 1 where consumers could not read any more."""
    layout = _layout(file)
    with writing() as registry:
        found = registry.register_schema(project, name, layout, _mode(mode))
    if as_json:
        show_json(_row(found))
        return
    say(f"{project}/{found.reference} is registered, checked for {found.mode.value}.")
    note(f"Ask for it in a project's gates: {{schema: {found.reference}}}")


@schemas.command("check")
def check_schema(
    project: Owner, name: Name, file: File, *, mode: Asked = None, as_json: Json = False
) -> None:
    """Say whether a layout could be the next version; exit 1 where it could not."""
    layout = _layout(file)
    with reading() as registry:
        known = registry.schemas(project, name)
        reasons = registry.check_schema(project, name, layout, _mode(mode))
    asked = mode.upper() if mode else (known[-1].mode.value if known else "FULL")
    if as_json:
        show_json(
            {
                "ok": not reasons,
                "mode": asked,
                "against": known[-1].reference if known else None,
                "reasons": list(reasons),
            }
        )
    elif reasons:
        say(f"It may not follow {project}/{known[-1].reference}, checked for {asked}:")
        for reason in reasons:
            say(f"- {reason}")
    else:
        say(f"It may be version {len(known) + 1} of {project}/{name}, checked for {asked}.")
    if reasons:
        raise typer.Exit(1)


def _row(schema: "Schema") -> dict[str, Any]:
    return {
        "project": schema.project,
        "schema": schema.reference,
        "name": schema.name,
        "version": schema.version,
        "mode": schema.mode.value,
        "digest": schema.digest,
        "leaf": schema.seq,
    }


def _layout(file: Path) -> "Layout":
    """Return the layout in a file.

    Raises:
        ConfigurationError: There is none.
    """
    import yaml

    from artifact_pipelines.domain.schema import Layout
    from artifact_pipelines.errors import InvalidFormatError

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(f"the layout {file} cannot be read: {said}.") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"the layout {file} holds no mapping; see docs/gates.md.")
    try:
        return Layout.of(found)
    except InvalidFormatError as error:
        raise ConfigurationError(f"{file}: {error}") from None


def _mode(text: str | None) -> "Mode | None":
    from artifact_pipelines.domain.schema import Mode

    if text is None:
        return None
    try:
        return Mode(text.upper())
    except ValueError:
        raise ConfigurationError(
            f"the mode {text!r} is none; choose one of {', '.join(Mode)}."
        ) from None
