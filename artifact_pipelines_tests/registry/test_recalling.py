"""What is withdrawn is stopped with everything made from it, and nothing else is."""

import pytest

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import LedgerError, PromotionRefusedError, UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def test_everything_made_from_a_dataset_is_stopped(registry: Registry) -> None:
    served = building.promoted(registry, "run-1")
    other = registry.publish_dataset(PROJECT, "other", {"a.csv": b"1"})
    plan = registry.plan_recall(artifact="digits/images@1")
    done = registry.recall("withdrawn by its subject", artifact="digits/images@1")

    assert plan.serving == ("digits@production",)
    assert not any(one.recalled for one in plan.descendants)
    assert {one.reference for one in done.descendants} == {
        "digits/run-1",
        "digits/run-1@0",
        "digits/run-1@1",
        "digits/run-1@2",
        "digits/v1",
    }
    assert all(one.recalled for one in (*done.roots, *done.descendants))
    assert not registry.get(other.id).recalled
    with pytest.raises(LedgerError, match="was recalled"):
        registry.resolve("digits@production")
    with pytest.raises(PromotionRefusedError, match="recalled"):
        registry.request(served.reference, "staging")
    receipt = digest.parse(registry.store.get_object(str(done.receipt)))
    assert receipt["leaves"] == list(done.leaves)
    assert receipt["serving"] == ["digits@production"]
    assert registry.verify_ledger().problems == ()


def test_what_is_made_meanwhile_is_found_by_the_next_recall(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    first = registry.recall("x", artifact="digits/images@1")
    late = registry.publish_model(registry.find("digits/run-1@0"))
    second = registry.recall("x", artifact="digits/images@1")
    third = registry.recall("x", artifact="digits/images@1")

    assert registry.get(late.id).recalled
    assert (len(first.leaves), len(second.leaves), len(third.leaves)) == (1, 1, 0)


def test_a_package_and_a_licence_are_withdrawn(registry: Registry) -> None:
    licensed = registry.publish_dataset(
        PROJECT, "faces", {"a.csv": b"1"}, facts={"licence": "CC-BY-4.0 OR (GPL-3.0-only)"}
    )
    for name, version in (("old", "1.0"), ("new", "2.0")):
        registry.start_run(
            PROJECT,
            name,
            inputs=[Input("dataset:faces", licensed.id)] if name == "old" else [],
            files={"environment.txt": f"some-package=={version}\n".encode()},
            facts={"packages": {"some-package": version}},
        )
    by_licence = registry.plan_recall(licence="GPL-3.0-only")

    both = registry.plan_recall(package="Some_Package")
    old = registry.plan_recall(package="some-package==1.0")

    assert {one.reference for one in both.roots} == {"digits/old", "digits/new"}
    assert [one.reference for one in old.roots] == ["digits/old"]
    assert [one.reference for one in by_licence.roots] == ["digits/faces@1"]
    assert [one.reference for one in by_licence.descendants] == ["digits/old"]
    with pytest.raises(UnknownArtifactError, match="nothing here was made with the licence MIT"):
        registry.plan_recall(licence="MIT")
    with pytest.raises(UnknownArtifactError, match="the package absent"):
        registry.plan_recall(package="absent")
