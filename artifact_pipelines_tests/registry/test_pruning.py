"""Prune deletes what two engines agree on, under a canary, and never what came to be needed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from artifact_pipelines.catalog import packs, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain.naming import CANARY
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import BehindError, SessionLostError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.opened import leaf_key
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines_tests import building, crashing
from artifact_pipelines_tests.building import PROJECT


def forget_all(registry: Registry) -> None:
    retention = {"keep": {"last": 0, "best": 0}, "forget_after": "0s", "max_share": 1.0}
    registry.set_policy(PROJECT, Policy.of({**building.POLICY.document(), "retention": retention}))
    plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
    registry.apply_plan(plan.id)


def keys_of(registry: Registry, reference: str) -> list[str]:
    artifact = registry.find(reference)
    return sorted(registry.publication_of(artifact.id, artifact.session).keys())


def pack_of(registry: Registry, reference: str) -> str:
    keys = keys_of(registry, reference)
    return registry.locate(keys)[keys[0]].pack


def alarms(registry: Registry) -> list[list[str]]:
    found = registry.ledger(action="alarm", limit=100)
    return [event.body["differences"] for event in found if event.body is not None]


def test_the_canary_is_planted_once_and_is_nobodys_project(registry: Registry) -> None:
    building.dataset(registry)
    registry.prune()
    registry.prune()

    assert [found.reference for found in registry.datasets(CANARY)] == ["canary/canary@1"]
    assert registry.projects() == [PROJECT]


def test_a_canary_that_both_engines_call_dead_stops_prune(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.prune()
    forget_all(registry)
    canary = registry.datasets(CANARY)[0]
    body = {"project": CANARY, "plan": None, "rule": "r", "reason": "a bug", "approver": "nobody"}
    registry.append("forget", canary.id, body)
    pruned = registry.prune(grace=0)

    assert pruned.deleted == 0
    assert f"the canary {canary.id[:16]} is not alive" in pruned.disagreements


def test_a_canary_that_cannot_be_read_stops_prune(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.prune()
    forget_all(registry)
    backend = registry.store.backend
    pack = pack_of(registry, "canary/canary@1")
    backend.delete(f"packs/{pack[:2]}/{pack}")
    pruned = registry.prune(grace=0)

    assert pruned.deleted == 0
    assert "cannot be read" in pruned.disagreements[0]


def test_a_disagreement_is_written_into_the_ledger_once(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.catalog.write(
        lambda tx: tx.conn.execute(tables.artifact.update().values(state="forgotten"))
    )
    said = registry.prune(grace=0).disagreements
    registry.prune(grace=0)

    assert alarms(registry) == [list(said)]
    assert any(
        "of kind checkpoint, 0 artifacts are alive in the catalog and 3" in one for one in said
    )


def test_a_stage_that_points_at_the_dead_stops_prune(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    model = registry.resolve("digits@production").model
    body = {"project": PROJECT, "plan": None, "rule": "r", "reason": "a bug", "approver": "nobody"}
    registry.append("forget", model.id, body)
    pruned = registry.prune(grace=0)

    assert pruned.deleted == 0
    assert any("digits/production" in one and "not alive" in one for one in pruned.disagreements)


def test_prune_does_not_begin_while_the_store_is_ahead(registry: Registry) -> None:
    building.dataset(registry)
    size = len(registry.events(limit=10_000))
    registry.store.backend.put(leaf_key(size), registry.store.backend.get(leaf_key(size - 1)))

    with pytest.raises(BehindError, match="older than the store"):
        registry.prune(grace=0)


def test_prune_takes_no_pack_that_is_needed(registry: Registry) -> None:
    building.run(registry, "run-1")

    assert registry.catalog.read(packs.unused, "live") == []
    assert not registry.catalog.write(packs.condemn, pack_of(registry, "digits/run-1@0"))


def test_a_pack_that_is_needed_when_its_grace_is_over_stays(registry: Registry) -> None:
    building.run(registry, "run-1")
    pack, artifact = pack_of(registry, "digits/run-1@0"), registry.find("digits/run-1@1").id
    forget_all(registry)
    registry.catalog.write(packs.condemn, pack)

    def need(conn: sa.Connection) -> None:
        conn.execute(sa.insert(tables.artifact_pack).values(artifact=artifact, pack=pack))
        alive = tables.artifact.update().where(tables.artifact.c.id == artifact)
        conn.execute(alive.values(state="live"))

    registry.catalog.write(lambda tx: need(tx.conn))

    assert registry.catalog.write(packs.doom, pack, 0.0) is None


def test_the_chunks_of_a_doomed_pack_are_mapped_nowhere(registry: Registry) -> None:
    building.run(registry, "run-1")
    keys, pack = keys_of(registry, "digits/run-1@0"), pack_of(registry, "digits/run-1@0")
    forget_all(registry)
    registry.catalog.write(packs.condemn, pack)
    registry.catalog.write(packs.doom, pack, 0.0)

    assert registry.locate(keys) == {}


def test_a_pack_that_is_being_deleted_is_not_claimed(registry: Registry) -> None:
    building.run(registry, "run-1")
    keys, pack = keys_of(registry, "digits/run-1@0"), pack_of(registry, "digits/run-1@0")

    def claim_while_it_goes(tx: Transaction) -> set[str]:
        table = tables.pack
        tx.conn.execute(sa.update(table).where(table.c.id == pack).values(state="deleting"))
        packs.begin(tx, "writer", 900.0)
        return set(packs.claim(tx, "writer", keys))

    assert registry.catalog.write(claim_while_it_goes) == set()


def test_what_becomes_unneeded_after_the_engines_agreed_waits(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.prune()
    pruning = registry.pruning(grace=0)
    for reached in pruning:
        if reached == "agreed":
            break
    forget_all(registry)
    list(pruning)

    assert registry.scrub().ok
    assert registry.locate(keys_of(registry, "digits/run-1@0")) != {}
    assert registry.prune(grace=0).deleted == 3


def test_a_reader_is_a_reason_to_stay(registry: Registry) -> None:
    checkpoint = building.run(registry, "run-1")[0]
    with registry._reading(checkpoint):
        held = registry.held()

    assert held[checkpoint.id] == ["somebody is reading it"]


def writing(registry: Registry, files: dict[str, Path | bytes]) -> Iterator[str]:
    """Begin to publish, and stop before the commit."""
    run = registry.start_run(PROJECT, "paused")
    record = Record(Kind.CHECKPOINT, PROJECT, "paused", content="0" * 64, run=run.id, step=1)
    steps = registry.publish(Draft(record, files))
    for reached in steps:
        if reached == "object_written":
            break
    return steps


def test_a_paused_writer_that_wrote_nothing_new_is_fenced(registry: Registry) -> None:
    made = building.run(registry, "run-1")[0]
    same = registry.read(made.reference, "model.safetensors")
    steps = writing(registry, {"model.safetensors": same})
    crashing.expire(registry)
    registry.prune(grace=0)

    with pytest.raises(SessionLostError, match="has expired"):
        list(steps)
    assert registry.checkpoints(PROJECT, "paused") == []


def test_a_paused_writer_whose_packs_were_deleted_is_fenced(registry: Registry) -> None:
    building.run(registry, "run-1")
    steps = writing(registry, {"model.safetensors": building.tensors(99)})
    crashing.expire(registry)
    registry.prune(grace=0)
    registry.prune(grace=0)

    with pytest.raises(SessionLostError):
        list(steps)
    assert registry.checkpoints(PROJECT, "paused") == []
    assert registry.strays().strays == ()
