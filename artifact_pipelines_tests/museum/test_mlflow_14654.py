"""mlflow#14654: garbage collection leaves objects behind where a run has more than a thousand.

MLflow lists one page of an S3 prefix and deletes what is on it; the rest is paid for for ever.
"""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.museum.visiting import clean, stored, strict


def test_every_object_of_a_run_with_many_is_freed(registry: Registry) -> None:
    strict(registry)
    run = registry.start_run(PROJECT, "run-1")
    for step in range(20):
        files = {f"part-{part:04d}.bin": b"%d/%d" % (step, part) * 9 for part in range(60)}
        registry.publish_checkpoint(run, dict(files), step=step)
    registry.finish_run(run, "finished")
    registry.prune()
    before = stored(registry)
    gone = clean(registry)

    assert len(gone) == 20
    assert stored(registry) < before // 20
    assert registry.strays().ok
