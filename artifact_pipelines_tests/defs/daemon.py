"""What people and Dagster's daemon do with a location, in this process."""

from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from artifact_pipelines import start_run
from artifact_pipelines.defs.events import tick
from artifact_pipelines_tests.sample import fit
from artifact_pipelines_tests.world import PROJECT, World

TOPIC = "growth_events"
QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


@dataclass
class Daemon:
    """What Dagster's daemon does with a sensor, one tick after the other.

    Attributes:
        world: The project.
        cursor: What the last tick left.
        launched: The run keys of the runs that were launched.
        shown: The asset events that were reported.
    """

    world: World
    cursor: str | None = None
    launched: list[str] = field(default_factory=list)
    shown: list[Any] = field(default_factory=list)
    reason: str = ""

    def ask(self) -> dg.SensorResult | dg.SkipReason:
        """Evaluate the sensor and do nothing of what it asks."""
        with self.world.registry() as registry:
            return tick(
                registry, self.world.instance, TOPIC, {PROJECT: self.world.policy}, self.cursor
            )

    def tick(self, *, fail: bool = False, die: bool = False) -> None:
        """Evaluate the sensor and do what it asks, or die before the cursor is kept."""
        asked = self.ask()
        if isinstance(asked, dg.SkipReason):
            self.reason = str(asked.skip_message)
            return
        self.reason = str(getattr(asked.skip_reason, "skip_message", asked.skip_reason))
        instance = self.world.instance
        for event in asked.asset_events:
            instance.report_runless_asset_event(event)
            self.shown.append(event)
        for change in asked.dynamic_partitions_requests or ():
            name, keys = change.partitions_def_name, list(change.partition_keys)
            if isinstance(change, dg.AddDynamicPartitionsRequest):
                instance.add_dynamic_partitions(name, keys)
            else:
                for key in keys:
                    instance.delete_dynamic_partition(name, key)
        for request in asked.run_requests or ():
            if str(request.run_key) not in self.launched:
                self.launched.append(str(request.run_key))
                self._launch(request, fail=fail)
        if not die:
            self.cursor = asked.cursor

    def _launch(self, request: dg.RunRequest, *, fail: bool) -> None:
        definitions = self.world.definitions()
        tags = {**request.tags, "dagster/run_key": str(request.run_key)}
        loggers = {"console": {"config": {"log_level": "CRITICAL"}}}
        job = definitions.resolve_implicit_global_asset_job_def()
        if fail:
            run = self.world.instance.create_run_for_job(job_def=job, tags=tags)
            self.world.instance.report_run_failed(run)
            return
        job.execute_in_process(
            instance=self.world.instance,
            asset_selection=request.asset_selection,
            partition_key=request.partition_key,
            run_config={**(request.run_config or {}), "loggers": loggers},
            tags=tags,
            raise_on_error=False,
        )

    def until_idle(self) -> None:
        """Tick until nothing more is asked."""
        for _ in range(10):
            self.tick()
            if isinstance(self.ask(), dg.SkipReason):
                return
        raise AssertionError(self.reason)

    def materializations(self, asset: str) -> list[dg.AssetMaterialization]:
        """Return what an asset was reported to be, oldest first."""
        return [
            event
            for event in self.shown
            if isinstance(event, dg.AssetMaterialization)
            and event.asset_key == dg.AssetKey([PROJECT, asset])
        ]


def outside(world: World, name: str, end: str = "well", epochs: int = 3) -> None:
    """Train without Dagster."""
    world.materialize("datasets")
    try:
        with start_run(
            PROJECT,
            name,
            params={"epochs": epochs, "end": end},
            inputs=[f"{PROJECT}/rows@latest"],
        ) as run:
            fit(run)
    except RuntimeError:
        pass


def stages(world: World) -> dict[str, str]:
    with world.registry() as registry:
        return {stage: model.reference for stage, model in registry.stages(PROJECT).items()}


def click(
    world: World, assets: tuple[str, ...], run: str | None = None
) -> dg.ExecuteInProcessResult:
    """Materialize assets as the UI does: through the job over all of them."""
    job = world.definitions().resolve_implicit_global_asset_job_def()
    found: dg.ExecuteInProcessResult = job.execute_in_process(
        instance=world.instance,
        asset_selection=[dg.AssetKey([PROJECT, asset]) for asset in assets],
        partition_key=run,
        run_config={"loggers": QUIET},
        raise_on_error=False,
    )
    return found


def facts(world: World) -> dict[str, object]:
    """Return what may never happen twice: trainings, models, moves."""
    with world.registry() as registry:
        return {
            "checkpoints": [one.id for one in registry.checkpoints(PROJECT)],
            "runs": [(one.artifact.id, one.state) for one in registry.runs(PROJECT)],
            "models": [one.id for one in registry.models(PROJECT)],
            "moves": [
                (stage, move.seq)
                for stage in registry.stages(PROJECT)
                for move in registry.history(PROJECT, stage)
            ],
        }
