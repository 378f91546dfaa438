"""Artifacts come to be whole or not at all, once, under their own name."""

from pathlib import Path

import pytest

from artifact_pipelines.catalog import packs, tables
from artifact_pipelines.domain.record import Input, Kind, Record
from artifact_pipelines.errors import (
    ConflictError,
    InvalidNameError,
    SessionLostError,
    SourceError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT

NO_FILES = building.POLICY.digest  # any digest: a draft's content is replaced when it is read


def rows(registry: Registry, table: str) -> int:
    return int(
        registry.catalog.read(
            lambda conn: conn.exec_driver_sql(f"select count(*) from {table}").scalar_one()
        )
    )


def test_the_same_dataset_is_the_same_artifact(registry: Registry) -> None:
    first, again = building.dataset(registry), building.dataset(registry)

    assert first == again
    assert first.reference == "digits/images@1"


def test_another_dataset_is_the_next_version(registry: Registry) -> None:
    building.dataset(registry, rows=3)

    assert building.dataset(registry, rows=4).reference == "digits/images@2"


def test_what_was_published_reads_back(registry: Registry, tmp_path: Path) -> None:
    checkpoint = building.run(registry, "run-1", seed=7)[0]

    assert registry.read(checkpoint.reference, "model.safetensors") == building.tensors(7_000)
    folder = registry.fetch(checkpoint.reference, tmp_path / "out")
    assert (folder / "optimizer.safetensors").read_bytes() == building.tensors(7_500)


def test_equal_bytes_are_stored_once(registry: Registry) -> None:
    building.run(registry, "run-1", seed=1)
    before = registry.storage_report()["totals"]["stored_bytes"]
    building.run(registry, "run-2", seed=1)

    assert registry.storage_report()["totals"]["stored_bytes"] == before


def test_a_model_costs_no_bytes_and_leaves_the_optimizer_behind(registry: Registry) -> None:
    checkpoint = building.run(registry, "run-1")[0]
    before = registry.storage_report()["totals"]["stored_bytes"]
    model = registry.publish_model(checkpoint)

    assert [entry.path for entry in registry.files(model.reference)] == ["model.safetensors"]
    assert registry.storage_report()["totals"]["stored_bytes"] == before


def test_a_step_with_other_content_is_refused(registry: Registry) -> None:
    checkpoint = building.run(registry, "run-1")[0]
    run = registry.run(PROJECT, "run-1").artifact

    with pytest.raises(ConflictError, match="run-1@0 is registered with other content"):
        registry.publish_checkpoint(run, {"model.safetensors": b"other"}, step=0)
    assert registry.find("digits/run-1@0") == checkpoint
    assert rows(registry, "session") == 0


def test_a_step_may_have_another_attempt_on_purpose(registry: Registry) -> None:
    building.run(registry, "run-1")
    run = registry.run(PROJECT, "run-1").artifact
    other = registry.publish_checkpoint(run, {"model.safetensors": b"other"}, step=0, attempt=2)

    assert registry.find("digits/run-1@0") == other


def test_a_run_name_trains_once(registry: Registry) -> None:
    building.run(registry, "run-1", seed=1)

    with pytest.raises(ConflictError, match="other parameters"):
        building.run(registry, "run-1", seed=2)


def test_a_run_and_a_dataset_may_not_share_a_name(registry: Registry) -> None:
    building.dataset(registry)

    with pytest.raises(ConflictError, match="share their names"):
        registry.start_run(PROJECT, "images")


def test_a_failed_run_runs_again_when_it_is_started_again(registry: Registry) -> None:
    run = registry.start_run(PROJECT, "run-1")
    registry.finish_run(run, "failed", "the power went")
    assert registry.run(PROJECT, "run-1").state == "failed"

    assert registry.start_run(PROJECT, "run-1") == run
    assert registry.run(PROJECT, "run-1").state == "running"


def test_an_unregistered_input_is_refused(registry: Registry) -> None:
    with pytest.raises(UnknownArtifactError, match="publish it first"):
        registry.start_run(PROJECT, "run-1", inputs=[Input("dataset:images", "0" * 64)])
    assert rows(registry, "artifact") == 0


@pytest.mark.parametrize("name", ["", "a/b", "v3", "..", "con", "x" * 129, "latest", "a b"])
def test_forbidden_run_names_are_refused(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidNameError):
        registry.start_run(PROJECT, name)


def test_an_unreadable_file_leaves_nothing_behind(registry: Registry, tmp_path: Path) -> None:
    run = registry.start_run(PROJECT, "run-1")
    before = rows(registry, "artifact")

    with pytest.raises(SourceError, match="cannot be read"):
        registry.publish_checkpoint(
            run, {"a.bin": b"x" * 100, "b.bin": tmp_path / "missing.bin"}, step=0
        )
    assert rows(registry, "artifact") == before
    assert rows(registry, "session") == 0


def test_a_symbolic_link_is_not_followed(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "home" / "keys" / "owner.key")
    run = registry.start_run(PROJECT, "run-1")

    with pytest.raises(SourceError, match="symbolic links"):
        registry.publish_checkpoint(run, {"model.safetensors": tmp_path / "link"}, step=0)


def test_a_writer_whose_session_expired_is_fenced(registry: Registry) -> None:
    run = registry.start_run(PROJECT, "run-1")
    record = Record(Kind.CHECKPOINT, PROJECT, "run-1", content=NO_FILES, run=run.id, step=0)
    writer = registry.publish(Draft(record, {"model.safetensors": b"weights"}))
    while next(writer) != "object_written":
        pass
    registry.catalog.write(
        lambda tx: tx.conn.execute(tables.session.update().values(lease_until=0.0))
    )
    registry.catalog.write(packs.expire)

    with pytest.raises(SessionLostError, match="publish again"):
        next(writer)
    assert registry.checkpoints(PROJECT) == []


def test_a_reference_by_digest_finds_the_artifact(registry: Registry) -> None:
    found = building.dataset(registry)

    assert registry.find(found.id[:8]) == found
    assert registry.find(found.content[:8]) == found


def test_latest_is_the_highest_step_as_a_number(registry: Registry) -> None:
    run = registry.start_run(PROJECT, "run-1")
    for step in (9, 10, 100):
        registry.publish_checkpoint(run, {"model.safetensors": b"%d" % step}, step=step)

    assert registry.find("digits/run-1@latest").step == 100


def test_lineage_reaches_the_data(registry: Registry) -> None:
    model = registry.publish_model(building.run(registry, "run-1")[-1])

    up = {edge.parent.reference for edge in registry.lineage(model.reference)}
    down = {edge.child.reference for edge in registry.lineage("digits/images@1", down=True)}
    assert up >= {"digits/run-1@2", "digits/run-1", "digits/images@1"}
    assert down >= {"digits/run-1", "digits/run-1@2", "digits/v1"}
