"""Draw how figures of `scale.py` grow with the history, from the runs that were recorded.

`python benchmarks/growth.py a.json b.json` adds what `scale.py --json` wrote to the record and
draws it again; without arguments the record is drawn as it is. `--check` draws nothing and
exits 1 when the picture is not the record's. The fastest of many is drawn: what a machine does
beside adds to the others.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
RECORD = PICTURES / "growth.json"
PICTURE = PICTURES / "growth.svg"
LINES = {
    "publish transaction, fastest": ("publish", "#2563eb"),
    "a search by project and metric, fastest": ("search by a metric, 50 of them", "#16a34a"),
    "a search by two metrics, fastest": ("search by two metrics, 50 of them", "#65a30d"),
    "an artifact by id, fastest": ("an artifact by id", "#9333ea"),
    "the checkpoints of a run, fastest": ("the checkpoints of a run", "#db2777"),
    "sensor tick, ten new among many, fastest": ("sensor tick, ten new", "#ea580c"),
}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 460, 70, 46, 270, 60
LEAST, MOST = 0.1, 1_000.0  # milliseconds
DATABASES = {"sqlite": "", "postgres": "6 4"}

GREY = "#e5e7eb"

Points = Sequence[tuple[float, float]]
Record = dict[str, dict[str, Any]]


def merged(record: Record, told: Mapping[str, Any]) -> Record:
    """Return the record with a run of `scale.py` in it, newer figures in place of older ones."""
    for name in DATABASES:
        figures = {
            what: round(told["figures"][f"{name}: {what}"], 3)
            for what in LINES
            if f"{name}: {what}" in told["figures"]
        }
        if figures:
            found = {"at": told["at"], "load": told["load"], "figures": figures}
            record.setdefault(name, {})[str(told["artifacts"])] = found
    return record


def drawn(record: Record) -> str:
    """Return the picture of a record."""
    sizes = sorted({int(size) for runs in record.values() for size in runs})
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])
    span = (high - low) or 1.0

    def x(size: float) -> float:
        return round(LEFT + (math.log10(size) - low) / span * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        share = math.log10(max(value, LEAST) / LEAST) / math.log10(MOST / LEAST)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    box = f'width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="12">',
        f'<rect {box} fill="white"/>',
        _text(LEFT, 24, "Milliseconds as a history grows, the fastest of many", "start"),
    ]
    edge = WIDTH - RIGHT
    for value in (0.1, 1, 10, 100, 1_000):
        parts.append(_line([(LEFT, y(value)), (edge, y(value))], GREY, 1))
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:,g}", "end"))
    for size in sizes:
        parts.append(_line([(x(size), TOP), (x(size), HEIGHT - BOTTOM)], GREY, 1))
        parts.append(_text(x(size), HEIGHT - BOTTOM + 20, f"{size:,}", "middle"))
    said = "artifacts; solid: SQLite, dashed: Postgres"
    parts.append(_text((LEFT + edge) / 2, HEIGHT - 14, said, "middle"))
    for number, (what, (label, colour)) in enumerate(LINES.items()):
        for name, dashes in DATABASES.items():
            points = [
                (x(size), y(record[name][str(size)]["figures"][what]))
                for size in sizes
                if what in record.get(name, {}).get(str(size), {}).get("figures", {})
            ]
            parts.append(_line(points, colour, 2, dashes))
            parts += [f'<circle cx="{at}" cy="{to}" r="3" fill="{colour}"/>' for at, to in points]
        height = TOP + 20 + 22 * number
        parts.append(_line([(edge + 20, height), (edge + 44, height)], colour, 2))
        parts.append(_text(edge + 52, height + 4, label, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(points: Points, colour: str, width: int, dashes: str = "") -> str:
    path = " ".join(f"{across:g},{down:g}" for across, down in points)
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{style}/>'
    )


def _text(across: float, down: float, text: str, anchor: str) -> str:
    return f'<text x="{across:g}" y="{down:g}" text-anchor="{anchor}">{text}</text>'


def main() -> int:
    """Draw the record, or check that it is drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    record: Record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for run in asked.runs:
        record = merged(record, json.loads(run.read_text()))
    if not record:
        print("nothing was recorded yet: python benchmarks/scale.py --json a.json", file=sys.stderr)
        return int(asked.check)
    if asked.check:
        return int(not PICTURE.exists() or PICTURE.read_text() != drawn(record))
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    PICTURE.write_text(drawn(record))
    for name, runs in record.items():
        for size, run in sorted(runs.items(), key=lambda pair: int(pair[0])):
            said = ", ".join(
                f"{LINES[what][0]} {run['figures'][what]:g}" for what in run["figures"]
            )
            print(f"{name}, {int(size):,} artifacts, ms: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
