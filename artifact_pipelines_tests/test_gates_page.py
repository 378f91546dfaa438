"""What the page about gates shows is what the project takes."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from artifact_pipelines.cli import app
from artifact_pipelines.domain.gate import Formats
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.schema import Layout, Mode, incompatible
from artifact_pipelines.gates import jobs, judging

PAGE = Path(__file__).parent.parent / "docs" / "gates.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
DECLARED = [text for kind, text in BLOCKS if kind == "yaml"]


@pytest.mark.parametrize("text", DECLARED, ids=range(len(DECLARED)))
def test_a_declaration_on_the_page_is_taken(text: str) -> None:
    policy = Policy.of(yaml.safe_load(text))

    assert Policy.of(policy.document()) == policy


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "layout"])
def test_a_layout_on_the_page_is_one(text: str) -> None:
    layout = Layout.of(yaml.safe_load(text))

    assert incompatible(layout, layout, Mode.FULL) == ()


def predict(_: Path, frame: pd.DataFrame) -> pd.Series:
    """Return what the page's functions are told that a model predicts."""
    return frame["label"].where(frame["group"] == "a", 0)


DATA = pd.DataFrame({"label": [1, 1, 1, 0], "group": ["a", "a", "b", "b"]})


def ran(name: str) -> dict[str, Any]:
    """Return the names that the page's code about a function defines."""
    (text,) = [text for kind, text in BLOCKS if kind == "python" and f"def {name}(" in text]
    names: dict[str, Any] = {"Path": Path, "pd": pd, "predict": predict}
    exec(compile(text, str(PAGE), "exec"), names)  # noqa: S102 (the page is ours)
    return names


def test_the_evaluation_on_the_page_gives_metrics_and_scores() -> None:
    metrics, examples = jobs._split(ran("evaluate")["evaluate"](Path(), DATA), len(DATA))

    assert metrics == {"accuracy": 0.75, "loss": 0.31}
    assert examples == {"accuracy": [1.0, 1.0, 0.0, 1.0]}


def test_the_gate_on_the_page_judges() -> None:
    case = jobs.GateCase(model=Path(), baseline=None, data=DATA, metrics={}, policy={})
    finding = jobs._finding("fairness", ran("fairness")["fairness"](case, limit=0.05))

    assert not finding.passed
    assert finding.reasons == ("the gap between groups is 1.000, and 0.05 is allowed",)
    assert jobs.as_json(finding)["evidence"] == {"rates": {"a": 1.0, "b": 0.0}}


def test_every_form_of_a_gate_is_on_the_page() -> None:
    shown = {type(gate) for text in DECLARED for gate in Policy.of(yaml.safe_load(text)).gates}

    assert shown == {*judging.GATES, Formats}


def test_the_commands_on_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (layout,) = [text for kind, text in BLOCKS if kind == "layout"]
    (tmp_path / "layout.yaml").write_text(layout)
    (text,) = [text for kind, text in BLOCKS if kind == "console"]
    commands = [line.removeprefix("$ artifact-pipelines ").split() for line in text.splitlines()]
    # Something must be registered before anything can be checked against it.
    commands.sort(key=lambda words: words[1] != "register")
    for words in commands:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)

    assert len(commands) == 4
