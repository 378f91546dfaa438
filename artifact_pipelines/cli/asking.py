"""The commands that ask the catalog: search."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from artifact_pipelines.cli import shapes
from artifact_pipelines.cli.opening import listing
from artifact_pipelines.cli.output import Json, figures, moment, say, show_json, show_table, size

SEARCH = (
    "Fields: kind project name step version state run_state stage size published recalled "
    "dataset evaluation package, metrics.… params.… tags.… packages.… facts.… code.… · "
    "= != < <= > >= ~ in · and or not ( ) · order by FIELD [desc] · limit N · "
    "a text in quotes is looked for among names, notes and cards"
)


def search(
    query: Annotated[
        str,
        typer.Argument(help="Such as: metrics.accuracy > 0.93 and params.lr < 0.01"),
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many.")] = 100,
    *,
    as_json: Json = False,
) -> None:
    """Find artifacts by what they are, what they were made with and what was said of them."""
    from artifact_pipelines.domain.query import fields, parse

    asked = [str(field.name) for field in fields(parse(query)) if field.group == "metrics"]
    with listing() as registry:
        found = [] if registry is None else registry.search(query, limit)
        unheard = [] if registry is None or found else registry.unheard(query)
    if as_json:
        show_json({"query": query, "artifacts": [shapes.artifact(one) for one in found]})
    elif found:
        show_table(
            "Found",
            ("=artifact", "kind", "metrics", "#size", "registered"),
            [
                (
                    one.reference,
                    one.kind.replace("_", " "),
                    _asked_for(one.metrics, asked) or figures(one.metrics, 1),
                    size(one.size),
                    moment(one.published)[:16],
                )
                for one in found
            ],
        )
    else:
        say(
            " ".join(
                ["Nothing is found by that.", *(f"{one[:1].upper()}{one[1:]}" for one in unheard)]
            )
        )


def _asked_for(metrics: Mapping[str, float], names: Sequence[str]) -> str:
    """Return the metrics that a query names."""
    return figures({name: metrics[name] for name in names if name in metrics}, len(names))
