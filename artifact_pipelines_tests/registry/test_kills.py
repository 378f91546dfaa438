"""A process that is killed after any step leaves the old state or the new one."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT

PUBLISH = [
    "session_opened",
    "chunks_written",
    "packs_sealed",
    "object_written",
    "committed",
    "exported",
]
MOVE = ["session_opened", "chunks_written", "packs_sealed", "committed", "exported"]
PROMOTE = ["decided", "committed", "exported", "signed"]


def killed_after(label: str, steps: Callable[[], Steps[object]]) -> None:
    """Take the steps up to a label in a child process that then kills itself."""
    child = os.fork()
    if child == 0:
        try:
            for reached in steps():
                if reached == label:
                    os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child never reached {label}"


@pytest.mark.parametrize("label", PUBLISH)
def test_a_killed_publish_leaves_old_or_new(tmp_path: Path, label: str) -> None:
    home = tmp_path / "home"
    with open_registry(home, actor="tester") as registry:
        run = registry.start_run(PROJECT, "run-1")
        registry.publish_checkpoint(run, {"model.safetensors": building.tensors(1)}, step=1)
        record = Record(Kind.CHECKPOINT, PROJECT, "run-1", content="0" * 64, run=run.id, step=2)
        draft = Draft(record, {"model.safetensors": building.tensors(2)})
        killed_after(label, lambda: registry.publish(draft))

    with open_registry(home, actor="tester") as reopened:
        there = [checkpoint.step for checkpoint in reopened.checkpoints(PROJECT, "run-1")]
        assert there == ([1, 2] if label in {"committed", "exported"} else [1])
        again = reopened.publish_checkpoint(run, {"model.safetensors": building.tensors(2)}, step=2)
        assert reopened.read(again.reference, "model.safetensors") == building.tensors(2)
        expire_sessions(reopened)
        assert reopened.prune(grace=0).disagreements == ()
        assert all_stored_is_needed(reopened)
        assert reopened.verify_ledger().problems == ()
        assert reopened.verify("digits/run-1@1").ok
        assert reopened.verify("digits/run-1@2").ok


@pytest.mark.parametrize("label", PROMOTE)
def test_a_killed_promotion_leaves_old_or_new(tmp_path: Path, label: str) -> None:
    home = tmp_path / "home"
    with open_registry(home, actor="tester") as registry:
        old = building.promoted(registry, "run-1")
        new = building.candidate(registry, "run-2", seed=2)
        building.approve(registry, new)
        killed_after(label, lambda: registry.promotion(new, "production"))

    with open_registry(home, actor="tester") as reopened:
        served = reopened.resolve("digits@production")
        assert served.model == (new if label == "signed" else old)
        assert served.pending == (label in {"committed", "exported"})
        reopened.promote(new.reference, "production")
        assert reopened.resolve("digits@production").model == new
        assert len(reopened.history(PROJECT, "production")) == 2
        assert reopened.verify_ledger().problems == ()


@pytest.mark.parametrize("action", ["archive", "restore", "compact"])
@pytest.mark.parametrize("label", MOVE)
def test_a_killed_move_leaves_old_or_new(tmp_path: Path, action: str, label: str) -> None:
    home = tmp_path / "home"
    with open_registry(home, actor="tester") as registry:
        made = building.trained(registry, steps=3)
        references = [found.reference for found in made]
        expected = [registry.read(reference, "model.safetensors") for reference in references]
        if action == "restore":
            registry.archive(references)
        if action == "compact":
            registry.slim(references[0], reason="small")
        killed_after(label, lambda: moving(registry, action, references))

    with open_registry(home, actor="tester") as reopened:
        done = label in {"committed", "exported"}
        former, tier = {
            "archive": ("hot", "cold"),
            "restore": ("cold", "hot"),
            "compact": ("hot", "hot"),
        }[action]
        assert reopened.get(made[0].id).tier == (tier if done else former)
        expire_sessions(reopened)
        assert reopened.prune(grace=0).disagreements == ()
        for reference, data in zip(references, expected, strict=True):
            assert reopened.read(reference, "model.safetensors") == data
        for _ in moving(reopened, action, references):
            pass
        assert reopened.prune(grace=0).disagreements == ()
        assert all_stored_is_needed(reopened)
        assert {reopened.get(found.id).tier for found in made} == {tier}
        assert all(reopened.verify(reference).ok for reference in references)
        assert reopened.verify_ledger().problems == ()


def moving(registry: Registry, action: str, references: list[str]) -> Steps[object]:
    """Return the steps of a move."""
    if action == "archive":
        return registry.archiving(references)
    if action == "restore":
        return registry.restoring(references)
    return registry.compacting()


def expire_sessions(registry: Registry) -> None:
    registry.catalog.write(lambda tx: tx.conn.exec_driver_sql("update session set lease_until = 0"))


def all_stored_is_needed(registry: Registry) -> bool:
    """Return whether the store holds no pack or publish object that nothing cites."""
    backend = registry.store.backend
    packs = {key.rpartition("/")[2] for key in backend.keys("packs/")}
    needed = set(
        registry.catalog.read(
            lambda conn: conn.exec_driver_sql("select pack from artifact_pack").scalars()
        )
    )
    artifacts = registry.catalog.read(
        lambda conn: conn.exec_driver_sql("select count(*) from artifact").scalar_one()
    )
    return packs <= needed and len(list(backend.keys("publish/"))) == artifacts
