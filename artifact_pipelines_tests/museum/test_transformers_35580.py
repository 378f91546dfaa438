"""transformers#35580: training resumes from a checkpoint that was only half written.

A folder with the highest step is taken for the newest checkpoint, whether or not the process that
wrote it lived to finish.
"""

from typing import TYPE_CHECKING

import pytest

from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ["session_opened", "chunks_written", "packs_sealed", "object_written"]


@pytest.mark.parametrize("label", LABELS)
def test_a_half_written_checkpoint_is_no_checkpoint(registry: Registry, label: str) -> None:
    run = registry.start_run(PROJECT, "run-1")
    registry.publish_checkpoint(run, {"model.safetensors": building.tensors(1)}, step=1)
    record = Record(Kind.CHECKPOINT, PROJECT, "run-1", content="0" * 64, run=run.id, step=2)
    files: dict[str, Path | bytes] = {"model.safetensors": building.tensors(2)}
    writing = registry.publish(Draft(record, files))
    for reached in writing:
        if reached == label:
            break

    assert registry.find("digits/run-1@latest").step == 1
    assert [found.step for found in registry.run(PROJECT, "run-1").checkpoints] == [1]
    assert registry.verify("digits/run-1@latest").ok
