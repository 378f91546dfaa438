"""A scrub finds every damage, says whom it touches, and heals what a copy has."""

import random
from pathlib import Path

import pytest

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.errors import QuarantinedError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.scrubbing import _drawn
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines.store.pack import Location, object_key
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import trained


@pytest.fixture
def copy(request: pytest.FixtureRequest) -> str:
    """The address of an empty copy."""
    return f"memory://copy-{abs(hash(request.node.nodeid))}-{random.getrandbits(32)}"


def place_of(registry: Registry, artifact: Artifact, path: str) -> tuple[str, Location]:
    publication = registry.publication_of(artifact.id, artifact.session)
    entry = next(one for one in publication.manifest.files if one.path == path)
    key = publication.chunks[entry.sha256][0][0]
    return key, registry.locate([key])[key]


def flip(registry: Registry, at: Location) -> None:
    name = object_key(at.pack)
    data = bytearray(registry.store.backend.get(name))
    data[at.offset + at.stored // 2] ^= 1
    registry.store.backend.put(name, bytes(data))


def test_a_quarantined_file_is_refused_in_one_sentence(registry: Registry) -> None:
    one, two = trained(registry, steps=2)
    _, at = place_of(registry, one, "optimizer.safetensors")
    flip(registry, at)
    (damage,) = registry.scrub().damaged

    assert damage.artifacts == (one.reference,)
    with pytest.raises(QuarantinedError, match=r"'optimizer.safetensors' .* is quarantined"):
        registry.read(one.reference, "optimizer.safetensors")
    assert registry.read(one.reference, "model.safetensors")
    assert registry.read(two.reference, "optimizer.safetensors")
    assert not registry.verify(one.reference).ok
    assert list(registry.quarantined()) == [one.reference]


def test_damage_is_written_down_once(registry: Registry) -> None:
    (made,) = trained(registry, steps=1)
    flip(registry, place_of(registry, made, "model.safetensors")[1])
    registry.scrub()
    leaves = len(registry.events(limit=10_000))
    registry.scrub()

    assert len(registry.events(limit=10_000)) == leaves


def test_a_damaged_base_touches_what_differs_from_it(registry: Registry) -> None:
    made = trained(registry, steps=3)
    registry.archive([found.reference for found in made])
    registry.prune(grace=0)
    flip(registry, place_of(registry, made[1], "model.safetensors")[1])
    found = registry.scrub().damaged

    assert {reference for damage in found for reference in damage.artifacts} == {
        artifact.reference for artifact in made
    }


def test_damage_is_healed_from_the_copy(registry: Registry, copy: str) -> None:
    made = trained(registry, steps=3)
    registry.archive([found.reference for found in made])
    registry.replicate(copy)
    expected = registry.read(made[0].reference, "model.safetensors")
    for found in made:
        flip(registry, place_of(registry, found, "model.safetensors")[1])
    before = registry.scrub()
    with pytest.raises(QuarantinedError):
        registry.read(made[0].reference, "model.safetensors")
    after = registry.scrub(replica_url=copy)

    assert not before.ok
    assert after.ok
    assert len(after.healed) == len(before.damaged)
    assert registry.quarantined() == {}
    assert registry.read(made[0].reference, "model.safetensors") == expected
    assert registry.scrub().healed == ()


def test_a_lost_pack_and_a_lost_publish_object_come_back(registry: Registry, copy: str) -> None:
    (made,) = trained(registry, steps=1)
    registry.replicate(copy)
    _, at = place_of(registry, made, "model.safetensors")
    registry.store.backend.delete(object_key(at.pack))
    registry.store.backend.delete(Publication.key(made.id, made.session))
    found = registry.scrub(replica_url=copy)

    assert found.ok
    assert registry.verify(made.reference).ok


def test_a_copy_that_is_damaged_too_heals_nothing(registry: Registry, copy: str) -> None:
    (made,) = trained(registry, steps=1)
    registry.replicate(copy)
    _, at = place_of(registry, made, "model.safetensors")
    flip(registry, at)
    name = object_key(at.pack)
    MemoryBackend.named(copy.partition("://")[2]).put(name, registry.store.backend.get(name))
    found = registry.scrub(replica_url=copy)

    assert not found.ok
    assert found.healed == ()


def test_what_was_mended_by_hand_is_given_back(registry: Registry) -> None:
    (made,) = trained(registry, steps=1)
    _, at = place_of(registry, made, "model.safetensors")
    flip(registry, at)
    registry.scrub()
    flip(registry, at)
    registry.scrub()

    assert registry.quarantined() == {}
    assert registry.read(made.reference, "model.safetensors")


@pytest.mark.parametrize("cold", [False, True])
def test_whoever_publishes_the_bytes_of_a_damaged_chunk_heals_it(
    registry: Registry, *, cold: bool
) -> None:
    made = trained(registry, steps=3)
    data = registry.read(made[1].reference, "model.safetensors")
    before = registry.read(made[0].reference, "model.safetensors")
    if cold:
        registry.archive([found.reference for found in made])
        registry.prune(grace=0)
    flip(registry, place_of(registry, made[1], "model.safetensors")[1])
    registry.scrub()
    hurt = set(registry.quarantined())
    run = registry.start_run(building.PROJECT, "run-9")
    again = registry.publish_checkpoint(run, {"model.safetensors": data}, step=1)
    if cold:
        assert registry.scrub().ok  # what differs from it is found whole again

    assert hurt == ({found.reference for found in made} if cold else {made[1].reference})
    assert registry.read(again.reference, "model.safetensors") == data
    assert registry.read(made[1].reference, "model.safetensors") == data
    assert registry.read(made[0].reference, "model.safetensors") == before
    assert registry.quarantined() == {}
    body = {"project": "digits", "plan": None, "rule": "x", "reason": "y", "approver": "z"}
    registry.append("forget", again.id, body)
    assert registry.prune(grace=0).disagreements == ()
    registry.compact(threshold=1.0)
    registry.prune(grace=0)
    assert all(registry.verify(found.reference).ok for found in made)
    assert registry.verify_ledger().problems == ()


def test_the_quarantine_is_in_the_ledger(registry: Registry, tmp_path: Path) -> None:
    (made,) = trained(registry, steps=1)
    flip(registry, place_of(registry, made, "model.safetensors")[1])
    registry.scrub()
    url = f"sqlite:///{tmp_path / 'again.db'}"
    registry.rebuild(url)
    again = Catalog(url)

    assert again.read(facts) == registry.catalog.read(facts)
    assert again.read(facts)["quarantine"]
    again.close()


def test_a_damaged_pack_is_not_copied(registry: Registry, copy: str) -> None:
    one, two = trained(registry, steps=2)
    _, at = place_of(registry, one, "model.safetensors")
    flip(registry, at)
    done = registry.replicate(copy)
    backend = MemoryBackend.named(copy.partition("://")[2])

    assert done.damaged == (at.pack,)
    assert backend.size(object_key(at.pack)) is None
    assert backend.size(object_key(place_of(registry, two, "model.safetensors")[1].pack))


def test_the_copy_is_brought_up_to_date_and_keeps_what_was_lost_here(
    registry: Registry, copy: str
) -> None:
    made = trained(registry, steps=2)
    first, again = registry.replicate(copy), registry.replicate(copy)
    lost = place_of(registry, made[0], "model.safetensors")[1].pack
    registry.store.backend.delete(object_key(lost))
    kept = registry.replicate(copy)

    assert first.copied > 0
    assert (again.copied, again.deleted, kept.deleted) == (0, 0, 0)
    assert MemoryBackend.named(copy.partition("://")[2]).size(object_key(lost))


def test_what_prune_deleted_goes_from_the_copy(registry: Registry, copy: str) -> None:
    made = trained(registry, steps=2)
    registry.replicate(copy)
    registry.archive([found.reference for found in made])
    registry.prune(grace=0)
    done = registry.replicate(copy)
    backend = MemoryBackend.named(copy.partition("://")[2])

    assert done.deleted == 2
    assert set(backend.keys()) == set(registry.store.backend.keys())


def test_a_sample_is_drawn_by_its_seed(registry: Registry) -> None:
    building.run(registry, "run-1", steps=8)
    some = registry.scrub(sample=0.3, seed=1)

    assert 0 < some.packs < registry.scrub().packs
    assert registry.scrub(sample=0.3, seed=1).size == some.size


def test_a_sample_prefers_large_packs_and_what_is_served() -> None:
    packs = [("small", 1, False), ("large", 50, False), ("served", 50, True)]
    first = [_drawn(packs, 0.001, seed)[0] for seed in range(400)]

    assert first.count("served") > first.count("large") > first.count("small")
