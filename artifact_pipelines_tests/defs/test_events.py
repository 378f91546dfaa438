"""What happens in the registry reaches Dagster once, whatever Dagster forgets."""

from typing import Any

import dagster as dg
import pytest

from artifact_pipelines.defs import events
from artifact_pipelines.defs.events import Cursor, Work
from artifact_pipelines.defs.mirror import Mirror, identity
from artifact_pipelines.errors import ConfigurationError, StoreError
from artifact_pipelines.resources import RegistryResource
from artifact_pipelines_tests.defs.daemon import TOPIC, Daemon, outside, stages
from artifact_pipelines_tests.world import PROJECT, World


def test_a_run_from_outside_arrives_in_staging_by_itself(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere")
    daemon.until_idle()

    assert daemon.world.instance.get_dynamic_partitions("churn_runs") == ["elsewhere"]
    assert stages(daemon.world) == {"staging": "churn/v1"}
    # One Dagster run has judged it and moved the stage.
    assert len(daemon.launched) == 1
    (run,) = daemon.materializations("training_run")
    (checkpoints,) = daemon.materializations("checkpoints")
    assert run.partition == checkpoints.partition == "elsewhere"
    with daemon.world.registry() as registry:
        view = registry.run(PROJECT, "elsewhere")
    assert (run.tags or {})["dagster/data_version"] == view.artifact.id


def test_a_stage_waits_for_the_run_that_may_move_it(daemon: Daemon) -> None:
    world = daemon.world
    outside(world, "elsewhere")
    with world.registry() as registry:
        registry.set_policy(PROJECT, world.policy)
        registry.evaluate(PROJECT, "elsewhere")
    job = world.definitions().resolve_implicit_global_asset_job_def()
    keys = frozenset(dg.AssetKey([PROJECT, asset]) for asset in ("candidate", "staging"))
    going_on = world.instance.create_run_for_job(
        job_def=job, asset_selection=keys, tags={"dagster/partition": "other"}
    )
    daemon.tick()
    waiting = list(daemon.launched)
    world.instance.report_run_failed(going_on)
    daemon.until_idle()

    assert waiting == []
    assert [key.rpartition("/")[0].endswith("/staging") for key in daemon.launched] == [True]
    assert stages(world) == {"staging": "churn/v1"}


def test_what_dagster_trained_is_not_reported_or_judged_again(daemon: Daemon) -> None:
    daemon.world.materialize("datasets")
    daemon.world.materialize("train", "run-1")
    daemon.until_idle()

    assert daemon.shown == []
    assert len(daemon.launched) == 1
    assert daemon.launched[0].endswith("/staging/1")
    assert stages(daemon.world) == {"staging": "churn/v1"}


def test_nothing_is_repeated_when_the_cursor_is_lost(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere")
    daemon.until_idle()
    shown, launched = list(daemon.shown), list(daemon.launched)
    daemon.cursor = None
    daemon.until_idle()
    daemon.cursor = "nonsense"
    daemon.until_idle()
    daemon.cursor = Cursor(-1).encode()
    daemon.until_idle()

    assert daemon.shown == shown
    assert daemon.launched == launched


def test_nothing_is_lost_or_repeated_when_the_daemon_dies_before_the_cursor(
    daemon: Daemon,
) -> None:
    outside(daemon.world, "elsewhere")
    for _ in range(3):
        daemon.tick(die=True)
    daemon.until_idle()

    assert len(daemon.materializations("training_run")) == 1
    assert len(daemon.launched) == 1
    assert stages(daemon.world) == {"staging": "churn/v1"}


def test_a_sensor_without_a_cursor_starts_where_the_instance_was_told(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere")
    daemon.until_idle()
    daemon.tick()
    told = Cursor.decode(daemon.cursor)
    daemon.cursor = None
    daemon.ask()

    assert told is not None
    with daemon.world.registry() as registry:
        assert registry.reported(identity(daemon.world.instance), TOPIC) == told.seq


def test_a_failed_gate_run_is_asked_for_again_but_not_for_ever(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere")
    for _ in range(events.ATTEMPTS + 1):
        daemon.tick(fail=True)
    reason = daemon.reason
    daemon.tick()

    assert [key.rpartition("/")[2] for key in daemon.launched] == ["1", "2", "3"]
    assert (Cursor.decode(daemon.cursor) or Cursor(0)).open == ()
    assert "churn/candidate for elsewhere has failed 3 times, so a person has to look" in reason


def test_a_gate_run_that_failed_once_is_made_good(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere")
    daemon.tick(fail=True)
    daemon.until_idle()

    assert stages(daemon.world) == {"staging": "churn/v1"}


def test_a_deleted_run_is_judged_all_the_same(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere")
    daemon.tick(fail=True)
    for run in daemon.world.instance.get_runs():
        daemon.world.instance.delete_run(run.run_id)
    daemon.launched.clear()
    daemon.until_idle()

    assert stages(daemon.world) == {"staging": "churn/v1"}


def test_a_run_at_work_reports_itself(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere")
    instance = daemon.world.instance
    job = daemon.world.definitions().resolve_job_def("churn_train")
    tags = {**job.tags, "dagster/partition": "elsewhere"}
    status = dg.DagsterRunStatus.STARTED
    run = instance.create_run_for_job(job_def=job, status=status, tags=tags)
    daemon.tick()
    daemon.tick()
    waiting = (list(daemon.shown), list(daemon.launched))
    reason = daemon.reason
    instance.report_run_canceled(run)
    daemon.until_idle()

    assert waiting == ([], [])
    assert f"churn/elsewhere waits for the Dagster run {run.run_id[:8]}" in reason
    assert stages(daemon.world) == {"staging": "churn/v1"}


def test_a_failed_run_is_observed_with_its_reason_and_not_judged(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere", end="raise")
    daemon.until_idle()

    assert daemon.launched == []
    assert daemon.materializations("training_run") == []
    (checkpoints,) = daemon.materializations("checkpoints")
    assert checkpoints.metadata["checkpoints"].value == 3
    (observed,) = [event for event in daemon.shown if isinstance(event, dg.AssetObservation)]
    assert observed.partition == "elsewhere"
    assert "out of luck" in str(observed.metadata["reason"].value)


def test_a_model_that_fails_a_gate_stays_where_it_is(daemon: Daemon) -> None:
    daemon.world.change(gates=[{"metric": "accuracy", "min": 0.9}])
    outside(daemon.world, "elsewhere")
    daemon.until_idle()

    assert len(daemon.launched) == 1
    assert stages(daemon.world) == {}


def test_a_verdict_given_outside_is_shown_with_its_checks(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere")
    with daemon.world.registry() as registry:
        registry.set_policy(PROJECT, daemon.world.policy)
        registry.evaluate(PROJECT, "elsewhere")
    daemon.until_idle()

    (candidate,) = daemon.materializations("candidate")
    assert candidate.partition == "elsewhere"
    checks = [event for event in daemon.shown if isinstance(event, dg.AssetCheckEvaluation)]
    assert {check.check_name for check in checks} == {"accuracy_min", "integrity", "safety"}
    assert {check.partition for check in checks} == {"elsewhere"}
    assert stages(daemon.world) == {"staging": "churn/v1"}


def test_a_move_by_hand_is_shown_and_one_by_dagster_is_not_shown_again(daemon: Daemon) -> None:
    for seed, name in enumerate(("one", "two")):
        daemon.world.materialize("datasets")
        daemon.world.materialize("train", name, train={"params": {"seed": seed / 10}})
        daemon.until_idle()
    before = daemon.materializations("staging")
    with daemon.world.registry() as registry:
        registry.rollback(PROJECT, "staging")
    daemon.until_idle()

    assert before == []
    (moved,) = daemon.materializations("staging")
    assert moved.metadata["reference"].value == "churn/v1"
    assert moved.metadata["moved_by"].value == "rollback by tester"
    assert stages(daemon.world) == {"staging": "churn/v1"}


def test_a_dataset_from_outside_is_shown(daemon: Daemon) -> None:
    daemon.world.materialize("datasets")
    daemon.until_idle()
    with daemon.world.registry() as registry:
        newer = registry.publish_dataset(PROJECT, "rows", {"data.csv": b"1"}, facts={"rows": 1})
    daemon.until_idle()

    (shown,) = daemon.materializations("rows")
    assert (shown.tags or {})["dagster/data_version"] == newer.content


def test_what_was_forgotten_is_observed_once_on_its_run(daemon: Daemon) -> None:
    outside(daemon.world, "elsewhere", epochs=4)
    daemon.until_idle()
    with daemon.world.registry() as registry:
        plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
        gone = registry.apply_plan(plan.id).forgotten
    daemon.until_idle()

    observed = [event for event in daemon.shown if isinstance(event, dg.AssetObservation)]
    (checkpoints,) = [
        event for event in observed if event.asset_key == dg.AssetKey([PROJECT, "checkpoints"])
    ]
    assert gone
    assert str(checkpoints.metadata["forgotten"].value).startswith("3 of 4: churn/elsewhere@1, ")
    assert len(daemon.materializations("checkpoints")) == 1


def test_one_project_in_trouble_keeps_no_other_waiting(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[object]:
        raise StoreError("the disk has gone")

    outside(daemon.world, "elsewhere")
    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "run", broken)
        patched.setattr(Mirror, "dataset", broken, raising=False)
        asked = daemon.ask()
        daemon.tick()
    assert isinstance(asked, dg.SensorResult)
    assert asked.asset_events == []
    daemon.until_idle()

    assert stages(daemon.world) == {"staging": "churn/v1"}


def test_events_of_other_locations_are_passed_over(daemon: Daemon) -> None:
    with daemon.world.registry() as registry:
        registry.start_run("other", "run-1")
    daemon.tick()

    assert daemon.shown == daemon.launched == []
    assert "nothing in them calls for anything here" in daemon.reason
    assert isinstance(daemon.ask(), dg.SkipReason)


def ticked(world: World) -> Any:  # noqa: ANN401 (Dagster does not export its type)
    """Return what the sensor asks for when Dagster evaluates it."""
    definitions = world.definitions()
    with dg.DagsterInstance.local_temp(str(world.home)) as instance:
        sensor = definitions.resolve_sensor_def("growth_events")
        with dg.build_sensor_context(
            instance=instance,
            instance_ref=instance.get_ref(),
            repository_def=definitions.get_repository_def(),
            resources={"registry": RegistryResource()},
        ) as context:
            return sensor.evaluate_tick(context)


def test_the_sensor_ticks_under_dagster(world: World) -> None:
    outside(world, "elsewhere")
    found = ticked(world)

    assert found.run_requests is not None
    (request,) = found.run_requests
    assert request.asset_selection == [
        dg.AssetKey([PROJECT, asset]) for asset in ("candidate", "staging")
    ]
    assert {key.name for key in request.asset_check_keys or ()} == {
        "accuracy_min",
        "integrity",
        "safety",
    }
    assert [request.partition_key for request in found.run_requests] == ["elsewhere"]
    assert len(found.dynamic_partitions_requests or ()) == 1
    sensor = world.definitions().resolve_sensor_def("growth_events")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


@pytest.mark.parametrize("cursor", [Cursor(7), Cursor(9, (Work(4, "gate", "churn", "run-1"),))])
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    assert Cursor.decode(cursor.encode()) == cursor
    assert cursor.frontier == min([cursor.seq, *(work.seq - 1 for work in cursor.open)])


@pytest.mark.parametrize("text", [None, "", "12", "[1]", '{"seq": 1}'])
def test_a_cursor_that_cannot_be_read_is_none(text: str | None) -> None:
    assert Cursor.decode(text) is None


def test_planned_runs_are_trained_and_the_best_of_each_arrives(daemon: Daemon) -> None:
    daemon.world.materialize("datasets")
    with daemon.world.registry() as registry:
        registry.plan_runs(PROJECT, "sweep", {f"sweep-{n}": {"epochs": n} for n in (2, 3)})
    daemon.until_idle()

    with daemon.world.registry() as registry:
        runs = {view.artifact.name: view for view in registry.runs(PROJECT)}
        assert registry.planned([PROJECT]) == []
    assert {name: len(view.checkpoints) for name, view in runs.items()} == {
        "sweep-2": 2,
        "sweep-3": 3,
    }
    assert sorted(daemon.world.instance.get_dynamic_partitions("churn_runs")) == sorted(runs)
    assert len([key for key in daemon.launched if key.startswith("plan/")]) == 2
    assert stages(daemon.world) == {"staging": "churn/v2"}


def test_a_parameter_added_to_the_yaml_can_be_asked_for_after_a_tick(world: World) -> None:
    world.materialize("datasets")
    world.change(params={"epochs": 3, "depth": 1})
    with world.registry() as registry, pytest.raises(ConfigurationError, match="'depth'"):
        registry.plan_runs(PROJECT, "sweep", {"sweep": {"depth": 2}})
    ticked(world)
    with world.registry() as registry:
        (planned,) = registry.plan_runs(PROJECT, "sweep", {"sweep": {"depth": 2}})

    assert planned.params == {"depth": 2}


def test_a_long_sweep_waits_here_and_keeps_no_other_work_waiting(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PLANNED", 2)
    daemon.world.materialize("datasets")
    with daemon.world.registry() as registry:
        registry.plan_runs(PROJECT, "sweep", {f"sweep-{n}": {} for n in range(5)})
    outside(daemon.world, "elsewhere")
    asked = daemon.ask()

    assert isinstance(asked, dg.SensorResult)
    assert [str(request.partition_key) for request in asked.run_requests or ()] == [
        "elsewhere",
        "sweep-0",
        "sweep-1",
    ]


def test_a_planned_run_that_cannot_begin_is_withdrawn_with_the_reason(daemon: Daemon) -> None:
    daemon.world.materialize("datasets")
    with daemon.world.registry() as registry:
        registry.plan_runs(PROJECT, "sweep", {"sweep-1": {}})
    for _ in range(events.ATTEMPTS + 1):
        daemon.tick(fail=True)
    with daemon.world.registry() as registry:
        (leaf,) = registry.ledger(action="run_withdraw")
        left = registry.planned([PROJECT])
    daemon.tick()

    assert left == []
    assert len(daemon.launched) == events.ATTEMPTS
    assert "churn/training_run for sweep-1 has failed 3 times" in str((leaf.body or {})["reason"])
    assert isinstance(daemon.ask(), dg.SkipReason)


def test_planned_runs_survive_a_lost_cursor_and_deleted_runs(daemon: Daemon) -> None:
    daemon.world.materialize("datasets")
    with daemon.world.registry() as registry:
        registry.plan_runs(PROJECT, "sweep", {"sweep-1": {}})
    daemon.tick(die=True)
    for run in daemon.world.instance.get_runs():
        daemon.world.instance.delete_run(run.run_id)
    daemon.cursor = None
    daemon.until_idle()

    with daemon.world.registry() as registry:
        assert len(registry.checkpoints(PROJECT, "sweep-1")) == 3
        assert len(registry.runs(PROJECT)) == 1
    assert stages(daemon.world) == {"staging": "churn/v1"}
