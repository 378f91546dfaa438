"""The commands that take evidence out of the registry, and check it elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from artifact_pipelines.cli.opening import reading
from artifact_pipelines.cli.output import Json, Yes, ask, say, show_facts, show_json

Key = Annotated[
    str | None, typer.Option("--key", help="The log's public key, known from elsewhere.")
]
Head = Annotated[Path | None, typer.Option("--head", help="A file with a tree head that you kept.")]


def export_bundle(
    reference: Annotated[str, typer.Argument(help="Such as digits@production or digits/v3.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder.")],
    *,
    no_bytes: Annotated[
        bool, typer.Option("--no-bytes", help="Leave the artifact's files out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the proof of an artifact or stage to a folder that checks itself with Python alone.

    Exits with 1 where the evidence does not hold; the folder is written all the same.
    """
    with reading() as registry:
        bundle = registry.export_bundle(reference, to, with_bytes=not no_bytes)
    _show(bundle.report, {"folder": str(bundle.folder)}, as_json=as_json)


def verify_exported(
    folder: Annotated[Path, typer.Argument(help="An exported folder.")],
    key: Key = None,
    head: Head = None,
    *,
    as_json: Json = False,
) -> None:
    """Check an exported folder, without a registry; exit 1 and say why where it does not hold."""
    from artifact_pipelines.registry.bundling import verify_bundle

    _show(verify_bundle(folder, key, head), {}, as_json=as_json)


def witness_log(
    to: Annotated[Path, typer.Option("--to", help="The witness's own folder.")],
    name: Annotated[str, typer.Option("--name", help="The witness's name.")] = "witness",
    key: Key = None,
    *,
    as_json: Json = False,
) -> None:
    """Keep and cosign the newest tree head in a folder of one's own; exit 1 where it forks."""
    import time

    from artifact_pipelines.registry.witnessing import Witness

    with reading() as registry:
        found = Witness(to, name).observe(registry, int(time.time()), key)
    if as_json:
        show_json(
            {
                "size": found.head.size,
                "root": found.head.root.hex(),
                "cosigned": found.cosigned,
                "note": found.note,
                "witness": found.witness,
            }
        )
    else:
        said = "continues what was seen; cosigned" if found.cosigned else "is the one that was seen"
        say(f"The head of {found.head.size} leaves {said}.")


def show_provenance(
    reference: Annotated[str, typer.Argument(help="A model, such as digits@production.")],
    to: Annotated[Path | None, typer.Option("--to", help="Write it to this file.")] = None,
) -> None:
    """Print a model's provenance: an in-toto statement in a signed DSSE envelope."""
    import json

    with reading() as registry:
        envelope = registry.provenance(reference)
    text = json.dumps(envelope, indent=2)
    if to is None:
        typer.echo(text)
    else:
        to.write_text(text + "\n", encoding="utf-8")
        say(f"The provenance of {reference} is in {to}.")


def erase(
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the ledger.")],
    leaf: Annotated[
        int | None, typer.Option("--leaf", help="The words of this note or banner.")
    ] = None,
    annex: Annotated[
        str | None, typer.Option("--annex", help="Where and by whom this artifact was made.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="This name of an actor.")] = None,
    *,
    yes: Yes = False,
) -> None:
    """Erase words or names for ever; that they were there stays in the ledger, which verifies."""
    given = [one for one in (leaf, annex, actor) if one is not None]
    if len(given) != 1:
        raise typer.BadParameter("name one of --leaf, --annex and --actor.")
    ask(f"erasing {given[0]} cannot be undone", yes=yes)
    with reading() as registry:
        if leaf is not None:
            registry.erase_body(leaf, reason)
        elif annex is not None:
            registry.erase_annex(annex, reason)
        else:
            registry.erase_actor(str(actor), reason)
    say(f"{given[0]} was erased. Backups of the store may still hold it.")


def _show(report: Mapping[str, Any], more: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json({**report, **more})
    elif not report["ok"]:
        say(f"NOT VERIFIED ({report['kind']}): {report['problem']}")
    else:
        said = {name: value for name, value in report.items() if name not in {"ok", "anchored"}}
        lists = {
            name: ", ".join(map(str, value))
            for name, value in said.items()
            if isinstance(value, list)
        }
        show_facts(report["subject"], more | said | lists)
        say(
            "VERIFIED."
            if report["anchored"]
            else "VERIFIED, but UNANCHORED: compare the log's key with one known from elsewhere, "
            "or give it with --key."
        )
    if not report["ok"]:
        raise typer.Exit(1)
