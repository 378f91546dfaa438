"""What commands show: tables for people on standard output, JSON for scripts, notes aside."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from artifact_pipelines.errors import ConfigurationError

DIGITS = 12
_STEP = 1024
_NARROWEST = 80

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


def show_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object without colour; numbers that JSON lacks become text."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a title; `#` before a column's name is for numbers, `=` for whole words."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        number = column.startswith("#")
        table.add_column(
            column.lstrip("#="),
            justify="right" if number else "left",
            no_wrap=column[0] in "#=",
            overflow="fold",
            header_style="dim",
        )
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    _console().print(table)


def show_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names with their values, one a line; empty values are left out."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, "", ()):
            table.add_row(name, _cell(value))
    _console().print(table)


def say(text: str) -> None:
    """Print a sentence for people on standard output."""
    # A terminal wraps by itself; a sentence in a pipe stays one line.
    _console().print(Text(printable(text)), soft_wrap=True)


def note(text: str) -> None:
    """Print progress or a hint on standard error."""
    Console(stderr=True, soft_wrap=True).print(Text(printable(text)), style="dim")


def complain(text: str) -> None:
    """Print the one sentence of an error on standard error."""
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text("Error: ", style="bold red") + Text(printable(text)))


def ask(question: str, *, yes: bool, needed: bool = True) -> None:
    """Go on after a yes.

    Args:
        question: What is about to happen.
        yes: The answer that was given beforehand.
        needed: Whether a silent answer, where nobody can be asked, is a no.

    Raises:
        ConfigurationError: Nobody can be asked, and an answer is needed.
        typer.Exit: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        if needed:
            raise ConfigurationError(f"{question} needs a yes: add --yes.")
        return
    if not typer.confirm(f"{question}: go on?", err=True):
        note("Nothing was changed.")
        raise typer.Exit(1)


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < _STEP:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _STEP
    return f"{count:.1f} TiB"


def short(digest: str | None) -> str:
    """Return the first digits of a digest."""
    return "" if digest is None else digest[:DIGITS]


def moment(text: str) -> str:
    """Return a time without its fraction of a second."""
    return text[:19].replace("T", " ")


def lately(text: str) -> str:
    """Return a time to the minute, and without the year while it is this one."""
    from datetime import UTC, datetime

    return moment(text)[5 if text.startswith(f"{datetime.now(UTC):%Y-}") else 0 : 16]


def figures(metrics: Mapping[str, float], most: int = 3) -> str:
    """Return a few metrics in one line."""
    shown = [f"{name} {value:.4g}" for name, value in sorted(metrics.items())[:most]]
    return ", ".join(shown) + (" …" if len(metrics) > most else "")


def utc(text: str) -> str:
    """Return a time as the ledger writes it.

    Raises:
        typer.BadParameter: The text is no time.
    """
    from datetime import UTC, datetime

    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time such as 2026-11-23T09:00:00Z.") from None
    moment_ = given if given.tzinfo else given.replace(tzinfo=UTC)
    return moment_.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def printable(text: str) -> str:
    """Return text without characters that a terminal would obey."""
    return "".join(
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text
    )


def _cell(value: object) -> Text:
    return (
        value if isinstance(value, Text) else Text(printable("" if value is None else str(value)))
    )


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: a script that cuts columns gets whole references.
        console = Console(width=max(console.width, _NARROWEST))
    return console


def _finite(value: Any) -> Any:  # noqa: ANN401  any JSON
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
