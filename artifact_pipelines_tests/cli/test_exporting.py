"""What the command line hands on: plain files, cards, events, pictures of a lineage."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import promoted
from artifact_pipelines_tests.cli.conftest import Command


@pytest.fixture
def model(registry: Registry) -> str:
    return promoted(registry, "a").reference


def test_an_export_names_what_it_wrote(command: Command, model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = command("export", model, "--to", out, "--json")
    again = command("export", model, "--to", out)
    whole = command("export", "digits", "--to", tmp_path / "whole")

    assert said.code == 0
    assert said.json() == {"folder": str(out), "artifacts": [model]}
    assert (out / "model" / "digits_v1" / "files" / "model.safetensors").is_file()
    assert (again.code, whole.code) == (2, 0)
    assert "is not empty" in again.err
    assert whole.out.startswith("6 artifacts are in ")


def test_a_card_is_printed_as_it_is_uploaded(command: Command, model: str) -> None:
    said = command("model", "card", "digits@production")
    wrong = command("model", "card", "digits@nowhere")

    assert said.code == 0
    assert said.out.startswith("---\nlibrary_name:")
    assert f"# {model}" in said.out
    assert (wrong.code, wrong.out) == (2, "")


@pytest.mark.usefixtures("model")
def test_events_are_one_object_a_line(command: Command) -> None:
    said = command("run", "events", "digits/a")
    wrong = command("run", "events", "digits/a@1")

    assert [json.loads(line)["eventType"] for line in said.out.splitlines()] == [
        "START",
        "COMPLETE",
    ]
    assert wrong.code == 2
    assert "is no training run" in wrong.err


def test_a_lineage_is_shown_up_and_down_as_text_graph_and_picture(
    command: Command, model: str, tmp_path: Path
) -> None:
    up = command("lineage", "show", model)
    down = command("lineage", "show", "digits/images@1", "--down")
    below = command("lineage", "show", "digits/images@1", "--down", "--json").json()
    folded = command("lineage", "show", "digits/images@1", "--down", "--dot")
    every = command("lineage", "show", "digits/images@1", "--down", "--dot", "--all")
    drawn = command("lineage", "show", model, "--svg", tmp_path / "l.svg")
    bottom = command("lineage", "show", model, "--down")
    top = command("lineage", "show", "digits/images@1")

    assert "digits/images@1" in up.out
    assert model in down.out
    assert below["down"]
    assert {edge["child"] for edge in below["edges"]} == {
        *("digits/a", "digits/a@0", "digits/a@1", "digits/a@2", model)
    }
    assert folded.out.startswith("digraph")
    assert "digits/a@1" in every.out
    assert folded.out.count("->") < every.out.count("->")
    assert ET.parse(tmp_path / "l.svg").getroot().tag.endswith("svg")  # noqa: S314 (our own)
    assert str(tmp_path / "l.svg") in drawn.out
    assert bottom.out == f"{model} has no descendants.\n"
    assert top.out == "digits/images@1 was made from nothing.\n"


def test_what_was_trained_here_is_written_to_be_trained_again(
    command: Command, model: str, tmp_path: Path
) -> None:
    not_here = command("run", "reproduce", "digits/a", "--to", tmp_path / "o")
    no_run = command("run", "reproduce", model, "--to", tmp_path / "o")

    assert (not_here.code, no_run.code) == (2, 2)
    assert "was not trained here" in not_here.err
    assert "is no training run" in no_run.err
    assert not (tmp_path / "o").exists()
