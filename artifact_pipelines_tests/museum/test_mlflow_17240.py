"""mlflow#17240: garbage collection says that it deleted, and the bytes are still there.

MLflow's `gc` removes the database rows first; where deleting the files then fails or is not
supported, nothing remembers them and nothing ever tries again.
"""

import pytest

from artifact_pipelines.errors import StoreError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.museum.visiting import forget, stored, strict


def test_a_deletion_that_failed_is_finished_by_the_next_prune(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict(registry)
    building.run(registry, "run-1")
    registry.prune()
    before = stored(registry)
    forget(registry)

    def refuse(key: str) -> bool:
        raise StoreError(f"{key} cannot be deleted: the disk is read-only.")

    with monkeypatch.context() as broken:
        broken.setattr(registry.store.backend, "delete", refuse)
        with pytest.raises(StoreError):
            registry.prune(grace=0)
    assert stored(registry) == before
    pruned = registry.prune(grace=0)

    assert pruned.deleted == 3
    assert stored(registry) == before - pruned.freed
