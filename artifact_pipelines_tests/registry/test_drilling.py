"""A drill brings back, verifies and loads what it draws, and remembers what it has proven."""

import random

from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.drilling import _sample
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def test_a_drill_loads_what_it_brings_back_and_remembers_it(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    before = registry.proven(PROJECT)
    drilled = registry.drill(sample=10)

    assert [(one.reference, one.at) for one in before] == [(model.reference, None)]
    assert {one.reference for one in drilled} == {
        *(f"digits/run-1@{step}" for step in range(3)),
        model.reference,
    }
    assert all(one.problems == () and one.loaded and one.size for one in drilled)
    assert registry.proven(PROJECT)[0].at is not None


def test_what_is_archived_is_brought_back_from_the_archive(registry: Registry) -> None:
    made = building.trained(registry, steps=3)
    registry.archive([found.reference for found in made])
    drilled = registry.drill(sample=3, seed=1)

    assert {one.tier for one in drilled} == {"cold"}
    assert all(one.problems == () for one in drilled)


def test_planted_damage_is_found_and_proves_nothing(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    (key, *_) = registry.publication_of(model.id, model.session).keys()
    pack = registry.locate([key])[key].pack
    registry.store.backend.delete(f"packs/{pack[:2]}/{pack}")
    failed = [one for one in registry.drill(sample=10) if one.problems]

    assert model.reference in {one.reference for one in failed}
    assert registry.proven(PROJECT)[0].at is None


def test_the_heavier_are_drawn_more_often(registry: Registry) -> None:
    artifacts = building.run(registry, "run-1")
    chooser = random.Random(7)
    drawn = [_sample(chooser, artifacts, [1.0, 1.0, 8.0], 1)[0].step for _ in range(400)]

    assert drawn.count(2) > 4 * max(drawn.count(0), drawn.count(1))
    assert drawn.count(0) > 0
