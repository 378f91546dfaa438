"""The commands about where artifacts came from and how they differ."""

from pathlib import Path
from typing import Annotated

import typer

from artifact_pipelines.cli import shapes
from artifact_pipelines.cli.opening import make_importable, reading
from artifact_pipelines.cli.output import Json, say, show_facts, show_json, show_table
from artifact_pipelines.errors import ConfigurationError

lineage = typer.Typer(help="What an artifact was made from.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="Such as digits@production, or a digest's digits.")]


@lineage.command("show")
def show_lineage(
    reference: Reference,
    *,
    down: Annotated[
        bool,
        typer.Option("--down", help="What was made from it, instead of what it was made from."),
    ] = False,
    dot: Annotated[bool, typer.Option("--dot", help="Print a graph for Graphviz.")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write a picture to a file.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Draw every checkpoint, not those of a run as one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what an artifact was made from; one whose bytes were forgotten still answers."""
    with reading() as registry:
        start = registry.find(reference)
        edges = registry.lineage(start.id, down=down) if as_json else []
        drawing = registry.drawing(start.id, down=down)
    if as_json:
        shape = {"down": down, "edges": [shapes.edge(found) for found in edges]}
        show_json(shapes.artifact(start) | shape)
        return
    drawn = drawing if every else drawing.folded()
    if dot:
        typer.echo(drawn.dot(), nl=False)
    if svg is not None:
        svg.write_text(drawn.svg(), encoding="utf-8")
        say(f"The lineage of {start.reference} is drawn in {svg}.")
    if dot or svg is not None:
        return
    if not drawing.arrows:
        say(f"{start.reference} {'has no descendants' if down else 'was made from nothing'}.")
        return
    for line in drawn.tree(down=down):
        say(line)


@lineage.command("completeness")
def show_completeness(reference: Reference, *, as_json: Json = False) -> None:
    """Show how completely it is known where an artifact came from, and what is missing."""
    with reading() as registry:
        start = registry.find(reference)
        found = registry.completeness(start.id)
    if as_json:
        show_json(
            {
                "reference": start.reference,
                "artifact_id": start.id,
                "score": found.score,
                "questions": dict(found.questions),
                "missing": [
                    {"question": gap.question, "reference": gap.artifact, "said": gap.sentence}
                    for gap in found.missing
                ],
            }
        )
        return
    show_facts(
        f"{start.reference}: {found.score:.0%} of its origin is known",
        {name: f"{share:.0%}" for name, share in found.questions.items()},
    )
    for gap in found.missing:
        say(f"missing ({gap.question}): {gap.sentence}")


@lineage.command("declare")
def declare(
    child: Annotated[str, typer.Argument(help="What was made.")],
    parent: Annotated[str, typer.Argument(help="What it was made from.")],
    role: Annotated[str, typer.Option("--as", help="What the parent was used as.")],
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="module:function that makes the child's files from the parent's: it is run "
            "again, and the edge is re-derivable when the same files come out.",
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Record that one artifact was made from another, or prove it by making it again."""
    with reading() as registry:
        if by is None:
            registry.declare(child, parent, role)
        else:
            from artifact_pipelines.gates.jobs import load_function

            registry.rederive(child, parent, role, by, load_function(by))
        edges = [
            edge
            for edge in registry.lineage(child)
            if edge.depth == 1 and edge.role == role and edge.parent.id == registry.find(parent).id
        ]
    if as_json:
        show_json(shapes.edge(edges[0]))
    else:
        say(
            f"{edges[0].child.reference} was made from {edges[0].parent.reference} "
            f"as {role}: {edges[0].kind}."
        )


def prove_resume(
    reference: Annotated[str, typer.Argument(help="Such as digits/run-1@40.")],
    by: Annotated[
        str | None,
        typer.Option("--by", help="module:function that trains; the run's own when left out."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Train on from a checkpoint and compare with the next one; exit 1 where they differ."""
    from artifact_pipelines.gates.jobs import load_function
    from artifact_pipelines.sdk.rehearsing import prove_resume

    make_importable()
    with reading() as registry:
        start = registry.find(reference)
        trainer = by or str(
            registry.run(start.project, start.name).artifact.record.code.get("entry_point", "")
        )
        if ":" not in trainer:
            raise ConfigurationError(
                f"{start.reference} was not trained by a function that is on record; name one "
                "with --by module:function."
            )
        found = prove_resume(registry, start.id, trainer, load_function(trainer))
    if as_json:
        show_json(
            {
                "checkpoint": found.checkpoint.reference,
                "next": found.following.reference,
                "by": found.by,
                "exact": not found.differ,
                "differ": list(found.differ),
            }
        )
    elif found.differ:
        say(
            f"{found.checkpoint.reference} does not resume exactly: {found.following.reference} "
            f"came out with other {', '.join(found.differ)}."
        )
    else:
        say(
            f"{found.checkpoint.reference} resumes exactly: {found.following.reference} came out "
            "the same, to the byte."
        )
    if found.differ:
        raise typer.Exit(1)


def compare_runs(
    references: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Two or more.")],
    *,
    as_json: Json = False,
) -> None:
    """Show in what training runs differ: parameters, data, code, packages, last metrics."""
    if len(references) < 2:  # noqa: PLR2004 (one has nothing to differ from)
        raise ConfigurationError("name two runs or more to compare them.")
    with reading() as registry:
        runs, differences = registry.compare_runs(references)
    if as_json:
        show_json(
            {
                "runs": [run.reference for run in runs],
                "differences": [
                    {"field": one.field, "values": list(one.values)} for one in differences
                ],
            }
        )
    elif differences:
        show_table(
            "Differences",
            ("field", *(f"={run.reference}" for run in runs)),
            [(one.field, *one.values) for one in differences],
        )
    else:
        say("The runs are alike in all that was recorded.")


def diff_checkpoints(
    first: Annotated[str, typer.Argument(help="Such as digits/run-1@40.")],
    second: Annotated[str, typer.Argument(help="Such as digits/run-1@80.")],
    *,
    as_json: Json = False,
) -> None:
    """Show which tensors changed from one checkpoint to another, and by how much."""
    with reading() as registry:
        pair = [registry.find(first), registry.find(second)]
        found = registry.diff(pair[0].id, pair[1].id)
    if as_json:
        show_json(
            {
                "first": pair[0].reference,
                "second": pair[1].reference,
                "tensors": [
                    {
                        "name": one.name,
                        "path": one.path,
                        "change": one.change,
                        "largest": one.largest,
                        "relative": one.relative,
                    }
                    for one in found
                ],
            }
        )
        return
    changed = [one for one in found if one.change != "same"]
    if changed:
        show_table(
            f"{pair[0].reference} → {pair[1].reference}",
            ("tensor", "file", "change", "#largest", "#relative"),
            [
                (one.name, one.path, one.change, _figure(one.largest), _figure(one.relative))
                for one in changed
            ],
        )
    say(f"{len(found) - len(changed)} of {len(found)} tensors are the same.")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
