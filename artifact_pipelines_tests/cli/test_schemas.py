"""Schemas on the command line: registered, shown, and refused where readers would break."""

from pathlib import Path

import pytest
import yaml

from artifact_pipelines_tests.cli.conftest import Command

MLP = {"tensors": {"w": {"dtype": ["F32"], "shape": ["n", 4]}}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "layout.yaml"
    path.write_text(yaml.safe_dump(MLP))
    return path


def test_a_schema_is_registered_listed_and_shown(command: Command, file: Path) -> None:
    assert command("schema", "list").out == "There are no schemas yet.\n"
    said = command("schema", "register", "digits", "mlp", str(file))

    assert (said.code, said.out) == (0, "digits/mlp@1 is registered, checked for FULL.\n")
    assert "{schema: mlp@1}" in said.err
    assert command("schema", "list", "--json").json()["schemas"][0]["schema"] == "mlp@1"
    shown = command("schema", "show", "digits", "mlp@1", "--json").json()
    assert shown["layout"] == MLP
    assert "dtype" in command("schema", "show", "digits", "mlp").out


def test_a_version_that_readers_cannot_follow_exits_with_one(command: Command, file: Path) -> None:
    command("schema", "register", "digits", "mlp", str(file))
    file.write_text(yaml.safe_dump({"tensors": {"w": {"dtype": "F16"}}}))
    checked = command("schema", "check", "digits", "mlp", str(file))
    told = command("schema", "check", "digits", "mlp", str(file), "--mode", "forward", "--json")
    refused = command("schema", "register", "digits", "mlp", str(file))

    assert (checked.code, told.code, refused.code) == (1, 1, 1)
    assert "It may not follow digits/mlp@1, checked for FULL:" in checked.out
    assert told.json()["against"] == "mlp@1"
    assert all(reason.startswith("FORWARD: ") for reason in told.json()["reasons"])
    assert "was not registered: BACKWARD: the tensor w may be F32, not F16" in refused.err
    assert command("schema", "check", "digits", "mlp", str(file), "--mode", "none").code == 0


@pytest.mark.parametrize(
    "text, said",
    [
        ("[1]", "holds no mapping"),
        ("{", "cannot be read"),
        ("{tensor: {}}", "is wrong at 'tensor'"),
    ],
)
def test_a_file_that_is_no_layout_is_one_sentence(
    command: Command, file: Path, text: str, said: str
) -> None:
    file.write_text(text)
    found = command("schema", "register", "digits", "mlp", str(file))

    assert found.code == 2
    assert said in found.err
    assert found.err.count("\n") == 1


def test_a_mode_that_is_none_is_named(command: Command, file: Path) -> None:
    found = command("schema", "register", "digits", "mlp", str(file), "--mode", "SIDEWAYS")

    assert found.code == 2
    assert "choose one of BACKWARD, FORWARD, FULL, BACKWARD_TRANSITIVE, " in found.err
