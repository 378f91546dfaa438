"""Harbor#23116: an old layer that a new image uses again is deleted, because it is old.

Harbor spares what was uploaded within two hours. A layer that is found in the registry is not
uploaded again, keeps its old time, and goes, although a push just relied on it.
"""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.museum.visiting import clean, forget, strict


def test_old_bytes_that_are_used_again_stay(registry: Registry) -> None:
    strict(registry, keep={"last": 1, "best": 0})
    run = registry.start_run(PROJECT, "run-1")
    old = building.tensors(7)
    registry.publish_checkpoint(run, {"model.safetensors": old}, step=1)
    registry.publish_checkpoint(run, {"model.safetensors": building.tensors(8)}, step=2)
    forget(registry)
    condemned = registry.prune(grace=3_600).condemned
    registry.publish_checkpoint(run, {"model.safetensors": old}, step=3)
    gone = clean(registry)

    assert condemned == 1
    assert gone == {"digits/run-1@2"}
    assert registry.read("digits/run-1@3", "model.safetensors") == old
