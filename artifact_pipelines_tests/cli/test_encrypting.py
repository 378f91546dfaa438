"""Encrypted projects on the command line."""

from pathlib import Path

from artifact_pipelines.registry import open_registry
from artifact_pipelines_tests.building import trained
from artifact_pipelines_tests.cli.conftest import Command


def test_a_project_is_encrypted_rotated_and_shredded(command: Command, home: Path) -> None:
    created = command("scope", "create", "digits", "--json").json()
    with open_registry(home, actor="tester") as opened:
        trained(opened, steps=1)
    rotated = command("scope", "rotate", "digits", "--json").json()
    listed = command("scope", "list", "--json").json()["scopes"]
    unsure = command("scope", "shred", "digits", "--reason", "ended")
    shredded = command("scope", "shred", "digits", "--reason", "ended", "--yes", "--json").json()
    read = command("checkpoint", "verify", "digits/run-1@1")

    assert created["state"] == "active"
    assert rotated == {"project": "digits", "wrapped": 1}
    assert [(one["project"], one["at_hand"]) for one in listed] == [("digits", True)]
    assert unsure.code == 2
    assert shredded["state"] == "shredded"
    assert read.code == 2
    assert "was destroyed" in read.err
    assert command("scope", "rotate", "other").code == 2


def test_doctor_says_that_a_key_is_gone(command: Command, home: Path) -> None:
    command("scope", "create", "digits")
    before = command("doctor", "--json").json()
    (home / "keys" / "scopes" / "digits.scope").unlink()
    after = command("doctor", "--json")

    def found(checks: list[dict[str, str]]) -> dict[str, str]:
        return next(one for one in checks if one["check"] == "scope digits")

    assert found(before["checks"])["state"] == "ok"
    assert after.code == 2
    assert found(after.json()["checks"])["state"] == "fail"
    assert "brought back from a backup" in found(after.json()["checks"])["said"]
