"""Objects without rows and rows without objects are found, each with the safe next step."""

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.opened import leaf_key
from artifact_pipelines.store.pack import object_key
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def test_a_registry_in_order_has_no_strays(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    registry.apply_plan(plan.id)
    registry.prune(grace=0)
    report = registry.strays()

    assert report.strays == ()
    assert report.ok
    assert report.objects > report.rows > 10


def test_what_dead_writers_left_is_prunes_to_remove(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.store.open_pack("ab" * 16).seal()
    registry.store.backend.put(f"publish/{'0' * 64}/{'1' * 32}", b"{}")
    registry.store.put_object(b"evidence of a crashed evaluation")
    report = registry.strays()
    registry.prune(grace=0)

    assert sorted(stray.key.partition("/")[0] for stray in report.strays) == [
        *("objects", "packs", "publish"),
    ]
    assert report.ok
    assert [stray.key.partition("/")[0] for stray in registry.strays().strays] == ["objects"]


def test_missing_bytes_are_named_with_what_to_do(registry: Registry) -> None:
    checkpoint = building.run(registry, "run-1")[0]
    pack = registry.catalog.read(
        lambda conn: (
            conn.execute(
                sa.select(tables.artifact_pack.c.pack).where(
                    tables.artifact_pack.c.artifact == checkpoint.id
                )
            )
            .scalars()
            .first()
        )
    )
    missing = {object_key(str(pack)), f"publish/{checkpoint.id}/{checkpoint.session}", leaf_key(3)}
    for key in missing:
        registry.store.backend.delete(key)
    report = registry.strays()

    assert {stray.key for stray in report.strays} == missing
    assert all(stray.kind == "row" and "backup" in stray.next for stray in report.strays)
    assert not report.ok


def test_foreign_objects_and_a_store_that_is_ahead_are_told(registry: Registry) -> None:
    building.run(registry, "run-1")
    registry.store.backend.put("holiday/photo", b"sea")
    size = len(registry.events(limit=10_000))
    registry.store.backend.put(leaf_key(size), b"{}")
    strays = {stray.key: stray for stray in registry.strays().strays}

    assert strays["holiday/photo"].next == "move it elsewhere"
    assert "catalog rebuild" in strays[leaf_key(size)].next


def test_the_keys_of_an_encrypted_project_are_no_strays_and_are_missed(registry: Registry) -> None:
    registry.encrypt(PROJECT)
    building.trained(registry, steps=2)
    backend = registry.store.backend
    backend.put("datakeys/" + "0" * 32, b"{}")
    (key, *_) = (key for key in backend.keys("datakeys/") if not key.endswith("0" * 32))
    before = registry.strays()
    backend.delete(key)
    after = registry.strays()

    assert [(stray.key[-32:], stray.why) for stray in before.strays] == [
        ("0" * 32, "it is the key of no pack")
    ]
    assert before.ok
    assert [stray.key for stray in after.strays if stray.kind == "row"] == [key]
    assert not after.ok

    # A key that was destroyed on purpose is not missed.
    registry.shred(PROJECT, "it was asked for")
    assert registry.strays().ok
