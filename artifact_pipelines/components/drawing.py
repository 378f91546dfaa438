"""What the evidence of a gate looks like: pictures that stand in a text by themselves."""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 560, 22, 120, 70, 26
_HEIGHT, _MARGIN = 180, 30
_MOST = 40  # slices that are drawn, the worst first
_LONGEST = 16
_TEXT = 'font-family="sans-serif" font-size="11" fill="#444"'
_GOOD, _BAD, _IDLE, _FORMER = "#3f8f5f", "#c8452f", "#b9bec7", "#7d8697"


def pictures_of(evidence: Mapping[str, Any]) -> str:
    """Return the pictures that a gate's evidence gives, as Markdown; nothing if it gives none."""
    drawn = []
    if slices := evidence.get("slices"):
        title = f"{evidence['metric']} by {evidence['column']}"
        drawn.append(f"![{_plain(title)}]({slice_bars(evidence)})")
        if len(slices) > _MOST:
            drawn.append(f"The {_MOST} worst of {len(slices)} slices.")
    if "bootstrap" in evidence:
        drawn.append(f"![the difference to production]({bootstrap_histogram(evidence)})")
    return "\n\n".join(drawn)


def slice_bars(evidence: Mapping[str, Any]) -> str:
    """Return one bar for each slice, with production's figure and the limits as lines."""
    slices: Mapping[str, Mapping[str, Any]] = evidence["slices"]
    shown = sorted(
        (item for item in slices.items() if item[1]["value"] is not None),
        key=lambda item: (item[1].get("passed") is not False, item[1]["value"]),
    )[:_MOST]
    limits = [evidence[name] for name in ("limit_min", "limit_max") if name in evidence]
    figures = [found["value"] for _, found in shown]
    figures += [found["baseline"] for _, found in shown if found.get("baseline") is not None]
    low, high = min([0.0, *figures, *limits]), max([1e-12, *figures, *limits])
    width = _WIDTH - _LEFT - _RIGHT

    def across(value: float) -> float:
        return float(_LEFT + (value - low) / (high - low) * width)

    height = _TOP + _ROW * len(shown) + 10
    parts = [_words(4, 16, f"{evidence['metric']} by {evidence['column']}")]
    for number, (name, found) in enumerate(shown):
        y = _TOP + number * _ROW
        colour = _IDLE if not found["judged"] else _GOOD if found.get("passed") else _BAD
        start, end = sorted((across(0.0 if low <= 0 else low), across(found["value"])))
        parts.append(_box(start, y, max(end - start, 1), _ROW - 6, colour))
        parts.append(_words(4, y + 12, _short(name)))
        parts.append(_words(_WIDTH - _RIGHT + 6, y + 12, f"{found['value']:.3f} ({found['rows']})"))
        if found.get("baseline") is not None:
            at = across(found["baseline"])
            parts.append(_line(at, y - 1, y + _ROW - 5, _FORMER))
    for limit in limits:
        parts.append(_line(across(limit), _TOP - 6, height - 8, "#222", dashed=True))
        parts.append(_words(across(limit) + 3, _TOP - 8, f"{limit:g}"))
    return _svg(height, parts)


def bootstrap_histogram(evidence: Mapping[str, Any]) -> str:
    """Return the resampled differences, with zero, the interval and the tolerance."""
    found: Mapping[str, Any] = evidence["bootstrap"]
    counts, (first, last) = found["histogram"], found["edges"]
    worst = -evidence["tolerance"] if evidence["mode"] == "max" else evidence["tolerance"]
    low, high = min(first, worst, 0.0), max(last, worst, 0.0)
    span = (high - low) or 1.0
    width, floor = _WIDTH - 2 * _MARGIN, _HEIGHT - _MARGIN

    def across(value: float) -> float:
        return float(_MARGIN + (value - low) / span * width)

    step, most = (last - first) / len(counts), max(counts)
    parts = [
        _words(
            4,
            16,
            f"difference to production on {found['rows']} rows, {found['resamples']} resamples",
        ),
        _box(
            across(found["low"]), _TOP, max(across(found["high"]) - across(found["low"]), 1),
            floor - _TOP, "#eef0ff",
        ),
    ]  # fmt: skip
    for number, count in enumerate(counts):
        tall = count / most * (floor - _TOP - 8)
        start = across(first + number * step)
        wide = max(across(first + (number + 1) * step) - start - 0.5, 0.8)
        parts.append(_box(start, floor - tall, wide, tall, "#4f43dd"))
    for value, label, row in ((0.0, "same", 0), (worst, "tolerance", 1)):
        parts.append(_line(across(value), _TOP, floor, _BAD if row else "#222", dashed=True))
        parts.append(_words(across(value) + 3, _TOP + 10 + 12 * row, label))
    parts += [
        _words(across(value) - 16, floor + 14, f"{value:+.4f}")
        for value in (found["low"], found["high"])
    ]
    return _svg(_HEIGHT, parts)


def _svg(height: float, parts: list[str]) -> str:
    """Return a picture as the address of an inline image."""
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:g}">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
    )


def _line(x: float, top: float, bottom: float, colour: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" '
        f'stroke="{colour}" stroke-width="2"{dashes}/>'
    )


def _words(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {_TEXT}>{escape(text)}</text>'


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _plain(text: str) -> str:
    """Return a text that ends neither a picture's description nor its line."""
    return " ".join(text.translate({ord(mark): " " for mark in "[]()\\`"}).split())
