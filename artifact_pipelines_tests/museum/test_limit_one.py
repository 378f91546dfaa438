"""A limit of one, with nothing else: off-by-one errors take all, or none.

Rotation that deletes while there are `limit` checkpoints, before the next is there, keeps none;
one that slices with `[:-limit]` and a limit of nought deletes none at all.
"""

import pytest

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.museum.visiting import clean, strict


@pytest.mark.parametrize("limit,left", [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_a_limit_is_what_is_left(registry: Registry, limit: int, left: int) -> None:
    strict(registry, keep={"last": limit, "best": 0})
    building.run(registry, "run-1", steps=3)
    clean(registry)

    assert sum(found.state == "live" for found in registry.checkpoints(PROJECT)) == left
