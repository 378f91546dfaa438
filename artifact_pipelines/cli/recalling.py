"""The commands that withdraw artifacts."""

from typing import TYPE_CHECKING, Annotated

import typer

from artifact_pipelines.cli.opening import reading
from artifact_pipelines.cli.output import Json, Yes, ask, note, say, show_json, show_table

if TYPE_CHECKING:
    from artifact_pipelines.registry.recalling import Withdrawal

recalls = typer.Typer(help="Withdraw what must not be used any more.", no_args_is_help=True)

Of = Annotated[
    str | None, typer.Option("--artifact", help="A dataset or other artifact.", metavar="REF")
]
Package = Annotated[
    str | None, typer.Option("--package", help="What runs had installed: name or name==version.")
]
Licence = Annotated[
    str | None, typer.Option("--licence", help="An SPDX identifier in datasets' licences.")
]


@recalls.command("plan")
def plan_recall(
    artifact: Of = None, package: Package = None, licence: Licence = None, *, as_json: Json = False
) -> None:
    """Show everything that was made from something, before it is withdrawn."""
    _one_of(artifact, package, licence)
    with reading() as registry:
        found = registry.plan_recall(artifact=artifact, package=package, licence=licence)
    _show(found, as_json=as_json)


@recalls.command("run")
def run_recall(
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the ledger.")],
    artifact: Of = None,
    package: Package = None,
    licence: Licence = None,
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Withdraw something with everything made from it, and give a receipt."""
    _one_of(artifact, package, licence)
    with reading() as registry:
        plan = registry.plan_recall(artifact=artifact, package=package, licence=licence)
        count = len(plan.roots) + len(plan.descendants)
        ask(f"withdrawing {plan.what} stops {count} artifacts for ever", yes=yes)
        done = registry.recall(reason, artifact=artifact, package=package, licence=licence)
    _show(done, as_json=as_json)
    for place in done.serving if not as_json else ():
        note(f"{place} serves nothing now: artifact-pipelines model rollback {place}")


def _one_of(*given: str | None) -> None:
    if sum(one is not None for one in given) != 1:
        raise typer.BadParameter("name one of --artifact, --package and --licence.")


def _show(found: "Withdrawal", *, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "what": found.what,
                "withdrawn": [one.reference for one in found.roots],
                "descendants": [one.reference for one in found.descendants],
                "serving": list(found.serving),
                "leaves": list(found.leaves),
                "receipt": found.receipt,
            }
        )
        return
    show_table(
        f"Withdrawal of {found.what}",
        ("=artifact", "=state", "because"),
        [
            (one.reference, "recalled" if one.recalled else "in use", why)
            for why, group in (("itself", found.roots), ("made from it", found.descendants))
            for one in group
        ],
    )
    if found.receipt is not None:
        say(f"Receipt {found.receipt}, leaves {', '.join(map(str, found.leaves)) or 'none new'}.")
