"""What is in use stays; what goes leaves a tombstone and frees its bytes."""

from pathlib import Path

import pytest

from artifact_pipelines.catalog import packs, tables
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import GoneError, PlanRefusedError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def forgotten(registry: Registry) -> tuple[str, ...]:
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    return registry.apply_plan(plan.id).forgotten


def test_a_plan_keeps_the_best_and_the_last(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1", steps=4)
    run = registry.start_run(PROJECT, "run-2")
    for step, accuracy in ((9, 0.5), (10, 0.9), (100, 0.1)):
        registry.publish_checkpoint(
            run, {"m.bin": b"%d" % step}, step=step, facts={"metrics": {"accuracy": accuracy}}
        )
    registry.finish_run(run, "finished")

    kept = {
        item.reference
        for item in registry.plan_retention(PROJECT).chosen("keep")
        if item.kind == "checkpoint"
    }
    assert kept == {"digits/run-1@3", "digits/run-2@10", "digits/run-2@100"}


def test_the_bytes_of_forgotten_checkpoints_are_freed(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1", steps=4)
    registry.prune()  # plants the canary
    before = registry.storage_report()["totals"]["stored_bytes"]

    assert forgotten(registry) == ("digits/run-1@0", "digits/run-1@1", "digits/run-1@2")
    pruned = registry.prune(grace=0)
    assert pruned.disagreements == ()
    assert pruned.freed > before // 2
    assert registry.storage_report()["totals"]["stored_bytes"] == before - pruned.freed
    assert registry.scrub().ok


def test_the_lineage_of_a_forgotten_checkpoint_still_answers(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1")
    forgotten(registry)
    registry.prune(grace=0)

    assert registry.lineage("digits/run-1@0")[0].parent.reference == "digits/run-1"
    with pytest.raises(GoneError, match="was forgotten by the rule 'forget_after'"):
        registry.read("digits/run-1@0", "model.safetensors")


def test_what_production_needs_is_held(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    building.promoted(registry, "run-2", seed=2)
    strict = Policy.of(
        {
            **building.POLICY.document(),
            "retention": {"keep": {"last": 0, "best": 0}, "forget_after": "0s"},
        }
    )
    registry.set_policy(PROJECT, strict)
    forgotten(registry)
    registry.prune(grace=0)

    assert registry.verify("digits@production").ok
    assert registry.rollback(PROJECT, "production").model == model


def test_the_resume_point_of_a_live_run_is_held(registry: Registry) -> None:
    strict = {
        **building.POLICY.document(),
        "retention": {"keep": {"last": 0, "best": 0}, "forget_after": "0s"},
    }
    registry.set_policy(PROJECT, Policy.of(strict))
    run = registry.start_run(PROJECT, "run-1")
    for step in range(3):
        registry.publish_checkpoint(run, {"m.bin": b"%d" % step}, step=step)

    assert forgotten(registry) == ("digits/run-1@0", "digits/run-1@1")


def test_a_plan_needs_an_approval(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1")

    with pytest.raises(PlanRefusedError, match="nobody has approved it"):
        registry.apply_plan(registry.plan_retention(PROJECT).id)


def test_a_plan_of_an_older_policy_is_refused(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    registry.set_policy(
        PROJECT, Policy.of({**building.POLICY.document(), "retention": {"forget_after": "1d"}})
    )

    with pytest.raises(PlanRefusedError, match="the policy has changed"):
        registry.apply_plan(plan.id)


def test_a_plan_that_removes_too_much_is_refused(registry: Registry) -> None:
    document = {**building.POLICY.document(), "retention": {"forget_after": "0s", "max_share": 0.1}}
    registry.set_policy(PROJECT, Policy.of(document))
    building.run(registry, "run-1", steps=5)

    with pytest.raises(PlanRefusedError, match="more than the policy's 10%"):
        registry.approve_plan(registry.plan_retention(PROJECT).id)


def test_what_was_put_on_hold_since_the_plan_is_skipped(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    registry.place_hold("digits/run-1@0", "lawsuit", "the court asked for it")
    applied = registry.apply_plan(plan.id)

    assert applied.forgotten == ("digits/run-1@1",)
    assert "lawsuit" in applied.skipped["digits/run-1@0"]


def test_an_applied_plan_may_be_applied_again(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1")
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    registry.apply_plan(plan.id)
    leaves = len(registry.events(limit=10_000))
    registry.apply_plan(plan.id)

    assert len(registry.events(limit=10_000)) == leaves


def test_a_pack_that_a_writer_claimed_is_not_pruned(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1")
    chunk = registry.publication_of(
        registry.find("digits/run-1@0").id, registry.find("digits/run-1@0").session
    ).chunks
    keys = [key for chunk_map in chunk.values() for key, _ in chunk_map]
    forgotten(registry)
    registry.catalog.write(packs.begin, "writer", 900.0)
    registry.catalog.write(packs.claim, "writer", keys)
    registry.prune(grace=0)

    assert set(registry.locate(keys)) == set(keys)
    registry.catalog.write(packs.end, "writer")
    registry.prune(grace=0)
    assert registry.locate(keys) == {}


def test_a_condemned_pack_comes_back_when_its_chunks_are_needed_again(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1", seed=1)
    forgotten(registry)
    assert registry.prune(grace=3_600).condemned > 0
    again = building.run(registry, "run-2", seed=1)
    registry.prune(grace=0)

    assert all(registry.verify(checkpoint.reference).ok for checkpoint in again)


def test_packs_and_objects_of_dead_writers_are_swept(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.store.open_pack("ab" * 16).seal()
    registry.store.backend.put(f"publish/{'0' * 64}/{'1' * 32}", b"{}")
    pruned = registry.prune(grace=0)

    assert (pruned.deleted, pruned.swept) == (1, 1)
    assert registry.scrub().ok


def test_nothing_is_deleted_when_the_two_engines_disagree(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, "run-1")
    registry.catalog.write(
        lambda tx: tx.conn.execute(tables.artifact.update().values(state="forgotten"))
    )
    pruned = registry.prune(grace=0)

    assert pruned.deleted == 0
    assert "alive in one and not in the other" in pruned.disagreements[0]
    assert registry.scrub().ok


def test_a_lost_row_of_artifact_pack_deletes_nothing(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.catalog.write(lambda tx: tx.conn.execute(tables.artifact_pack.delete()))
    pruned = registry.prune(grace=0)

    assert pruned.deleted == 0
    assert "holds chunks of a live artifact" in pruned.disagreements[0]


def test_scrub_names_the_damaged_artifact(registry: Registry, tmp_path: Path) -> None:
    checkpoint = building.run(registry, "run-1")[1]
    publication = registry.publication_of(checkpoint.id, checkpoint.session)
    key = publication.chunks[publication.manifest.files[0].sha256][0][0]
    place = registry.locate([key])[key]
    pack = tmp_path / "home" / "store" / "packs" / place.pack[:2] / place.pack
    data = bytearray(pack.read_bytes())
    data[place.offset] ^= 1
    pack.write_bytes(bytes(data))

    (damage,) = registry.scrub().damaged
    assert damage.artifacts == ("digits/run-1@1",)
    assert not registry.verify("digits/run-1@1").ok
    assert registry.verify("digits/run-1@0").ok
