"""zenml#5165: prune removes versions that are linked to a model, by a cascade through the links.

Deleting what looks unused deletes the links to it, and with them the record that a model used it.
"""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.museum.visiting import clean, strict


def test_what_a_model_is_linked_to_stays_and_links_outlive_bytes(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    other = registry.publish_model(building.run(registry, "run-2", seed=2)[0])
    before = registry.lineage(model.reference), registry.lineage(other.reference)
    strict(registry)
    gone = clean(registry)

    assert {"digits/run-1@2", "digits/v1", "digits/images@1", "digits/run-1"}.isdisjoint(gone)
    assert other.reference in gone
    after = registry.lineage(model.reference), registry.lineage(other.reference)
    for then, now in zip(before, after, strict=True):
        assert [(edge.child.id, edge.parent.id, edge.role) for edge in then] == [
            (edge.child.id, edge.parent.id, edge.role) for edge in now
        ]
