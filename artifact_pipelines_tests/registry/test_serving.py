"""A rollback is rehearsed by a fresh process that loads the model and answers."""

from typing import Any

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT

SERVED = "artifact_pipelines_tests.gates.served"


def served(registry: Registry, name: str, factor: float, function: str = f"{SERVED}:times") -> None:
    """Put a model in staging whose whole content is a factor."""
    gate: dict[str, Any] = {
        "serving": function,
        "golden": {"inputs": [{"x": 1.0}], "outputs": [2.0]},
        "agree": 0,
    }
    rules = {"promotion": {"staging": "automatic"}, "gates": [gate]}
    registry.set_policy(PROJECT, Policy.of(rules))
    run = registry.start_run(PROJECT, name)
    files = {"model.json": b'{"factor": %g}' % factor}
    model = registry.publish_model(registry.publish_checkpoint(run, files, step=1))
    building.judge(registry, model)
    registry.promote(model.reference, "staging")


def test_the_model_of_a_rollback_answers_in_a_fresh_process(registry: Registry) -> None:
    served(registry, "a", 2)
    served(registry, "b", 3)
    found = registry.rehearse_rollback(PROJECT, "staging")
    assert found.model is not None
    kept = registry.rehearsed(found.model, "staging")

    assert (found.model.reference, found.reasons) == ("digits/v1", ())
    assert "it answered 1 rows" in found.said[0]
    assert "100% as the golden answers say" in found.said[0]
    assert kept is not None
    assert (kept.ready, kept.seconds) == (True, round(found.seconds, 3))
    assert registry.rehearsed(found.model, "production") is None
    assert registry.stages(PROJECT)["staging"].reference == "digits/v2"


def test_a_model_that_does_not_load_is_no_way_back(registry: Registry) -> None:
    served(registry, "a", 2, f"{SERVED}:fails")
    served(registry, "b", 3)
    found = registry.rehearse_rollback(PROJECT, "staging")
    assert found.model is not None
    kept = registry.rehearsed(found.model, "staging")

    assert "no such layer" in found.reasons[0]
    assert (kept is not None and kept.ready, found.size) == (False, 0)


def test_without_its_function_a_model_is_read(registry: Registry) -> None:
    served(registry, "a", 2, "not_installed_here:predict")
    served(registry, "b", 3)

    assert registry.rehearse_rollback(PROJECT, "staging").said == ("it holds no tensors to read",)
