"""lakeFS#9957: a copy that shares its source's bytes loses them to a collection meanwhile.

A shallow copy is not a reference until it is committed; the collector, which looked before, deletes
what the copy is about to need. Ours claims the packs before it relies on them.
"""

from typing import TYPE_CHECKING

from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.museum.visiting import clean, strict

if TYPE_CHECKING:
    from pathlib import Path


def test_a_copy_that_is_being_made_keeps_the_bytes_of_its_source(registry: Registry) -> None:
    strict(registry)
    source = building.run(registry, "run-1")[0]
    run = registry.start_run(PROJECT, "copies")
    data: dict[str, Path | bytes] = {
        "model.safetensors": registry.read(source.reference, "model.safetensors")
    }
    record = Record(Kind.CHECKPOINT, PROJECT, "copies", content="0" * 64, run=run.id, step=1)
    copying = registry.publish(Draft(record, data))
    for reached in copying:
        if reached == "chunks_written":
            break
    assert source.reference in clean(registry)
    list(copying)

    assert registry.read("digits/copies@1", "model.safetensors") == data["model.safetensors"]
    assert registry.verify("digits/copies@1").ok
