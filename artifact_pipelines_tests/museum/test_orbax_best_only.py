"""Orbax, best-only policies: the checkpoint that training would resume from is evicted.

A manager that keeps the best few drops the newest one when it is worse, and a preempted job then
goes back to an older state, or to the start.
"""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.museum.visiting import clean, strict


def test_the_resume_point_stays_though_it_is_the_worst(registry: Registry) -> None:
    strict(registry, keep={"last": 0, "best": 1})
    run = registry.start_run(PROJECT, "run-1")
    for step, accuracy in ((1, 0.9), (2, 0.5), (3, 0.1)):
        facts = {"metrics": {"accuracy": accuracy}}
        registry.publish_checkpoint(run, {"m.bin": b"%d" % step}, step=step, facts=facts)
    assert clean(registry) == {"digits/run-1@2"}
    assert registry.verify("digits/run-1@3").ok

    registry.finish_run(run, "finished")
    assert clean(registry) == {"digits/run-1@3"}
