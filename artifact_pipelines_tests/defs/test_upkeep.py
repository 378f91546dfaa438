"""The platform's assets say how the registry is, and never touch what is in use."""

from typing import Any

import dagster as dg
import pytest

from artifact_pipelines.definitions import defs
from artifact_pipelines_tests import building
from artifact_pipelines_tests.world import World


def shown(world: World, asset: str, **asked: Any) -> tuple[dict[str, Any], dict[str, bool]]:
    """Materialize a platform asset, asked for so; return its metadata and its checks."""
    key = dg.AssetKey(["registry", asset])
    quiet: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    if asked:
        quiet["ops"] = {key.to_python_identifier(): {"config": asked}}
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[key], instance=world.instance, run_config=quiet
    )
    (event,) = result.get_asset_materialization_events()
    checks = {found.check_name: found.passed for found in result.get_asset_check_evaluations()}
    return {name: value.value for name, value in event.materialization.metadata.items()}, checks


def test_a_tree_head_covers_every_leaf(world: World) -> None:
    with world.registry() as registry:
        building.run(registry, "run-1")
        leaves = registry.verify_ledger().leaves
    head, _ = shown(world, "tree_head")

    assert head["leaves"] == leaves
    with world.registry() as registry:
        assert registry.verify_ledger().signed == leaves


def test_a_scrub_names_who_needs_what_is_damaged(world: World) -> None:
    with world.registry() as registry:
        building.run(registry, "run-1", steps=1)
    whole, checks = shown(world, "scrub")
    pack = next((world.home / "store" / "packs").rglob("??" + "?" * 30))
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(bytes(data))
    damaged, failed = shown(world, "scrub")

    assert (whole["damaged"], checks) == (0, {"bytes": True, "ledger": True})
    assert damaged["damaged"] == 1
    assert failed == {"bytes": False, "ledger": True}


def test_a_scrub_heals_from_the_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACT_PIPELINES_REPLICA_URL", "memory://scrub-heals")
    with world.registry() as registry:
        building.run(registry, "run-1", steps=1)
        registry.replicate("memory://scrub-heals")
    pack = next((world.home / "store" / "packs").rglob("??" + "?" * 30))
    pack.unlink()
    found, checks = shown(world, "scrub")

    assert found["damaged"] == 0
    assert found["healed"] > 0
    assert checks == {"bytes": True, "ledger": True}


def test_a_scrub_in_shards_finds_what_one_in_a_piece_finds(world: World) -> None:
    with world.registry() as registry:
        building.run(registry, "run-1", steps=6)
        key = next(iter(registry.store.backend.keys("packs/")))
        data = bytearray(registry.store.backend.get(key))
        data[100] ^= 1
        registry.store.backend.put(key, bytes(data))
    whole, failed = shown(world, "scrub")
    cut, also_failed = shown(world, "scrub", shard_megabytes=0.001)

    assert whole["shards"] == 1
    assert cut["shards"] > 3
    assert failed == also_failed == {"bytes": False, "ledger": True}
    for figure in ("packs", "chunks", "megabytes", "damaged"):
        assert cut[figure] == whole[figure], figure


def test_a_drill_in_shards_brings_each_artifact_back_once(world: World) -> None:
    with world.registry() as registry:
        building.promoted(registry, "run-1")
    found, checks = shown(world, "restore_drill", shard_megabytes=0.001, sample=3)
    with world.registry() as registry:
        drilled = [event.subject for event in registry.ledger(limit=99) if event.action == "drill"]

    assert (found["drilled"], found["shards"], checks) == (3, 3, {"restorable": True})
    assert len(drilled) == len(set(drilled)) == 3


def test_what_steps_hand_on_is_no_stray(world: World) -> None:
    with world.registry() as registry:
        building.run(registry, "run-1")
    shown(world, "scrub")
    with world.registry() as registry:
        left = list(registry.store.backend.keys("steps/"))
        registry.prune(grace=0)

        assert left == list(registry.store.backend.keys("steps/"))
        assert left
        assert registry.strays().ok


def test_prune_leaves_what_is_in_use(world: World) -> None:
    with world.registry() as registry:
        building.run(registry, "run-1")
    found, checks = shown(world, "prune")

    assert (found["condemned"], found["deleted"]) == (0, 0)
    assert checks == {"two_engines_agree": True}
    with world.registry() as registry:
        assert registry.verify("digits/run-1@1").ok


def test_the_storage_report_has_a_line_per_project(world: World) -> None:
    with world.registry() as registry:
        building.run(registry, "run-1")
    found, _ = shown(world, "storage_report")

    assert found["logical_bytes"] > 0
    assert [row.data["project"] for row in found["projects"].records] == ["digits"]


def test_the_platform_has_schedules_and_sensors_that_run() -> None:
    schedules = {found.name: found for found in defs.schedules or ()}

    assert schedules.keys() == {
        "tree_head_hourly",
        "prune_daily",
        "scrub_weekly",
        "storage_report_weekly",
        "restore_drill_weekly",
    }
    assert {found.default_status for found in schedules.values()} == {
        dg.DefaultScheduleStatus.RUNNING
    }
    assert all(found.description for found in schedules.values())
    assert [found.name for found in defs.sensors or ()] == ["run_failures", "inbox"]
    dg.Definitions.validate_loadable(defs)


def test_a_restore_drill_says_when_each_model_was_last_proven(world: World) -> None:
    with world.registry() as registry:
        model = building.promoted(registry, "run-1")
    found, checks = shown(world, "restore_drill")

    assert found["drilled"] == 4
    assert found["never_proven"] == 0
    assert f"- {model.reference} (hot): 20" in found["last_proven_restorable"]
    assert checks == {"restorable": True}


def test_a_failed_drill_fails_its_check(world: World) -> None:
    with world.registry() as registry:
        building.promoted(registry, "run-1")
        for key in list(registry.store.backend.keys("packs/")):
            registry.store.backend.delete(key)
    _, checks = shown(world, "restore_drill")

    assert checks == {"restorable": False}
