"""Declared and re-derivable edges, and how complete a lineage is."""

from pathlib import Path

import pytest

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.errors import ConflictError, InvalidFormatError, RefusedError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines_tests import building


def kinds(registry: Registry, reference: str) -> dict[str, str]:
    return {
        edge.role: edge.kind
        for edge in registry.lineage(reference)
        if edge.child.reference == reference
    }


def test_what_is_declared_is_an_edge_of_its_own_kind_and_outlives_the_catalog(
    registry: Registry, tmp_path: Path
) -> None:
    building.run(registry, "a")
    building.run(registry, "b", seed=2)
    registry.declare("digits/b@0", "digits/a@2", "distilled_from")
    registry.declare("digits/b@0", "digits/a@2", "distilled_from")
    url = f"sqlite:///{tmp_path / 'again.db'}"
    registry.rebuild(url)
    again = Catalog(url)

    assert kinds(registry, "digits/b@0") == {"run": "observed", "distilled_from": "declared"}
    assert len(registry.ledger(action="declare")) == 1
    assert again.read(facts) == registry.catalog.read(facts)
    again.close()


def test_nothing_is_made_from_what_it_led_to(registry: Registry) -> None:
    building.run(registry, "a")

    with pytest.raises(ConflictError, match="the other way round"):
        registry.declare("digits/images@1", "digits/a@2", "dataset:x")
    with pytest.raises(ConflictError):
        registry.declare("digits/a@2", "digits/a@2", "self")
    with pytest.raises(InvalidFormatError, match="role"):
        registry.declare("digits/a@2", "digits/images@1", "Not A Role")


def test_what_was_observed_is_not_weakened_by_a_word(registry: Registry) -> None:
    building.run(registry, "a")
    registry.declare("digits/a", "digits/images@1", "dataset:images")

    assert kinds(registry, "digits/a") == {"dataset:images": "observed"}
    assert registry.ledger(action="declare") == []


def half(source: Path, out: Path) -> None:
    """Keep the first half of the weights file."""
    data = (source / "model.safetensors").read_bytes()
    (out / "half.bin").write_bytes(data[: len(data) // 2])


def test_a_conversion_that_comes_out_the_same_is_rederivable(registry: Registry) -> None:
    building.run(registry, "a")
    whole = registry.read("digits/a@2", "model.safetensors")
    started = registry.start_run("digits", "small")
    registry.publish_checkpoint(started, {"half.bin": whole[: len(whole) // 2]}, step=0)
    registry.publish_checkpoint(started, {"half.bin": b"other"}, step=1)
    registry.declare("digits/small@0", "digits/a@2", "converted_from")
    registry.rederive("digits/small@0", "digits/a@2", "converted_from", "m:half", half)

    assert kinds(registry, "digits/small@0")["converted_from"] == "rederivable"
    with pytest.raises(RefusedError, match=r"'half.bin' came out otherwise"):
        registry.rederive("digits/small@1", "digits/a@2", "converted_from", "m:half", half)
    assert kinds(registry, "digits/small@1") == {"run": "observed"}


def test_completeness_looks_at_the_whole_lineage(registry: Registry) -> None:
    building.promoted(registry, "a")
    found = registry.completeness("digits@production")

    assert 0 < found.score < 1
    assert "digits/images@1: its licence is unknown; declare it with the dataset." in {
        gap.sentence for gap in found.missing
    }
    assert "digits/a" in {gap.artifact for gap in found.missing if gap.question == "machine"}
    assert found.questions["data"] == found.questions["edges"] == 1
