"""What people click in Dagster trains nothing twice, promotes nothing twice, loses nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from artifact_pipelines import start_run
from artifact_pipelines.components.project import TRAINING
from artifact_pipelines.defs.sync import Synced, sync
from artifact_pipelines.domain.record import Input
from artifact_pipelines.registry import Registry
from artifact_pipelines.store.pack import object_key
from artifact_pipelines_tests.defs.daemon import QUIET, Daemon, click, facts, outside, stages
from artifact_pipelines_tests.world import PROJECT, World


def synced(world: World) -> Synced:
    with world.registry() as registry:
        return sync(registry, world.instance, PROJECT)


@pytest.fixture
def trained(daemon: Daemon) -> Daemon:
    """A run that Dagster trained and one from elsewhere, both judged and shown."""
    daemon.world.materialize("datasets")
    daemon.world.materialize("train", "run-1")
    daemon.until_idle()
    outside(daemon.world, "elsewhere", epochs=4)
    daemon.until_idle()
    return daemon


def test_materialize_all_twice_trains_and_promotes_once(world: World) -> None:
    everything = ("rows", *TRAINING, "staging", "retention_plan", "cleanup")
    world.add_run("run-1")
    first = click(world, everything, "run-1")
    before = facts(world)
    again = click(world, everything, "run-1")

    assert first.success
    assert again.success
    assert facts(world) == before
    assert len(before["moves"]) == 1  # type: ignore[arg-type] # it is a list


def test_materialize_all_stops_at_a_production_that_nobody_approved(world: World) -> None:
    world.add_run("run-1")
    ran = click(world, ("rows", *TRAINING, "staging", "production"), "run-1")

    assert not ran.success
    assert stages(world) == {"staging": "churn/v1"}


def test_a_backfill_over_old_runs_after_new_data_trains_nothing(trained: Daemon) -> None:
    trained.world.materialize("datasets", rows={"params": {"rows": 9}})
    before = facts(trained.world)
    ran = [click(trained.world, TRAINING, run) for run in ("run-1", "elsewhere")]
    trained.until_idle()

    assert all(one.success for one in ran)
    after = facts(trained.world)
    assert (after["runs"], after["checkpoints"]) == (before["runs"], before["checkpoints"])


def test_a_re_execution_goes_on_where_the_training_stopped(world: World) -> None:
    world.materialize("datasets")
    stopped = world.materialize("train", "run-1", train={"params": {"end": "raise"}})
    before = facts(world)
    again = click(world, TRAINING, "run-1")

    assert "out of luck" in stopped.failure
    assert not again.success
    after = facts(world)
    assert before["checkpoints"] == after["checkpoints"] != []
    assert [state for _, state in after["runs"]] == ["failed"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["run/1", "v3", "latest", "a b"])
def test_a_wrong_name_trains_nothing_and_says_why(world: World, name: str) -> None:
    world.materialize("datasets")
    outcome = world.materialize("train", name)

    assert "run name" in outcome.failure
    assert facts(world)["runs"] == []


def test_a_name_that_nobody_added_trains_and_is_in_the_list(world: World) -> None:
    world.materialize("datasets")
    # As GraphQL launches it: the partition is a tag, and nobody asks whether it exists.
    ran = (
        world.definitions()
        .resolve_implicit_global_asset_job_def()
        .execute_in_process(
            instance=world.instance,
            asset_selection=[dg.AssetKey([PROJECT, asset]) for asset in TRAINING],
            tags={"dagster/partition": "scripted"},
            run_config={"loggers": QUIET},
            raise_on_error=False,
        )
    )

    assert ran.success
    assert world.instance.get_dynamic_partitions(f"{PROJECT}_runs") == ["scripted"]


def test_two_people_promote_the_same_model_and_it_moves_once(trained: Daemon) -> None:
    before = facts(trained.world)
    ran = [click(trained.world, ("staging",)) for _ in range(2)]

    assert all(one.success for one in ran)
    assert facts(trained.world)["moves"] == before["moves"]
    assert [
        event.step_materialization_data.materialization.metadata["moved_now"].value
        for one in ran
        for event in one.get_asset_materialization_events()
    ] == [False, False]


def delete_runs(world: World) -> None:
    for run in world.instance.get_runs():
        world.instance.delete_run(run.run_id)


def wipe_assets(world: World) -> None:
    world.instance.wipe_assets(
        [dg.AssetKey([PROJECT, one]) for one in ("rows", "staging", *TRAINING)]
    )


def delete_partitions(world: World) -> None:
    for run in ("run-1", "elsewhere"):
        world.instance.delete_dynamic_partition("churn_runs", run)


def nothing(_: World) -> None:
    """Leave Dagster as it is."""


@pytest.mark.parametrize(
    "damage,cursor",
    [(nothing, False), (delete_runs, False), (wipe_assets, True), (delete_partitions, False)],
)
def test_what_dagster_has_lost_is_neither_done_again_nor_lost(
    trained: Daemon, damage: Callable[[World], None], *, cursor: bool
) -> None:
    before, launched = facts(trained.world), list(trained.launched)
    damage(trained.world)
    if not cursor:
        trained.cursor = None
    trained.until_idle()
    found = synced(trained.world)
    again = synced(trained.world)

    assert facts(trained.world) == before
    assert trained.launched == launched
    partitions = trained.world.instance.get_dynamic_partitions("churn_runs")
    assert sorted(partitions) == ["elsewhere", "run-1"]
    for asset in TRAINING:
        for run in ("run-1", "elsewhere"):
            wanted = dg.AssetRecordsFilter(dg.AssetKey([PROJECT, asset]), asset_partitions=[run])
            assert trained.world.instance.fetch_materializations(wanted, limit=1).records
    assert (again.events, again.added, again.removed) == (0, (), ())
    assert (found.events > 0) == (damage in {wipe_assets, delete_runs})


def test_sync_reports_a_few_events_for_each_run(trained: Daemon) -> None:
    wipe_assets(trained.world)
    found = synced(trained.world)

    checks = len(trained.world.policy.required())
    assert found.events == 2 * (3 + checks) + 2


@pytest.fixture
def other(world: World, tmp_path: Path) -> Iterator[Daemon]:
    """A second daemon, with an instance of its own, over the same registry."""
    assert world.home == tmp_path / "home"

    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(World(world.home, instance, world.declared))


def test_a_second_daemon_shows_everything_and_does_nothing_again(
    trained: Daemon, other: Daemon
) -> None:
    before = facts(trained.world)
    other.until_idle()
    trained.until_idle()

    assert facts(trained.world) == before
    assert other.launched == []
    assert sorted(other.world.instance.get_dynamic_partitions("churn_runs")) == [
        "elsewhere",
        "run-1",
    ]
    assert {event.partition for event in other.materializations("candidate")} == {
        "elsewhere",
        "run-1",
    }


def test_two_daemons_at_once_train_a_planned_run_once(world: World, other: Daemon) -> None:
    world.materialize("datasets")
    with world.registry() as registry:
        registry.plan_runs(PROJECT, "sweep", {"sweep-1": {}})
    one = Daemon(world)
    asked = [one.ask(), other.ask()]
    one.until_idle()
    other.until_idle()

    assert all(isinstance(found, dg.SensorResult) and found.run_requests for found in asked)
    with world.registry() as registry:
        assert len(registry.runs(PROJECT)) == 1
        assert len(registry.models(PROJECT)) == 1
        assert len(registry.history(PROJECT, "staging")) == 1


def test_a_run_of_which_nothing_is_kept_leaves_the_list_and_its_lineage_answers(
    world: World,
) -> None:
    world.change(retention={"keep": {"last": 0, "best": 0}, "forget_after": "0d"}, promotion={})
    daemon = Daemon(world)
    outside(world, "elsewhere")
    daemon.until_idle()
    listed = list(world.instance.get_dynamic_partitions("churn_runs"))
    with world.registry() as registry:
        plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
        registry.apply_plan(plan.id)
    daemon.until_idle()

    assert listed == ["elsewhere"]
    assert world.instance.get_dynamic_partitions("churn_runs") == []
    assert synced(world).added == ()
    with world.registry() as registry:
        (model,) = registry.models(PROJECT)
        assert model.state == "forgotten"
        assert registry.lineage(model.reference)


def test_what_becomes_of_an_artifact_is_observed_on_its_run(trained: Daemon) -> None:
    shown = len(trained.shown)
    with trained.world.registry() as registry:
        registry.place_hold("churn/elsewhere@4", "lawsuit", "asked for")
    trained.until_idle()
    with trained.world.registry() as registry:
        registry.lift_hold("churn/elsewhere@4", "lawsuit", "settled")
    trained.until_idle()

    said = [
        {name: value.value for name, value in event.metadata.items()}
        for event in trained.shown[shown:]
        if isinstance(event, dg.AssetObservation) and event.partition == "elsewhere"
    ]
    assert said == [
        {"held": "churn/elsewhere@4 for lawsuit"},
        {"lifecycle": "as it was registered"},
    ]


Change = Callable[[Registry], object]


def damage(registry: Registry) -> None:
    """Damage a checkpoint in the store, and have a scrub find it."""
    (one,) = [one for one in registry.checkpoints(PROJECT, "elsewhere") if one.record.step == 3]
    publication = registry.publication_of(one.id, one.session)
    key = publication.chunks[publication.manifest.files[0].sha256][0][0]
    at = registry.locate([key])[key]
    data = bytearray(registry.store.backend.get(object_key(at.pack)))
    data[at.offset + at.stored // 2] ^= 1
    registry.store.backend.put(object_key(at.pack), bytes(data))
    registry.scrub()


@pytest.mark.parametrize(
    "change,shown",
    [
        (
            lambda registry: registry.archive(["churn/elsewhere@3"]),
            {"checkpoints": {"archived": "1 of 3: churn/elsewhere@3"}},
        ),
        (
            lambda registry: registry.tag("churn/elsewhere@3", "country", "DE"),
            {"checkpoints": {"tags": "churn/elsewhere@3 country=DE"}},
        ),
        (
            lambda registry: registry.annotate("churn/elsewhere@3", "the one to watch"),
            {"checkpoints": {"notes": "churn/elsewhere@3: the one to watch"}},
        ),
        (
            lambda registry: registry.recall("not ours to keep", artifact="churn/rows@latest"),
            {
                "training_run": {"recalled": "1 of 1: churn/elsewhere"},
                "checkpoints": {
                    "recalled": "3 of 3: churn/elsewhere@1, churn/elsewhere@2, churn/elsewhere@3"
                },
                "candidate": {"recalled": "1 of 1: churn/v1"},
            },
        ),
        (
            damage,
            {
                "checkpoints": {"quarantined": "1 of 3: churn/elsewhere@3"},
                "candidate": {"quarantined": "1 of 1: churn/v1"},
            },
        ),
    ],
    ids=["archive", "tag", "annotate", "recall", "quarantine"],
)
def test_each_change_of_an_artifact_is_observed_once_on_its_run(
    daemon: Daemon, change: Change, shown: dict[str, object]
) -> None:
    outside(daemon.world, "elsewhere", epochs=3)
    daemon.until_idle()
    before = len(daemon.shown)
    with daemon.world.registry() as registry:
        change(registry)
    daemon.until_idle()
    daemon.cursor = None
    daemon.until_idle()

    observed = [
        event
        for event in daemon.shown[before:]
        if isinstance(event, dg.AssetObservation) and event.partition == "elsewhere"
    ]
    assert shown == {
        event.asset_key.path[-1]: {name: value.value for name, value in event.metadata.items()}
        for event in observed
    }
    assert len(observed) == len(shown)
    assert synced(daemon.world).events == 0


def test_what_lost_its_optimizer_is_observed_on_its_run(world: World) -> None:
    daemon = Daemon(world)
    world.materialize("datasets")
    with start_run(PROJECT, "heavy", inputs=[f"{PROJECT}/rows@latest"]) as run:
        for step in (1, 2):
            weights = {"w": np.full(4, step, dtype="f4")}
            run.checkpoint(weights, step=step, optimizer=weights, metrics={"accuracy": step / 10})
    daemon.until_idle()
    with world.registry() as registry:
        registry.slim("churn/heavy@1", reason="never resumed")
    daemon.until_idle()

    (observed,) = [event for event in daemon.shown if isinstance(event, dg.AssetObservation)]
    assert observed.asset_key == dg.AssetKey([PROJECT, "checkpoints"])
    assert observed.partition == "heavy"
    assert observed.metadata["slimmed"].value == "1 of 2: churn/heavy@1"


def test_a_hand_made_run_that_another_trainer_is_at_is_shown_when_it_ends(world: World) -> None:
    world.materialize("datasets")
    with world.registry() as registry:
        rows = registry.find(f"{PROJECT}/rows@latest")
        begun = registry.start_run(
            PROJECT, "busy", params={"epochs": 3}, inputs=[Input("dataset:rows", rows.id)]
        )
        with registry.sole_trainer(begun):
            world.add_run("busy")
            ran = click(world, TRAINING, "busy")

    assert not ran.success
    assert facts(world)["runs"] == [(begun.id, "running")]
