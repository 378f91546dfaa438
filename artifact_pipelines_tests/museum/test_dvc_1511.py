"""dvc#1511: a dry run that nobody can read.

For years `dvc gc` had none; since then it lists hashes, which name nothing that a person knows.
"""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.museum.visiting import strict


def test_a_plan_names_what_goes_why_and_who_used_it(registry: Registry) -> None:
    strict(registry)
    checkpoints = building.run(registry, "run-1")
    registry.publish_model(checkpoints[0])
    plan = registry.plan_retention("digits")
    item = next(one for one in plan.chosen("forget") if one.kind == "checkpoint")
    page = registry.plan_page(plan.id)

    assert item.reference == "digits/run-1@0"
    assert item.referrers == ("digits/v1",)
    assert item.size == checkpoints[0].size
    assert item.rule == "forget_after"
    assert "older than" in item.reasons[0]
    assert "digits/run-1@0" in page
    assert registry.verify("digits/run-1@0").ok
