"""dvc#1300: collecting one project's garbage deletes another project's data from a shared cache.

`dvc gc` keeps what the project at hand refers to; in a cache that projects share, all the others'
files count as garbage.
"""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.museum.visiting import clean, strict


def test_cleaning_one_project_leaves_the_other_whole(registry: Registry) -> None:
    strict(registry)
    mine = building.run(registry, "run-1")
    run = registry.start_run("churn", "run-1")
    shared = {
        "model.safetensors": registry.read(mine[0].reference, "model.safetensors"),
        "own.bin": b"of churn alone",
    }
    theirs = registry.publish_checkpoint(run, dict(shared), step=1)

    assert clean(registry) == {found.reference for found in mine}
    assert registry.verify(theirs.reference).ok
    assert registry.read(theirs.reference, "own.bin") == b"of churn alone"
