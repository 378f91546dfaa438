"""What people say, on the command line."""

from pathlib import Path

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import promoted
from artifact_pipelines_tests.cli.conftest import Command


def test_what_is_said_is_shown_with_the_model(command: Command, registry: Registry) -> None:
    promoted(registry, "a")
    said = [
        command("alias", "set", "digits/v1", "champion"),
        command("tag", "set", "digits@champion", "status", "final", "--reason", "done"),
        command("note", "add", "digits/v1", "good at night"),
        command("banner", "set", "digits", "frozen"),
    ]
    shown = command("model", "show", "digits@champion", "--json").json()
    text = command("model", "show", "digits/v1").out

    assert [one.code for one in said] == [0, 0, 0, 0]
    assert (shown["aliases"], shown["tags"]) == (["champion"], {"status": "final"})
    assert [note["text"] for note in shown["notes"]] == ["good at night"]
    assert "! frozen (tester" in text
    assert "status=final" in text
    leaf = shown["notes"][0]["leaf"]
    assert command("audit", "erase", "--leaf", str(leaf), "--reason", "x", "--yes").code == 0
    assert command("note", "list", "digits/v1", "--json").json()["notes"] == []
    assert command("alias", "list", "digits", "--json").json()["aliases"][0]["alias"] == "champion"
    for words in (
        ("alias", "remove", "digits", "champion"),
        ("tag", "remove", "digits/v1", "status"),
        ("banner", "remove", "digits"),
    ):
        assert command(*words).code == 0
    assert command("audit", "verify").code == 0


def test_the_log_is_read_by_reference_and_time(command: Command, registry: Registry) -> None:
    promoted(registry, "a")
    about = command("audit", "log", "--subject", "digits/v1", "--json").json()["leaves"]
    moves = command("audit", "log", "--subject", "digits@production", "--json").json()["leaves"]
    none = command("audit", "log", "--until", "2020-01-01", "--json").json()["leaves"]

    assert {leaf["action"] for leaf in about} == {"publish", "verdict"}
    assert {leaf["action"] for leaf in moves} == {"request", "approval", "promote"}
    assert none == []
    assert command("audit", "log", "--since", "yesterday").code == 2


def test_an_alias_is_fetched_without_a_proof(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    promoted(registry, "a")
    command("alias", "set", "digits/v1", "champion")
    folder = tmp_path / "fetched"

    assert command("model", "fetch", "digits@champion", "--to", str(folder)).code == 0
    assert (folder / "model.safetensors").is_file()
