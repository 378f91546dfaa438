"""mlflow#3160: garbage collection deletes a run's files although a registered model needs them.

MLflow stores a model's files in its run. Deleting the run, then `mlflow gc`, removes them; the
registry still lists the version, and it fails when somebody deploys it.
"""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.museum.visiting import clean, strict


def test_the_bytes_behind_a_registered_model_stay(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    building.run(registry, "run-2", seed=2)
    strict(registry)
    gone = clean(registry)

    assert gone >= {"digits/run-1@0", "digits/run-1@1", "digits/run-2@0"}
    assert "digits/run-1@2" not in gone
    assert registry.verify(model.reference).ok
    assert registry.resolve("digits@production").model == model
