"""Two models side by side, as tables and curves."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from artifact_pipelines.cli.opening import reading
from artifact_pipelines.cli.output import Json, note, say, show_json, show_table

if TYPE_CHECKING:
    from artifact_pipelines.registry.comparing import Comparison, Curve, Difference

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 40
_WIDTH, _HEIGHT, _MARGIN, _TITLE = 480, 160, 12, 24
_COLOURS = ("#1f77b4", "#d62728")
_PARTS = ("metrics", "params", "data", "code", "environment", "gates")


def compare_models(
    one: Annotated[str, typer.Argument(help="A model or checkpoint.")],
    two: Annotated[str, typer.Argument(help="The other.")],
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write the curves to this file.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Compare two models: metrics, parameters, data, code, environment, gates and curves."""
    with reading() as registry:
        found = registry.compare(one, two)
    if svg is not None:
        svg.write_text(draw(found), encoding="utf-8")
        note(f"The curves are in {svg}.")
    if as_json:
        show_json(_shape(found))
        return
    names = (found.one.reference, found.two.reference)
    for part in _PARTS:
        rows: Sequence[Difference] = getattr(found, part)
        if rows:
            show_table(
                part.capitalize(),
                ("=what", names[0], names[1], "=difference"),
                [(row.name, _shown(row.one), _shown(row.two), _delta(row)) for row in rows],
            )
    for name, curves in found.curves.items():
        low, high = _range(curves)
        say(f"{name}, {low:.4g} to {high:.4g}")
        for reference, curve in zip(names, curves, strict=True):
            say(f"  {sparkline(curve, low, high)}  {reference}")


def sparkline(curve: "Curve", low: float, high: float) -> str:
    """Return a curve as one line of bars between two bounds."""
    step = max(1, -(-len(curve) // _COLUMNS))
    values = [value for _, value in curve[::step]]
    if curve and len(curve) % step != 1 % step:
        values.append(curve[-1][1])
    span = (high - low) or 1.0
    return "".join(_bar((value - low) / span) for value in values) or "-"


def draw(found: "Comparison") -> str:
    """Return the curves of both as an SVG image."""
    parts, top = [], 0
    for name, curves in found.curves.items():
        low, high = _range(curves)
        steps = [step for curve in curves for step, _ in curve]
        parts.append(
            f'<text x="{_MARGIN}" y="{top + 16}" font-size="12">{escape(name)}: '
            f"{low:.4g} to {high:.4g}</text>"
        )
        for colour, curve in zip(_COLOURS, curves, strict=True):
            points = " ".join(
                f"{_place(step, min(steps), max(steps), _WIDTH):.1f},"
                f"{top + _TITLE + _HEIGHT - _place(value, low, high, _HEIGHT):.1f}"
                for step, value in curve
                if value == value  # noqa: PLR0124  not NaN
            )
            parts.append(
                f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'
            )
        top += _TITLE + _HEIGHT
    for place, (colour, model) in enumerate(zip(_COLOURS, (found.one, found.two), strict=True)):
        parts.append(
            f'<text x="{_MARGIN + 160 * place}" y="{top + 16}" font-size="12" '
            f'fill="{colour}">{escape(model.reference)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top + _TITLE}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _place(value: float, low: float, high: float, size: int) -> float:
    """Return where a value is on an axis of a size."""
    return _MARGIN + (value - low) / ((high - low) or 1.0) * (size - 2 * _MARGIN)


def _bar(share: float) -> str:
    if share != share:  # noqa: PLR0124  NaN
        return "?"
    return _BARS[min(len(_BARS) - 1, max(0, int(share * len(_BARS))))]


def _range(curves: Sequence["Curve"]) -> tuple[float, float]:
    values = [value for curve in curves for _, value in curve if abs(value) < float("inf")]
    return (min(values), max(values)) if values else (0.0, 0.0)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _delta(row: "Difference") -> str:
    if not row.differs:
        return "same"
    if isinstance(row.one, int | float) and isinstance(row.two, int | float):
        return f"{row.two - row.one:+.4g}"
    return "differs"


def _shape(found: "Comparison") -> dict[str, Any]:
    return {
        "one": found.one.reference,
        "two": found.two.reference,
        **{
            part: [
                {"name": row.name, "one": row.one, "two": row.two, "differs": row.differs}
                for row in getattr(found, part)
            ]
            for part in _PARTS
        },
        "curves": [
            {"metric": name, "one": [list(point) for point in one], "two": [list(p) for p in two]}
            for name, (one, two) in found.curves.items()
        ],
    }
