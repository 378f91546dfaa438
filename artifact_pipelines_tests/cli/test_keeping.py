"""Retention, prune and storage on the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.cli import keeping
from artifact_pipelines.cli.output import printable, short, size
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import promoted, run, tensors, trained
from artifact_pipelines_tests.cli.conftest import Command, damage


def test_a_plan_is_approved_applied_and_pruned(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    promoted(registry, "a", seed=1)
    run(registry, "b", steps=6, seed=2)
    command("prune", "run", "--yes")  # plants the canary
    page = tmp_path / "plan.html"
    plan = command("retention", "plan", "digits", "--html", str(page), "--json").json()
    before = command("storage", "report", "--json").json()["totals"]["stored_bytes"]
    early = command("retention", "apply", plan["plan"], "--yes")
    approved = command("retention", "approve", short(plan["plan"]), "--json").json()
    applied = command("retention", "apply", short(plan["plan"]), "--yes", "--json").json()
    pruned = command("prune", "run", "--grace", "0s", "--yes", "--json").json()
    after = command("storage", "report", "--json").json()["totals"]["stored_bytes"]

    assert "Retention plan for digits" in page.read_text()
    assert early.code == 1
    assert approved["state"] == "approved"
    assert len(applied["forgotten"]) == plan["totals"]["forget"]["artifacts"] > 0
    assert pruned["disagreements"] == []
    assert before - after == pruned["freed_bytes"] > 0
    assert pruned["condemned"] == 0  # what went at once waits for nothing
    assert command("retention", "show", plan["plan"], "--json").json()["state"] == "applied"


def test_a_long_plan_shows_all_that_goes_and_some_that_stays(
    command: Command, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_STAY_SHOWN", 2)
    promoted(registry, "a", seed=1)
    run(registry, "b", steps=6, seed=2)
    plan = registry.plan_retention("digits")
    said = command("retention", "plan", "digits")

    goes = plan.chosen("forget")
    assert all(item.reference in said.out for item in goes)
    assert f"… and {len(plan.items) - len(goes) - 2} more that stay" in said.out


def test_an_interrupted_apply_says_how_to_go_on(
    command: Command, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(registry, "a", seed=1)
    run(registry, "b", steps=6, seed=2)
    plan = registry.approve_plan(registry.plan_retention("digits").id)
    whole = Registry.application

    def interrupted(self: Registry, plan: str) -> Iterator[str]:
        for step in whole(self, plan):
            yield step
            if step == "forgotten":
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "application", interrupted)
        stopped = command("retention", "apply", short(plan.id), "--yes")
    left = command("retention", "apply", short(plan.id), "--yes", "--json").json()["forgotten"]

    assert stopped.code == 130
    assert f"To go on: artifact-pipelines retention apply {short(plan.id)}" in stopped.err
    assert len(left) == len(plan.chosen("forget")) - 1


def test_plans_are_listed_with_what_became_of_them(command: Command, registry: Registry) -> None:
    promoted(registry, "a", seed=1)
    run(registry, "b", steps=6, seed=2)
    plan = registry.approve_plan(registry.plan_retention("digits").id)
    plans = command("retention", "list", "digits", "--json").json()["plans"]

    assert [(row["plan"], row["state"]) for row in plans] == [(plan.id, "approved")]
    assert plans[0]["totals"] == plan.totals()
    assert plans == command("retention", "list", "--json").json()["plans"]
    assert short(plan.id) in command("retention", "list").out
    assert command("retention", "list", "other", "--json").json() == {"plans": []}


def test_a_project_of_the_platform_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(tensors(1))
    place = ("--project", "canary", "--run", "run-1", "--step", "1")
    refused = command("checkpoint", "import", str(tmp_path / "model.safetensors"), *place)

    assert refused.code == 2
    assert "project name 'canary' is the platform's own; use another" in refused.err


def test_the_lineage_of_what_was_forgotten_answers(command: Command, registry: Registry) -> None:
    promoted(registry, "a", seed=1)
    run(registry, "b", steps=6, seed=2)
    plan = registry.approve_plan(registry.plan_retention("digits").id)
    gone = registry.apply_plan(plan.id).forgotten[0]
    lineage = command("lineage", "show", gone, "--json").json()
    fetched = command("checkpoint", "fetch", gone, "--to", "/nowhere/at-all")

    assert lineage["state"] == "forgotten"
    assert lineage["edges"]
    assert fetched.code == 2
    assert "forgotten" in fetched.err


def test_nothing_is_removed_where_nobody_can_say_yes(command: Command, registry: Registry) -> None:
    promoted(registry, "a", seed=1)
    run(registry, "b", steps=6, seed=2)
    plan = registry.approve_plan(registry.plan_retention("digits").id)
    applied = command("retention", "apply", plan.id)
    pruned = command("prune", "run")

    assert (applied.code, pruned.code) == (2, 2)
    assert "--yes" in applied.err
    assert "--yes" in pruned.err
    assert registry.plan(plan.id).state == "approved"


def test_a_grace_that_is_no_time_is_a_usage_error(command: Command, registry: Registry) -> None:
    run(registry, "a")

    assert command("prune", "run", "--yes", "--grace", "soon").code == 2


def test_a_report_counts_what_is_logical_and_what_is_stored(
    command: Command, home: Path, registry: Registry
) -> None:
    run(registry, "a")
    report = command("storage", "report", "--json").json()
    packs = sum(path.stat().st_size for path in (home / "store/packs").rglob("*") if path.is_file())

    assert report["totals"]["stored_bytes"] == packs
    assert report["totals"]["logical_bytes"] == sum(
        project["logical_bytes"] for project in report["projects"]
    )


def test_an_empty_home_has_an_empty_report(command: Command, home: Path) -> None:
    report = command("storage", "report", "--json").json()

    assert set(report) == {"totals", "saved", "projects", "runs"}
    assert report["totals"]["stored_bytes"] == report["totals"]["logical_bytes"] == 0
    assert not home.exists()


def test_a_scrub_names_what_is_damaged_and_who_needs_it(
    command: Command, registry: Registry, home: Path
) -> None:
    run(registry, "a")
    whole = command("storage", "scrub", "--json")
    damage(registry, home, "digits/a@1")
    broken = command("storage", "scrub", "--json")
    said = command("storage", "scrub")

    assert (whole.code, whole.json()["ok"]) == (0, True)
    assert broken.code == said.code == 1
    assert [item["artifacts"] for item in broken.json()["damaged"]] == [["digits/a@1"]]
    assert "It is needed by digits/a@1.\n" in said.out


def test_sizes_are_for_people() -> None:
    assert [size(count) for count in (0, 1023, 1024, 1536, 5 << 30, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]


def test_what_a_terminal_would_obey_is_replaced() -> None:
    assert printable("a\x1b[2Jb\u202ec\nd") == "a\ufffd[2Jb\ufffdc\nd"


def test_a_run_is_archived_and_one_of_it_restored(command: Command, registry: Registry) -> None:
    made = trained(registry)
    archived = command("archive", "run", "digits/run-1", "--json")
    shown = command("checkpoint", "show", made[0].reference, "--json").json()
    restored = command("restore", "run", made[0].reference, "--json").json()

    assert archived.json()["moved"] == [found.reference for found in made]
    assert archived.json()["bytes_after"] < archived.json()["bytes_before"]
    assert "group 1 of 1" in archived.err
    assert shown["tier"] == "cold"
    assert {found["state"] for found in shown["files"]} == {"archived"}
    assert restored["moved"] == [made[0].reference]
    assert "is cold already" in command("archive", "run", "digits/run-1@2").out
    assert command("archive", "run", "digits/nothing").code == 2


def test_storage_is_compacted(command: Command, registry: Registry) -> None:
    (made,) = trained(registry, steps=1)
    registry.slim(made.reference, reason="small")
    done = command("storage", "compact", "--json").json()

    assert done["packs"] == 1
    assert done["freed_bytes"] > 0
    assert command("storage", "compact", "--threshold", "2").code == 2


def test_only_some_of_a_checkpoint_is_fetched(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    (made,) = trained(registry, steps=1)
    file, tensor = tmp_path / "file", tmp_path / "tensor"
    one = command(
        "checkpoint", "fetch", made.reference, "--to", file, "--only", "model.safetensors"
    )
    two = command("checkpoint", "fetch", made.reference, "--to", tensor, "--tensor", "weight")
    both = command(
        *("checkpoint", "fetch", made.reference, "--to", tmp_path / "x"),
        *("--only", "state.json", "--tensor", "weight"),
    )

    assert (one.code, two.code, both.code) == (0, 0, 2)
    assert [path.name for path in file.iterdir()] == ["model.safetensors"]
    assert [path.name for path in tensor.iterdir()] == ["tensors.safetensors"]


def test_a_policy_is_tried_on_what_has_happened(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    promoted(registry, "a", seed=1)
    file = tmp_path / "retention.yaml"
    file.write_text("retention: {keep: {last: 1, best: 0}, forget_after: 0s}")
    registry.publish_model(registry.find("digits/a@0"))
    said = command("retention", "backtest", "digits", "--policy", str(file), "--json")
    lax = command("retention", "backtest", "digits")

    assert said.code == 1
    assert ("digits/a@0", "digits/v2 was made from it") in {
        (regret["reference"], regret["how"]) for regret in said.json()["used_later"]
    }
    assert "would have gone by now" in lax.out
