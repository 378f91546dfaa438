"""transformers#25129: rotation with `save_total_limit=1` deletes every checkpoint.

The Trainer deletes old checkpoints before the new one is whole, and with a limit of one may take
the best or the only one along.
"""

import pytest

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.museum.visiting import clean, strict


@pytest.mark.parametrize("steps", [1, 4])
def test_a_limit_of_one_leaves_one(registry: Registry, steps: int) -> None:
    strict(registry, keep={"last": 1, "best": 0})
    building.run(registry, "run-1", steps=steps)
    clean(registry)

    live = [found for found in registry.checkpoints(PROJECT) if found.state == "live"]
    assert [found.step for found in live] == [steps - 1]
    assert registry.verify(live[0].reference).ok


def test_the_best_stays_beside_the_last(registry: Registry) -> None:
    strict(registry, keep={"last": 1, "best": 1})
    run = registry.start_run(PROJECT, "run-1")
    for step, accuracy in ((1, 0.9), (2, 0.5), (3, 0.4)):
        facts = {"metrics": {"accuracy": accuracy}}
        registry.publish_checkpoint(run, {"m.bin": b"%d" % step}, step=step, facts=facts)

    assert clean(registry) == {"digits/run-1@2"}
