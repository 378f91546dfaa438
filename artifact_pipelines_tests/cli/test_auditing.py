"""Proof, keys, the catalog and the state of the installation on the command line."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from artifact_pipelines.cli import app
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import candidate, promoted, run
from artifact_pipelines_tests.cli.conftest import Command, damage


def test_a_whole_ledger_verifies(command: Command, registry: Registry) -> None:
    promoted(registry, "a")
    said = command("audit", "verify", "--json")

    assert (said.code, said.json()["ok"]) == (0, True)
    assert said.json()["served"] == [{"stage": "digits@production", "ok": True}]
    assert said.json()["root"] == registry.sign_head().root.hex()


def test_a_changed_row_is_noticed(command: Command, registry: Registry, home: Path) -> None:
    promoted(registry, "a")
    with sqlite3.connect(home / "catalog.db") as database:
        database.execute("UPDATE metric SET value = 0.99")
    said = command("audit", "verify")

    assert said.code == 1
    assert "WRONG the table metric was changed" in said.out


def test_damage_to_what_production_serves_is_named(
    command: Command, registry: Registry, home: Path
) -> None:
    promoted(registry, "a")
    damage(registry, home, "digits/v1")
    said = command("audit", "verify", "--json")

    assert said.code == 1
    assert "digits/v1" in " ".join(said.json()["problems"])
    assert said.json()["served"] == [{"stage": "digits@production", "ok": False}]


def test_the_log_tells_who_did_what(command: Command, registry: Registry) -> None:
    promoted(registry, "a")
    (leaf,) = command("audit", "log", "--action", "promote", "--json").json()["leaves"]
    newest = command("audit", "log", "--limit", "2", "--json").json()["leaves"]

    assert (leaf["actor"], leaf["subject"]) == ("tester", "digits/production")
    assert leaf["body"]["stage"] == "production"
    assert [item["leaf"] for item in newest] == [newest[0]["leaf"], newest[0]["leaf"] + 1]


def test_a_key_is_made_once_and_stays_private(command: Command, home: Path) -> None:
    first = command("key", "create", "alice", "--json").json()
    again = command("key", "create", "alice", "--json").json()
    listed = command("key", "list", "--json").json()["keys"]

    assert first == again
    assert stat.S_IMODE((home / "keys" / "alice.key").stat().st_mode) == 0o600
    assert {key["name"]: key["roles"] for key in listed}["alice"] == ["approver"]


@pytest.mark.parametrize("words", [["../alice"], ["alice", "--role", "king"]])
def test_a_key_that_may_not_be_is_refused(command: Command, words: list[str]) -> None:
    said = command("key", "create", *words)

    assert said.code == 2
    assert said.err.startswith("Error: ")


def test_a_lost_catalog_is_rebuilt_from_the_store(
    command: Command, registry: Registry, home: Path
) -> None:
    promoted(registry, "a")
    before = command("model", "list", "--json").json()
    registry.close()
    for file in home.glob("catalog.db*"):
        file.unlink()
    lost = command("model", "list")
    rebuilt = command("catalog", "rebuild", "--yes", "--json")

    assert lost.code == 2
    assert "artifact-pipelines catalog rebuild" in lost.err
    assert rebuilt.code == 0
    assert command("model", "list", "--json").json() == before
    assert command("audit", "verify").code == 0


def test_the_former_catalog_is_kept_beside_the_new_one(
    command: Command, registry: Registry
) -> None:
    run(registry, "a")
    registry.close()
    rebuilt = command("catalog", "rebuild", "--yes", "--json").json()

    assert Path(rebuilt["former"]).is_file()
    assert command("run", "list", "--json").json()["runs"][0]["reference"] == "digits/a"


def test_a_catalog_is_not_replaced_without_a_yes(command: Command, registry: Registry) -> None:
    run(registry, "a")

    assert command("catalog", "rebuild").code == 2


def test_a_rebuild_can_go_elsewhere(command: Command, registry: Registry, tmp_path: Path) -> None:
    run(registry, "a")
    url = f"sqlite:///{tmp_path / 'other.db'}"
    first = command("catalog", "rebuild", "--to", url)
    again = command("catalog", "rebuild", "--to", url)

    assert first.code == 0
    assert again.code == 2
    assert "holds a ledger already" in again.err


def test_a_rebuild_without_a_store_leaves_nothing_behind(command: Command, home: Path) -> None:
    said = command("catalog", "rebuild", "--yes")

    assert said.code == 2
    assert list(home.glob("catalog.db*")) == []


def test_the_doctor_makes_no_home(command: Command, home: Path) -> None:
    said = command("doctor", "--json")

    assert (said.code, said.json()["ok"]) == (0, True)
    assert not home.exists()


def test_the_doctor_sees_keys_that_others_can_read(
    command: Command, registry: Registry, home: Path
) -> None:
    run(registry, "a")
    (home / "keys").chmod(0o755)
    said = command("doctor", "--json")
    states = {check["check"]: check["state"] for check in said.json()["checks"]}

    assert (said.code, states["keys"]) == (2, "fail")


def test_a_file_that_is_no_catalog_is_one_sentence(command: Command, home: Path) -> None:
    home.mkdir()
    (home / "catalog.db").write_bytes(b"not a database, but long enough to look at" * 50)
    said = command("run", "list")

    assert said.code == 2
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1


def test_a_home_that_is_a_file_is_one_sentence(command: Command, home: Path) -> None:
    home.write_text("in the way")
    said = command("key", "create", "alice")

    assert said.code == 2
    assert "cannot be" in said.err


def test_a_setting_that_cannot_be_used_is_one_sentence(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACT_PIPELINES_CATALOG_URL", "postgres://somewhere/db")
    said = command("run", "list")

    assert said.code == 2
    assert "does not name its driver" in said.err


def test_json_is_plain_even_where_colour_is_forced(registry: Registry, home: Path) -> None:
    run(registry, "a")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from artifact_pipelines.cli import main; main()",
            "run",
            "list",
            "--json",
        ],
        capture_output=True,
        check=True,
        env={**os.environ, "FORCE_COLOR": "1", "ARTIFACT_PIPELINES_HOME": str(home)},
    )

    assert b"\x1b" not in done.stdout
    assert json.loads(done.stdout)["runs"]


def test_an_unknown_word_is_a_usage_error(command: Command) -> None:
    assert command("model", "destroy").code == 2
    assert command("--version").code == 0


def test_every_command_has_help(command: Command) -> None:
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for verb in group.typer_instance.registered_commands:
            said = command(str(group.name), str(verb.name), "--help")

            assert said.code == 0
            assert verb.callback is not None
            assert verb.callback.__doc__


def test_evidence_is_exported_and_checked(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    promoted(registry, "a")
    key = registry.keys.load("log").public.hex
    said = command("audit", "export", "digits@production", "--to", str(tmp_path / "b"), "--json")
    loose = command("audit", "verify-bundle", str(tmp_path / "b"))
    anchored = command("audit", "verify-bundle", str(tmp_path / "b"), "--key", key)
    (tmp_path / "b" / "proof.json").unlink()
    broken = command("audit", "verify-bundle", str(tmp_path / "b"))

    assert (said.code, said.json()["ok"], said.json()["anchored"]) == (0, True, True)
    assert (loose.code, "UNANCHORED" in loose.out) == (0, True)
    assert (anchored.code, "UNANCHORED" in anchored.out) == (0, False)
    assert (broken.code, "NOT VERIFIED (dropped): proof.json" in broken.out) == (1, True)


def test_keys_are_registered_rotated_and_revoked(command: Command, registry: Registry) -> None:
    promoted(registry, "a")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    registered = command("key", "register", "dora", public, "--json")
    rotated = command("key", "rotate", "alice", "--reason", "yearly", "--json")
    log = command("key", "rotate", "log", "--json")
    revoked = command("key", "revoke", "dora", "--reason", "left", "--json")
    last = command("key", "revoke", "owner", "--reason", "x")

    shown = {row["key"]: row["revoked"] for row in command("key", "list", "--json").json()["keys"]}
    assert registered.json() == {
        "name": "dora",
        "key": "21fe31dfa154a261",
        "roles": ["approver"],
        "public": public,
        "revoked": None,
    }
    heads = [row for row in command("key", "list", "--json").json()["keys"] if row["name"] == "log"]
    assert [(row["roles"], row["revoked"] is None) for row in heads] == [
        (["log"], False),
        (["log"], True),
    ]
    assert heads[1]["key"] == log.json()["key"]
    assert shown["21fe31dfa154a261"] == revoked.json()["revoked"]
    assert shown[rotated.json()["key"]] is None
    assert log.json()["public"] == registry.log_key().hex
    assert (last.code, "last key of an owner" in last.err) == (2, True)


def test_a_witness_keeps_heads(command: Command, registry: Registry, tmp_path: Path) -> None:
    promoted(registry, "a")
    first = command("audit", "witness", "--to", str(tmp_path / "w"), "--json")
    again = command("audit", "witness", "--to", str(tmp_path / "w"))

    assert first.json()["cosigned"]
    assert "is the one that was seen" in again.out
    assert len(list((tmp_path / "w" / "heads").iterdir())) == 1


DAMAGE = {
    "delete from leaf where seq >= 8": (1, "the ledger has 8 leaves of 16"),
    "delete from leaf where seq = 15": (1, "the ledger lacks leaf 15"),
    "delete from leaf where seq = 3": (0, "leaf 4 stands where leaf 3 should"),
    "update alembic_version set version_num = 'zz'": (2, "its schema is 'zz'"),
    "delete from tree_head": (1, "which no signed tree head covers"),
}


@pytest.mark.parametrize("statement", DAMAGE)
def test_a_damaged_database_is_told_in_sentences(
    command: Command, registry: Registry, statement: str
) -> None:
    promoted(registry, "a")
    with registry.catalog.engine.begin() as conn:
        conn.exec_driver_sql(statement)
    code, sentence = DAMAGE[statement]
    resolved = command("model", "resolve", "digits@production")
    verified = command("audit", "verify")

    assert resolved.code == code, resolved.err
    assert verified.code == (2 if code == 2 else 1), verified.err
    assert sentence in resolved.err + verified.out + verified.err


@pytest.mark.parametrize(
    "words",
    [
        ("model", "compare", "digits/v1", "digits/v1", "--svg"),
        ("lineage", "show", "digits/v1", "--svg"),
        ("model", "provenance", "digits/v1", "--to"),
        ("audit", "witness", "--to"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(
    command: Command, registry: Registry, words: tuple[str, ...], tmp_path: Path
) -> None:
    promoted(registry, "a")
    (tmp_path / "file").write_text("mine")
    said = command(*words, tmp_path / "file" / "x")

    assert (said.code, "Traceback" in said.err) == (2, False)
    assert f"{tmp_path / 'file'}" in said.err
    assert "Not a directory" in said.err


WRONG = {
    ("key", "register", "bob", "zzzz"): (2, "'zzzz' is no public key of 64 lowercase"),
    ("key", "register", "bob", "0" * 64): (2, "a point of small order"),
    ("key", "rotate", "alice", "--public", "zzzz"): (2, "'zzzz' is no public key"),
    ("key", "create", ""): (2, "key name '' must have"),
    ("key", "revoke", "alice", "--reason", " "): (2, "say why the key 'alice' ends"),
    ("audit", "log", "--action", "bogus"): (2, "'bogus'; expected one of alarm, alias_set"),
    ("model", "request", "digits/v1", "--stage", "production"): (1, "it is there already"),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_meant_is_refused(
    command: Command, registry: Registry, words: tuple[str, ...]
) -> None:
    promoted(registry, "a")
    size = len(registry.events(limit=1_000))
    said = command(*words)

    assert (said.code, said.out) == (WRONG[words][0], ""), said.err
    assert WRONG[words][1] in said.err
    assert len(registry.events(limit=1_000)) == size


@pytest.mark.parametrize(
    "key, said",
    [
        ("owner", "the key 'owner' is registered as owner and not as approver; use another"),
        ("service", "and not as approver; use another"),
        ("log", "the key 'log' is registered as the signer of the tree heads"),
        ("../keys/x", "key name '../keys/x' must have"),
        ("nobody", "artifact-pipelines key create nobody"),
    ],
)
def test_a_key_that_may_not_approve_says_what_can(
    command: Command, registry: Registry, key: str, said: str
) -> None:
    candidate(registry, "a")
    registry.request("digits/v1", "production")
    refused = command("model", "approve", "digits/v1", "--stage", "production", "--key", key)

    assert refused.code == 2
    assert said in refused.err
    assert "key create log" not in refused.err
