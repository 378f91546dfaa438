"""transformers#27138 and others: steps are sorted as strings, so that 9 comes after 10.

The newest checkpoint of steps 9, 10 and 100 is then taken to be the one at step 9.
"""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.museum.visiting import clean, strict


def test_steps_are_numbers(registry: Registry) -> None:
    strict(registry, keep={"last": 2, "best": 0})
    run = registry.start_run(PROJECT, "run-1")
    for step in (9, 100, 10, 99):
        registry.publish_checkpoint(run, {"m.bin": b"%d" % step}, step=step)
    registry.finish_run(run, "finished")

    assert registry.find("digits/run-1@latest").step == 100
    assert clean(registry) == {"digits/run-1@9", "digits/run-1@10"}
