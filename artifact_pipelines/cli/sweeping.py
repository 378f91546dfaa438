"""The commands that plan training runs, one or a whole sweep, and take planned ones back."""

import itertools
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
import yaml

from artifact_pipelines.cli import shapes
from artifact_pipelines.cli.opening import reading
from artifact_pipelines.cli.output import Json, note, say, show_json
from artifact_pipelines.cli.training import show_planned
from artifact_pipelines.errors import ConfigurationError

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_FIGURE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def start_runs(
    project: Annotated[str, typer.Argument(help="The project.")],
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUES",
            help="A parameter: lr=0.1,0.01 or seed=1..3; repeated, every combination is a run.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What the runs are called; the time by default.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="DATASET=REFERENCE",
            help="Such as images=digits/images@1; the newest of each by default.",
        ),
    ] = None,
    resume_from: Annotated[
        str | None, typer.Option("--resume-from", help="A checkpoint to go on from.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Plan training runs, which Dagster's event sensor begins as its queue allows."""
    asked = combinations(values or ())
    plan = name or f"sweep-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    digits = len(str(len(asked)))
    named = (
        {plan: asked[0]}
        if len(asked) == 1
        else {f"{plan}-{number:0{digits}}": found for number, found in enumerate(asked, 1)}
    )
    with reading() as registry:
        planned = registry.plan_runs(
            project,
            plan,
            named,
            inputs=dict(_pair(text, "--input") for text in inputs or ()),
            resume_from=resume_from,
        )
    if as_json:
        show_json(
            {"plan": plan, "project": project, "runs": [shapes.planned(run) for run in planned]}
        )
        return
    show_planned(planned)
    note(f"Dagster begins them as its queue allows; see: artifact-pipelines run list {project}")


def withdraw_run(
    reference: Annotated[str, typer.Argument(help="A planned run, such as digits/sweep-1.")],
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "no longer wanted",
    *,
    as_json: Json = False,
) -> None:
    """Take back a planned run that has not begun."""
    project, _, name = reference.partition("/")
    with reading() as registry:
        registry.withdraw_run(project, name, reason)
    if as_json:
        show_json({"project": project, "name": name, "reason": reason})
    else:
        say(f"{reference} is not planned any more.")


def combinations(values: Sequence[str]) -> list[dict[str, Any]]:
    """Return every combination of the values that parameters are set to.

    Raises:
        ConfigurationError: A text is not NAME=VALUES, or sets a parameter twice.
    """
    choices: dict[str, list[Any]] = {}
    for text in values:
        name, listed = _pair(text, "--set")
        if name in choices:
            raise ConfigurationError(f"--set {name} is given twice; write its values in one.")
        choices[name] = _values(listed)
    return [
        dict(zip(choices, chosen, strict=True)) for chosen in itertools.product(*choices.values())
    ]


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name.strip() and separator and value.strip()):
        raise ConfigurationError(f"{option} {text!r} is not written as name=value.")
    return name.strip(), value.strip()


def _values(text: str) -> list[Any]:
    found = _RANGE.fullmatch(text)
    if found is not None:
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise ConfigurationError(f"the range {text} is empty; write the smaller number first.")
        return list(range(first, last + 1))
    if text.startswith("["):
        try:
            listed = yaml.safe_load(text)
        except yaml.YAMLError:
            listed = None
        if not isinstance(listed, list) or not listed:
            raise ConfigurationError(f"{text!r} is no list of values, such as [0.1, 0.01].")
        return listed
    return [_scalar(part.strip()) for part in text.split(",")]


def _scalar(text: str) -> Any:  # noqa: ANN401 (a number, a word, true or false)
    # YAML 1.1 takes 1e-3 for a word, which nobody means.
    if _FIGURE.fullmatch(text):
        return float(text)
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return found if isinstance(found, bool | int | float) or found is None else text
