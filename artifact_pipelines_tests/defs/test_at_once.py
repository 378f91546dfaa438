"""People and daemons in processes of their own, at the same time on one home."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from artifact_pipelines.components.project import TRAINING
from artifact_pipelines_tests.defs.daemon import Daemon, click, facts, outside, stages
from artifact_pipelines_tests.world import PROJECT, World, declaration

pytestmark = [pytest.mark.deep, pytest.mark.timeout(600)]

PATIENCE = 120.0  # seconds, of a machine that is busy with other things


def person(instance: Path, home: Path, together: Barrier) -> None:
    """Materialize a run and then staging, as somebody in the UI."""
    with dg.DagsterInstance.local_temp(str(instance)) as shared:
        world = World(home, shared, declaration())
        world.definitions().resolve_implicit_global_asset_job_def()
        together.wait(PATIENCE)
        click(world, TRAINING, "run-1")
        together.wait(PATIENCE)
        click(world, ("staging",))


def second_daemon(instance: Path, home: Path, together: Barrier) -> None:
    """Evaluate the sensor several times, with an instance of one's own."""
    with dg.DagsterInstance.local_temp(str(instance)) as own:
        daemon = Daemon(World(home, own, declaration()))
        daemon.world.definitions().resolve_implicit_global_asset_job_def()
        together.wait(PATIENCE)
        for _ in range(5):
            daemon.tick()


def at_once(work: Callable[..., None], home: Path, instances: list[Path]) -> None:
    """Do a piece of work in a process for each instance, all at once."""
    spawn: Any = multiprocessing.get_context("spawn")
    together = spawn.Barrier(len(instances))
    for instance in instances:
        instance.mkdir(exist_ok=True)
    started = [
        spawn.Process(target=work, args=(instance, home, together), daemon=True)
        for instance in instances
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
    assert [process.exitcode for process in started] == [0] * len(instances)


def test_two_people_at_once_train_and_promote_once(world: World, tmp_path: Path) -> None:
    world.materialize("datasets")
    shared = tmp_path / "dagster"
    shared.mkdir()
    with dg.DagsterInstance.local_temp(str(shared)) as instance:
        instance.add_dynamic_partitions(f"{PROJECT}_runs", ["run-1"])
    at_once(person, world.home, [shared, shared])

    done: Any = facts(world)
    assert len(done["checkpoints"]) == 3
    assert [state for _, state in done["runs"]] == ["finished"]
    assert len(done["models"]) == 1
    assert len(done["moves"]) == 1
    assert stages(world) == {"staging": "churn/v1"}
    with world.registry() as registry:
        assert registry.verify_ledger().ok


def test_two_daemons_at_once_in_processes_train_and_promote_once(
    world: World, tmp_path: Path
) -> None:
    outside(world, "elsewhere", epochs=2)
    with world.registry() as registry:
        registry.plan_runs(PROJECT, "sweep", {"sweep-1": {}, "sweep-2": {"seed": 1}})
    at_once(second_daemon, world.home, [tmp_path / "one", tmp_path / "two"])
    Daemon(world).until_idle()

    done: Any = facts(world)
    assert [state for _, state in done["runs"]] == ["finished"] * 3
    assert len(done["checkpoints"]) == 2 + 3 + 3
    with world.registry() as registry:
        made = [registry.checkpoint_of(model).name for model in registry.models(PROJECT)]
        moved = [move.model.reference for move in registry.history(PROJECT, "staging")]
        assert registry.planned([PROJECT], 10) == []
        assert registry.verify_ledger().ok
    assert sorted(made) == ["elsewhere", "sweep-1", "sweep-2"]
    assert len(moved) == len(set(moved)) > 0
