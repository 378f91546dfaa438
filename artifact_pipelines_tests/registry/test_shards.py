"""Work that is cut into shards does what it does in one piece, and a shard done twice once."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from artifact_pipelines.domain.keeping import Action
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import PlanRefusedError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.store.pack import object_key
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT, trained


def actions(registry: Registry, action: str) -> list[str]:
    """Return what an action was done to, as often as it was."""
    return sorted(
        event.subject for event in registry.ledger(limit=10_000) if event.action == action
    )


def packs_of(registry: Registry, artifact: Artifact) -> set[str]:
    keys = registry.publication_of(artifact.id, artifact.session).keys()
    return {place.pack for place in registry.locate(keys).values()}


def flip(registry: Registry, pack: str) -> None:
    data = bytearray(registry.store.backend.get(object_key(pack)))
    data[100] ^= 1
    registry.store.backend.put(object_key(pack), bytes(data))


# Scrub


def test_the_shards_of_a_scrub_read_everything_once(registry: Registry) -> None:
    building.run(registry, "run-1", steps=6)
    whole = registry.scrub(seed=1)
    cut = registry.scrub_shards(seed=1, each=1_000)
    bounds = [(shard.first, shard.last) for shard in cut]
    found = registry.end_scrub([registry.scrub_shard(shard) for shard in cut])

    assert len(cut) > 3
    assert found == whole
    assert bounds[0][0] == 0
    assert [last for _, last in bounds[:-1]] == [first for first, _ in bounds[1:]]
    assert bounds[-1][1] == len(registry.events(limit=10_000))


def test_a_publish_object_is_in_one_shard(registry: Registry) -> None:
    made = building.run(registry, "run-1", steps=6)
    registry.store.backend.delete(f"publish/{made[2].id}/{made[2].session}")
    reports = [registry.scrub_shard(shard) for shard in registry.scrub_shards(each=1_000)]

    assert sum(len(report.damaged) for report in reports) == 1


def test_a_shard_that_is_scrubbed_twice_writes_damage_down_once(registry: Registry) -> None:
    (made,) = trained(registry, steps=1)
    (pack,) = packs_of(registry, made)
    (shard,) = registry.scrub_shards()
    flip(registry, pack)
    # Both have seen the damage before either writes it down.
    found = [registry.scrub_shard(shard) for _ in range(2)]
    registry._set_apart(found[0].damaged)
    flip(registry, pack)
    for _ in range(2):
        registry.scrub_shard(shard)
        registry._give_back({str(damage.key) for damage in found[0].damaged})

    assert actions(registry, "quarantine") == [made.id]
    assert actions(registry, "heal") == [made.id]


def test_a_pack_that_went_since_it_was_drawn_is_no_damage(registry: Registry) -> None:
    made = trained(registry, steps=3)
    (shard,) = registry.scrub_shards()
    registry.archive([found.reference for found in made])
    registry.prune(grace=0)

    assert registry.scrub_shard(shard).ok
    assert not set(shard.packs) & packs_of(registry, made[0])


def test_what_differs_from_a_chunk_of_another_shard_heals_in_the_end(registry: Registry) -> None:
    copy = "memory://healed-across-shards"
    made = trained(registry, steps=3)
    registry.archive([made[1].reference])
    base = packs_of(registry, made[1])
    registry.archive([found.reference for found in made])
    registry.prune(grace=0)
    registry.replicate(copy)
    (shard,) = registry.scrub_shards()
    cut = registry.scrub_shards(each=1_000)
    for pack in shard.packs:
        flip(registry, pack)
    # What differs comes first, and its base is damaged still.
    cut.sort(key=lambda part: bool(base & set(part.packs)))
    reports = [registry.scrub_shard(part, replica_url=copy) for part in cut]
    found = registry.end_scrub(reports, replica_url=copy)

    assert len(cut) > 1
    assert found.ok
    assert found.healed
    assert registry.quarantined() == {}
    assert all(registry.verify(one.reference).ok for one in made)


# Restore drill


def test_a_drill_is_drawn_once_and_cut(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    whole = registry.drill_shards(4, seed=3)
    cut = registry.drill_shards(4, seed=3, each=1)

    assert [one for part in cut for one in part] == whole[0]
    assert len(cut) > 1


def test_a_shard_that_is_drilled_twice_is_brought_back_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    building.promoted(registry, "run-1")
    (drawn,) = registry.drill_shards(4)
    first = registry.drill_shard(drawn, "rehearsal")
    with monkeypatch.context() as patched:
        patched.setattr(registry, "_bring_back", None)
        again = registry.drill_shard(drawn, "rehearsal")
    another = registry.drill_shard(drawn[:1], "another")

    assert again == first
    assert another == first[:1]
    assert actions(registry, "drill") == sorted([*drawn, drawn[0]])


def test_two_workers_of_one_drill_write_it_down_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = trained(registry, steps=1)
    bring_back = registry._bring_back

    def overtaken(artifact: Artifact) -> object:
        monkeypatch.setattr(registry, "_bring_back", bring_back)
        registry.drill_shard([artifact.id], "rehearsal")
        return bring_back(artifact)

    monkeypatch.setattr(registry, "_bring_back", overtaken)
    registry.drill_shard([made.id], "rehearsal")

    assert actions(registry, "drill") == [made.id]


# Archive


def archiving(registry: Registry) -> tuple[str, list[str]]:
    """Return an approved plan that archives two runs, and what it archives."""
    keep_archived = {"keep": {"last": 1}, "archive_after": "0s", "forget_after": "90d"}
    registry.set_policy(PROJECT, Policy.of({"retention": keep_archived}))
    for name in ("run-1", "run-2"):
        building.run(registry, name, steps=12)
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    return plan.id, sorted(item.reference for item in plan.chosen(Action.ARCHIVE))


def test_a_plan_archives_in_shards_what_it_archives(registry: Registry) -> None:
    plan, chosen = archiving(registry)
    cut = registry.archive_shards(plan, each=1)
    moved = [registry.archive_shard(plan, part).moved for part in cut]
    again = [registry.archive_shard(plan, part).moved for part in cut]
    applied = registry.apply_plan(plan)

    assert chosen
    assert sorted(one for part in cut for one in part) == chosen
    assert max(len(part) for part in cut) == 8  # neighbours stay together
    assert sorted(one for part in moved for one in part) == chosen
    assert not any(again)
    assert sorted(applied.archived) == chosen
    assert len(actions(registry, "archive")) == len(chosen)
    assert registry.scrub().ok


def test_a_shard_is_archived_by_an_approved_plan_only(registry: Registry) -> None:
    plan, chosen = archiving(registry)
    registry.set_policy(PROJECT, Policy.of({"retention": {"keep": {"last": 99}}}))

    with pytest.raises(PlanRefusedError):
        registry.archive_shard(plan, chosen)
    with pytest.raises(PlanRefusedError):
        registry.archive_shards(plan)


def test_two_workers_of_one_shard_archive_it_once(registry: Registry) -> None:
    made = trained(registry, steps=3)
    names = [found.reference for found in made]
    slow = registry.archiving(names)
    while next(slow) != "packs_sealed":
        pass
    registry.archive(names)
    list(slow)

    assert actions(registry, "archive") == sorted(found.id for found in made)
    assert all(registry.verify(name).ok for name in names)
    assert registry.prune(grace=0).disagreements == ()


# Inbox


def leave(inbox: Path, run: str, count: int) -> None:
    folder = inbox / "p" / run
    folder.mkdir(parents=True)
    for step in range(count):
        (folder / f"at-{step}.safetensors").write_bytes(save({"w": np.full(99, step + len(run))}))
        (folder / f"at-{step}.json").write_text(f'{{"step": {step}}}')


def test_an_inbox_is_imported_in_shards_of_whole_runs(registry: Registry, tmp_path: Path) -> None:
    for run, count in (("a", 3), ("bb", 2), ("ccc", 1)):
        leave(tmp_path / "inbox", run, count)
    cut = registry.inbox_shards(tmp_path / "inbox", each=1)
    drops = [drop for part in cut for drop in registry.receive(tmp_path / "inbox", part)]
    again = [drop for part in cut for drop in registry.receive(tmp_path / "inbox", part)]

    assert cut == [["p/a"], ["p/bb"], ["p/ccc"]]
    assert {drop.outcome for drop in drops} == {"imported"}
    assert {drop.outcome for drop in again} == {"known"}
    assert len(registry.checkpoints("p")) == len(drops) == 6
    assert registry.inbox_shards(tmp_path / "inbox", each=1) == []


def test_what_is_new_in_an_inbox_has_a_fingerprint(registry: Registry, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    leave(inbox, "a", 2)
    before = registry.unknown_in(inbox)
    (inbox / "p" / "a" / "at-1.json").write_text('{"step": 17}')
    after = registry.unknown_in(inbox)

    assert [drop.place for drop in before] == ["p/a/at-0.safetensors", "p/a/at-1.safetensors"]
    assert all(sum(drop.sizes.values()) for drop in before)
    assert before[0].fingerprint == after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint
