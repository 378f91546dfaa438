"""The commands about holds."""

from typing import TYPE_CHECKING, Annotated

import typer

from artifact_pipelines.cli.opening import listing, reading
from artifact_pipelines.cli.output import Json, moment, say, show_json, show_table

if TYPE_CHECKING:
    from artifact_pipelines.cli.shapes import Shape
    from artifact_pipelines.registry.holding import Hold

holds = typer.Typer(help="Keep artifacts from being forgotten.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="The artifact.")]
Name = Annotated[str, typer.Option("--name", help="The name of the hold.")]
Reason = Annotated[str, typer.Option("--reason", help="Why.")]


@holds.command("place")
def place_hold(
    reference: Reference,
    name: Name,
    reason: Reason,
    *,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Also hold all that it was made from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Keep an artifact from being forgotten, whatever a policy says, until the hold is lifted."""
    with reading() as registry:
        registry.place_hold(reference, name, reason, inputs=inputs)
        found = registry.find(reference).reference
    if as_json:
        show_json({"reference": found, "name": name, "placed": True})
        return
    say(f"{found} is on hold as {name!r}{', with all that it was made from' if inputs else ''}.")


@holds.command("lift")
def lift_hold(reference: Reference, name: Name, reason: Reason, *, as_json: Json = False) -> None:
    """Lift a hold; what else holds the artifact still does."""
    with reading() as registry:
        registry.lift_hold(reference, name, reason)
        found = registry.find(reference).reference
    if as_json:
        show_json({"reference": found, "name": name, "placed": False})
        return
    say(f"The hold {name!r} on {found} is lifted.")


@holds.command("list")
def list_holds(
    project: Annotated[str | None, typer.Argument(help="The project; all by default.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the holds that are in place, with who placed them and why."""
    with listing() as registry:
        found = [] if registry is None else [_shape(hold) for hold in registry.holds(project)]
    if as_json:
        show_json({"holds": found})
        return
    show_table(
        "Holds",
        ("=artifact", "name", "with inputs", "by", "since", "because"),
        [
            (
                hold["reference"],
                hold["name"],
                "yes" if hold["inputs"] else "no",
                hold["by"],
                moment(hold["since"]),
                hold["reason"],
            )
            for hold in found
        ],
    )


def _shape(hold: "Hold") -> "Shape":
    return {
        "reference": hold.artifact.reference,
        "artifact_id": hold.artifact.id,
        "name": hold.name,
        "reason": hold.reason,
        "inputs": hold.inputs,
        "by": hold.by,
        "since": hold.since,
    }
