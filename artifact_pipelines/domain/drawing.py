"""A lineage as people look at it: a tree of lines, a graph for Graphviz, a picture."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from artifact_pipelines.domain.lineage import EdgeKind

MOST_DRAWN: Final = 400
"""How many spots a picture has at most; one with more is not looked at."""

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 210, 40, 90, 18, 24
_COLOURS: Final[Mapping[str, str]] = {
    "dataset": "#dbeafe",
    "training_run": "#fef3c7",
    "checkpoint": "#dcfce7",
    "model": "#ede9fe",
}


@dataclass(frozen=True, slots=True)
class Spot:
    """An artifact in a drawing.

    Attributes:
        id: What arrows name it by.
        label: Its reference.
        kind: Its kind.
        state: `live` or what became of it.
        run: The run of a checkpoint.
    """

    id: str
    label: str
    kind: str
    state: str
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Arrow:
    """That one was made from another."""

    child: str
    parent: str
    role: str
    kind: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn.

    Attributes:
        start: The artifact that it is about.
        spots: The artifacts, by id.
        arrows: How they were made from each other.
    """

    start: str
    spots: Mapping[str, Spot]
    arrows: tuple[Arrow, ...]

    def folded(self) -> "Drawing":
        """Return it with the checkpoints of a run that lead nowhere else as one spot."""
        outside = {self.start}
        for arrow in self.arrows:
            child, parent = self.spots[arrow.child], self.spots[arrow.parent]
            if child.run not in {parent.id, parent.run}:
                outside |= {child.id, parent.id}
        groups: dict[str, list[Spot]] = {}
        for spot in self.spots.values():
            if spot.run is not None and spot.id not in outside:
                groups.setdefault(spot.run, []).append(spot)
        names: dict[str, str] = {}
        spots = dict(self.spots)
        for run, members in groups.items():
            if len(members) < 2:  # noqa: PLR2004 (one stays itself)
                continue
            one = f"checkpoints of {run}"
            name = members[0].label.rpartition("@")[0]
            spots[one] = replace(members[0], id=one, label=f"{name}: {len(members)} checkpoints")
            for member in members:
                names[member.id] = one
                del spots[member.id]
        arrows = {
            replace(
                arrow,
                child=names.get(arrow.child, arrow.child),
                parent=names.get(arrow.parent, arrow.parent),
            )
            for arrow in self.arrows
        }
        kept = [arrow for arrow in arrows if arrow.child != arrow.parent]
        ordered = sorted(kept, key=lambda arrow: (arrow.child, arrow.role, arrow.parent))
        return Drawing(self.start, spots, tuple(ordered))

    def tree(self, *, down: bool = False) -> list[str]:
        """Return the lines of a tree; what was shown above is not shown again."""
        near: dict[str, list[tuple[str, Arrow]]] = {}
        for arrow in self.arrows:
            here, there = (arrow.parent, arrow.child) if down else (arrow.child, arrow.parent)
            near.setdefault(here, []).append((there, arrow))
        for found in near.values():
            found.sort(key=lambda pair: (pair[1].role, self.spots[pair[0]].label))
        lines = [_line(self.spots[self.start])]
        seen = {self.start}
        stack = [(iter(near.get(self.start, ())), "", len(near.get(self.start, ())))]
        counts = [0]
        while stack:
            branch, indent, total = stack[-1]
            pair = next(branch, None)
            if pair is None:
                stack.pop()
                counts.pop()
                continue
            counts[-1] += 1
            last = counts[-1] == total
            spot, arrow = self.spots[pair[0]], pair[1]
            again = spot.id in seen
            below = [] if again else near.get(spot.id, [])
            said = f"{indent}{'└─ ' if last else '├─ '}{_role(arrow)}: {_line(spot)}"
            lines.append(f"{said} (above)" if again and near.get(spot.id) else said)
            seen.add(spot.id)
            if below:
                stack.append((iter(below), indent + ("   " if last else "│  "), len(below)))
                counts.append(0)
        return lines

    def dot(self) -> str:
        """Return the graph in Graphviz's language, from what was first to what came of it."""
        lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box, style=filled];"]
        for spot in self.spots.values():
            colour = _COLOURS.get(spot.kind, "#ffffff")
            wide = ", penwidth=2" if spot.id == self.start else ""
            label = _quoted(_line(spot))
            lines.append(
                f"  {_quoted(spot.id)} [label={label}, fillcolor={_quoted(colour)}{wide}];"
            )
        for arrow in self.arrows:
            style = "solid" if arrow.kind == EdgeKind.OBSERVED else "dashed"
            lines.append(
                f"  {_quoted(arrow.parent)} -> {_quoted(arrow.child)} "
                f"[label={_quoted(_role(arrow))}, style={style}];"
            )
        return "\n".join([*lines, "}", ""])

    def svg(self) -> str:
        """Return a picture of its own, with the same facts as text for those who cannot see it."""
        columns = self._columns()
        places = {
            spot: (
                _MARGIN + x * (_WIDTH + _GAP_X),
                _MARGIN + y * (_HEIGHT + _GAP_Y),
            )
            for x, column in enumerate(columns)
            for y, spot in enumerate(column)
        }
        width = 2 * _MARGIN + len(columns) * (_WIDTH + _GAP_X) - _GAP_X
        height = 2 * _MARGIN + max(map(len, columns)) * (_HEIGHT + _GAP_Y) - _GAP_Y
        title = f"The lineage of {self.spots[self.start].label}"
        parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" '
                f'height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" '
                'font-size="12">'
            ),
            f"<title>{escape(title)}</title>",
            f"<desc>{escape('; '.join(self._sentences()))}</desc>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]
        drawn = [one for one in self.arrows if one.parent in places and one.child in places]
        parts += [
            _drawn_arrow(arrow, places[arrow.parent], places[arrow.child], number)
            for number, arrow in enumerate(drawn)
        ]
        for spot, (x, y) in places.items():
            parts.append(_drawn_spot(self.spots[spot], x, y, first=spot == self.start))
        return "\n".join([*parts, "</svg>", ""])

    def _columns(self) -> list[list[str]]:
        """Return the spots by how far they are from the first of their line, parents first."""
        depth = dict.fromkeys(self.spots, 0)
        children: dict[str, list[str]] = {}
        waits = dict.fromkeys(self.spots, 0)
        for arrow in self.arrows:
            children.setdefault(arrow.parent, []).append(arrow.child)
            waits[arrow.child] += 1
        ready = [spot for spot, count in waits.items() if not count]
        while ready:
            spot = ready.pop()
            for child in children.get(spot, ()):
                depth[child] = max(depth[child], depth[spot] + 1)
                waits[child] -= 1
                if not waits[child]:
                    ready.append(child)
        columns: dict[int, list[str]] = {}
        drawn = sorted(self.spots, key=lambda spot: (spot != self.start, self.spots[spot].label))
        for spot in drawn[:MOST_DRAWN]:
            columns.setdefault(depth[spot], []).append(spot)
        return [columns[level] for level in sorted(columns)]

    def _sentences(self) -> list[str]:
        return [
            f"{self.spots[arrow.child].label} was made from {self.spots[arrow.parent].label} "
            f"as {_role(arrow)}"
            for arrow in self.arrows[:MOST_DRAWN]
        ]


def _line(spot: Spot) -> str:
    return spot.label if spot.state == "live" else f"{spot.label} [{spot.state}]"


def _role(arrow: Arrow) -> str:
    return arrow.role if arrow.kind == EdgeKind.OBSERVED else f"{arrow.role} ({arrow.kind})"


def _quoted(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{plain}"'


def _drawn_arrow(arrow: Arrow, parent: tuple[int, int], child: tuple[int, int], number: int) -> str:
    x1, y1 = parent[0] + _WIDTH, parent[1] + _HEIGHT // 2
    x2, y2 = child[0], child[1] + _HEIGHT // 2
    bend = _GAP_X // 2
    if x2 - x1 > _GAP_X:
        # Past the columns between: below the parent's row, where no box is.
        lane = parent[1] + _HEIGHT + _GAP_Y // 2 + (number % 3 - 1) * 4
        way = (
            f"C{x1 + bend} {y1} {x1 + bend} {lane} {x1 + _GAP_X} {lane} H{x2 - _GAP_X} "
            f"C{x2 - bend} {lane} {x2 - bend} {y2} {x2} {y2}"
        )
    else:
        way = f"C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    dash = "" if arrow.kind == EdgeKind.OBSERVED else ' stroke-dasharray="5 4"'
    return (
        f'<path d="M{x1} {y1} {way}" fill="none" '
        f'stroke="#6b7280" stroke-width="1.5"{dash}><title>{escape(_role(arrow))}</title></path>'
    )


def _drawn_spot(spot: Spot, x: int, y: int, *, first: bool) -> str:
    label = _line(spot)
    shown = label if len(label) <= 32 else f"{label[:31]}…"  # noqa: PLR2004 (what fits)
    colour = _COLOURS.get(spot.kind, "#ffffff")
    return (
        f"<g><title>{escape(label)}</title>"
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" '
        f"fill={quoteattr(colour)} "
        f'stroke="#374151" stroke-width="{3 if first else 1}"/>'
        f'<text x="{x + 10}" y="{y + 17}">{escape(shown)}</text>'
        f'<text x="{x + 10}" y="{y + 32}" fill="#4b5563" font-size="10">'
        f"{escape(spot.kind.replace('_', ' '))}</text></g>"
    )
