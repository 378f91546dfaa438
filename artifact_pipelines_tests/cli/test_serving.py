"""Models and their way through the stages on the command line."""

import re
from pathlib import Path

import pytest

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import approve, candidate, judge, promoted, run
from artifact_pipelines_tests.cli.conftest import Command, damage

PRODUCTION = ("--stage", "production")


def test_a_model_goes_to_production_with_a_request_and_an_approval(
    command: Command, registry: Registry
) -> None:
    candidate(registry, "run-0001")
    refused = command("model", "promote", "digits/v1", *PRODUCTION)
    steps = [
        command("key", "create", "alice"),
        command("model", "request", "digits/v1", *PRODUCTION, "--reason", "better"),
        command("model", "approve", "digits/v1", *PRODUCTION, "--key", "alice"),
        command("model", "promote", "digits/v1", *PRODUCTION, "--json"),
    ]

    assert (refused.code, refused.out) == (1, "")
    assert "digits/v1 may not be promoted to production" in refused.err
    assert [step.code for step in steps] == [0, 0, 0, 0]
    assert steps[-1].json()["stage"] == "digits@production"
    assert registry.resolve("digits@production").model.reference == "digits/v1"


def test_promoting_what_is_in_place_changes_nothing(command: Command, registry: Registry) -> None:
    promoted(registry, "run-0001")
    said = command("model", "promote", "digits/v1", *PRODUCTION, "--json")

    assert said.code == 0
    assert said.json()["changed"] is False


def test_an_approval_without_a_request_is_refused(command: Command, registry: Registry) -> None:
    candidate(registry, "run-0001")
    registry.create_key("alice")
    said = command("model", "approve", "digits/v1", *PRODUCTION, "--key", "alice")

    assert said.code == 1
    assert "artifact-pipelines model request digits/v1 --stage production" in said.err


def test_an_approval_needs_a_key_that_is_there(command: Command, registry: Registry) -> None:
    candidate(registry, "run-0001")
    registry.request("digits/v1", "production")
    said = command("model", "approve", "digits/v1", *PRODUCTION, "--key", "mallory")

    assert said.code == 2
    assert "artifact-pipelines key create mallory" in said.err


@pytest.mark.parametrize("pointer", ["digits", "digits@production"])
def test_a_rollback_is_one_command_and_shows_in_the_history(
    command: Command, registry: Registry, pointer: str
) -> None:
    promoted(registry, "a", seed=1)
    promoted(registry, "b", seed=2)
    back = command("model", "rollback", pointer, "--reason", "drill", "--json")
    moves = command("model", "history", pointer, "--json").json()["moves"]

    assert (back.code, back.json()["reference"]) == (0, "digits/v1")
    assert [(move["action"], move["reference"]) for move in moves] == [
        ("promote", "digits/v1"),
        ("promote", "digits/v2"),
        ("rollback", "digits/v1"),
    ]


def test_a_rollback_to_nothing_is_refused(command: Command, registry: Registry) -> None:
    promoted(registry, "a")
    said = command("model", "rollback", "digits")

    assert said.code == 1
    assert "no whole model was promoted before" in said.err


def test_the_history_answers_for_a_time(command: Command, registry: Registry) -> None:
    promoted(registry, "a", seed=1)
    promoted(registry, "b", seed=2)
    first, second = command("model", "history", "digits", "--json").json()["moves"]
    then = command("model", "history", "digits", "--at", first["time"], "--json").json()["moves"]
    before = command("model", "history", "digits", "--at", "2001-01-01", "--json").json()
    live = command("model", "history", "digits", "--at", first["time"], "--json").json()["live"]
    said = command("model", "history", "digits", "--at", first["time"]).out

    assert then == [first]
    assert second["reference"] == "digits/v2"
    assert (before["moves"], before["live"]) == ([], None)
    assert live == first
    assert said.startswith(f"digits@production at {first['time']} was digits/v1\nsince ")
    assert f"under the policy {first['policy'][:8]}" in said
    assert f"by {first['actor']} (promote)." in said


def test_a_time_that_is_none_is_a_usage_error(command: Command, registry: Registry) -> None:
    promoted(registry, "a")

    assert command("model", "history", "digits", "--at", "yesterday").code == 2


def test_a_list_tells_which_gates_failed(command: Command, registry: Registry) -> None:
    candidate(registry, "good", seed=1)
    bad = registry.publish_model(run(registry, "bad", seed=2)[-1])
    judge(registry, bad, passed=False)
    rows = command("model", "list", "--json").json()["models"]
    shown = command("model", "list").out.splitlines()

    assert re.search("digits/v1 +[0-9]+ passed .* live", shown[2])
    assert re.search("digits/v2 +2 failed .* failed", shown[3])
    assert [row["checkpoint"] for row in rows] == ["digits/good@2", "digits/bad@2"]
    assert rows[0]["gates"]["failed"] == []
    assert rows[1]["gates"] == {"passed": 0, "failed": ["integrity", "safety"]}


def test_a_model_shows_what_stands_against_it(command: Command, registry: Registry) -> None:
    candidate(registry, "a")
    ready = command("model", "show", "digits/v1", "--json").json()["readiness"]

    assert ready["staging"] == {
        "serving": False,
        "reasons": [],
        "requested": [],
        "rollback": None,
    }
    assert "approv" in " ".join(ready["production"]["reasons"])


def test_what_production_serves_is_shown_with_its_proof(
    command: Command, registry: Registry
) -> None:
    promoted(registry, "a")
    shown = command("model", "show", "digits@production", "--json").json()

    assert shown["proof_verified"] is True
    assert shown["stages"] == ["production"]
    assert {verdict["gate"] for verdict in shown["verdicts"]} == {"integrity", "safety"}


def test_what_sql_made_a_stage_serve_is_not_shown_as_served(
    command: Command, registry: Registry
) -> None:
    first = promoted(registry, "a")
    promoted(registry, "b", seed=2)
    with registry.catalog.engine.begin() as conn:
        conn.exec_driver_sql(f"update stage set artifact = '{first.id}'")
    for words in (
        ("model", "show", "digits@production"),
        ("model", "show", "digits/v1"),
        ("lineage", "show", "digits@production"),
        ("model", "promote", "digits/v1", *PRODUCTION, "--yes"),
    ):
        said = command(*words)
        assert (said.code, said.out) == (1, ""), words
        assert "and the ledger says" in said.err


def test_a_model_is_fetched_without_its_training_state(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    promoted(registry, "a")
    said = command("model", "fetch", "digits@production", "--to", tmp_path / "model", "--json")

    assert said.code == 0
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]


def test_a_stage_that_serves_nothing_cannot_be_fetched(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    candidate(registry, "a")
    said = command("model", "fetch", "digits@production", "--to", tmp_path / "model")

    assert said.code == 2
    assert "serves nothing yet" in said.err


def test_a_damaged_model_is_not_promoted(command: Command, registry: Registry, home: Path) -> None:
    approve(registry, candidate(registry, "a"))
    damage(registry, home, "digits/v1")
    said = command("model", "promote", "digits/v1", *PRODUCTION)

    assert said.code == 1
    assert "is damaged" in said.err
    assert registry.stages("digits") == {}


def test_a_deployment_polls_with_the_tag_it_got(command: Command, registry: Registry) -> None:
    promoted(registry, "a")
    first = command("model", "resolve", "digits@production", "--json").json()
    again = command("model", "resolve", "digits@production", "--known", first["tag"], "--json")
    promoted(registry, "b", seed=2)
    moved = command("model", "resolve", "digits@production", "--known", first["tag"], "--json")

    assert (first["reference"], first["changed"]) == ("digits/v1", True)
    assert again.json() == {"stage": "digits@production", "tag": first["tag"], "changed": False}
    assert (moved.json()["reference"], moved.json()["tag"] > first["tag"]) == ("digits/v2", True)


def test_a_run_is_judged_again_where_it_must_be(
    command: Command, registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(registry, "a")
    model = candidate(registry, "b", seed=2)
    approve(registry, model)
    promoted(registry, "c", seed=3)
    refused = command("model", "promote", model.reference, *PRODUCTION)
    monkeypatch.chdir(home.parent)  # away from the example of the same name
    judged = command("model", "evaluate", model.reference, "--json")
    again = command("model", "evaluate", "digits/b")

    assert refused.code == 1
    assert refused.err.count("was judged against another production model") == 1
    assert "each of the gates integrity, safety was judged" in refused.err
    assert (judged.code, judged.json()["chosen"]) == (0, model.reference)
    assert {one["passed"] for one in judged.json()["models"][0]["verdicts"]} == {True}
    assert "digits/v2 passes every gate." in again.out
    assert "was judged against" not in command("model", "promote", "digits/v2", *PRODUCTION).err


def test_a_run_that_fails_its_gates_says_so(
    command: Command, registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    promoted(registry, "a")
    run(registry, "b", seed=5)
    registry.set_policy("digits", Policy.of({"gates": [{"formats": ["json"]}]}))
    said = command("model", "evaluate", "digits/b")

    assert said.code == 1
    assert "No model of digits/b passes every gate." in said.out
    assert "FAILED" in said.out
    named = command("model", "evaluate", "digits/v1")
    assert (named.code, "digits/v1 does not pass every gate." in named.out) == (1, True)
    other = command("model", "evaluate", "digits/b@1")
    assert (other.code, "write a run, or a model" in other.err) == (2, True)
    assert f"The policy is {registry.policy('digits').digest[:12]}, in force since" in said.out


def test_a_rollback_is_rehearsed(command: Command, registry: Registry, home: Path) -> None:
    promoted(registry, "a")
    early = command("model", "rehearse", "digits")
    promoted(registry, "b", seed=2)
    before = command("model", "show", "digits/v2", "--json").json()["readiness"]["production"]
    ready = command("model", "rehearse", "digits", "--json")
    after = command("model", "show", "digits/v2", "--json").json()["readiness"]["production"]
    damage(registry, home, "digits/v1")
    broken = command("model", "rehearse", "digits")
    table = command("model", "show", "digits/v2").out

    assert (early.code, "CANNOT be rolled back" in early.out) == (1, True)
    assert (ready.code, ready.json()["reference"]) == (0, "digits/v1")
    assert ready.json()["size_bytes"] == 8080
    assert ready.json()["said"] == ["a fresh process read its tensors: 1"]
    assert before["rollback"] == {
        "reference": "digits/v1",
        "rehearsed": None,
        "seconds": None,
        "ready": None,
    }
    assert after["rollback"]["seconds"] == pytest.approx(ready.json()["seconds"], abs=0.001)
    assert after["rollback"]["ready"] is True
    assert (broken.code, "CANNOT" in broken.out) == (1, True)
    assert "digits/v1, rehearsed FAILED" in " ".join(table.split())


STRANGE = {
    ("rollback", "nope"): "there is no project 'nope'; there is digits.",
    ("rollback", "digits", "--stage", "nope"): "no stage 'nope' of digits; it has production, st",
    ("rollback", "digits/v1"): "'digits/v1' is no stage; write digits@production.",
    ("history", "digits@nope"): "no stage 'nope' of digits; it has production, staging.",
    ("history", "digits/v1"): "'digits/v1' is no stage; write digits@production.",
    ("rehearse", "digits@nope"): "no stage 'nope' of digits; it has production, staging.",
    ("resolve", "digits@prod"): "no stage 'prod' of digits; it has production, staging.",
    ("resolve", "digits@staging"): "digits@staging serves nothing yet",
    ("show", "digits/v9"): "there is no artifact 'digits/v9'; digits has v1.",
    ("promote", "digits/v1", "--stage", ""): "stage name '' must have",
    ("request", "digits/v1", "--stage", ""): "stage name '' must have",
}


@pytest.mark.parametrize("words", STRANGE)
def test_what_is_not_there_is_named_with_what_is(
    command: Command, registry: Registry, words: tuple[str, ...]
) -> None:
    promoted(registry, "a")
    said = command("model", *words)

    assert (said.code, said.out) == (2, ""), said.err
    assert STRANGE[words] in said.err
