"""dvc#7610: `gc -c` of a workspace removes from the remote what other branches and clones use.

What is in use is taken from the checkout at hand. Ours is a property of the registry: whatever
any project's stage, hold or model needs is held, wherever the cleanup is started.
"""

from artifact_pipelines.domain.record import Input, Kind, Record
from artifact_pipelines.registry import Registry, steps
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines_tests import building
from artifact_pipelines_tests.museum.visiting import clean, strict


def test_what_another_projects_model_was_made_from_is_held(registry: Registry) -> None:
    strict(registry)
    mine = building.run(registry, "run-1")
    record = Record(
        Kind.MODEL, "churn", "churn", content="0" * 64, inputs=(Input("checkpoint", mine[1].id),)
    )
    theirs = steps.run(registry.publish(Draft(record, {"model.bin": b"distilled"})))
    registry.place_hold(theirs.reference, "deployed", "it is in use elsewhere")

    assert clean(registry) == {"digits/run-1@0", "digits/run-1@2"}
    assert registry.verify(mine[1].reference).ok
