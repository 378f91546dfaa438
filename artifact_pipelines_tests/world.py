"""A project in a Dagster instance and a home of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from artifact_pipelines import start_run
from artifact_pipelines.components.declaration import Dataset, Declaration, declare
from artifact_pipelines.components.model_pipeline import definitions_of
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.gates.jobs import load_function
from artifact_pipelines.project import with_registry
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.resources import TrainerResource

PROJECT = "churn"
SAMPLE = "artifact_pipelines_tests.sample"
ROOT = Path(__file__).parent.parent


def fields(**changes: Any) -> dict[str, Any]:
    """Return the fields of a small project, some of them changed."""
    return {
        "name": PROJECT,
        "owners": ["team:growth"],
        "datasets": [Dataset(name="rows", load=f"{SAMPLE}:table")],
        "train": f"{SAMPLE}:fit",
        "params": {"epochs": 3, "seed": 0, "end": "well"},
        "evaluate": f"{SAMPLE}:measure",
        "evaluation": "rows",
        "select": {"metric": "accuracy", "try": 3},
        "gates": [{"metric": "accuracy", "min": 0.2}],
        "promotion": None,
        "retention": {"keep": {"last": 1, "best": 1}, "forget_after": "0d"},
        "schedule": None,
        "pool": None,
    } | changes


def declaration(**changes: Any) -> Declaration:
    """Return a small project, some of it changed."""
    return declare(fields(**changes), [ROOT])


class InProcessTrainer(TrainerResource):
    """Training without a process of its own, which would take a second."""

    def run(self, _context: dg.AssetExecutionContext, job: Mapping[str, Any]) -> str | None:
        """Train, and return why it failed, or None when it finished."""
        try:
            with start_run(
                job["project"],
                job["run"],
                params=job["params"],
                inputs=job["inputs"],
                resume_from=job["resume_from"],
            ) as run:
                load_function(job["train"])(run)
        except Exception as error:  # noqa: BLE001 (a trainer raises what it likes)
            return str(error)
        return None


@dataclass
class Outcome:
    """What came of a Dagster run.

    Attributes:
        result: The run.
        failure: Why it failed, as the run's page says it.
        instance: Where it is recorded.
    """

    result: dg.ExecuteInProcessResult
    failure: str
    instance: dg.DagsterInstance

    @property
    def success(self) -> bool:
        """Whether it succeeded."""
        return self.result.success

    def shown(self, asset: str) -> dict[str, Any]:
        """Return the metadata of the one materialization of an asset, as plain values."""
        found = self._materialization(asset)
        return {name: value.value for name, value in found.metadata.items()}

    def version(self, asset: str) -> str:
        """Return the data version that an asset was given."""
        found = self._materialization(asset)
        return str((found.tags or {})["dagster/data_version"])

    def assets(self) -> list[str]:
        """Return the assets that were materialized."""
        events = self.result.get_asset_materialization_events()
        return [event.asset_key.path[-1] for event in events if event.asset_key]

    def logged(self) -> list[dg.EventLogEntry]:
        """Return what was logged in the run."""
        return [
            one for one in self.instance.all_logs(self.result.run_id) if not one.is_dagster_event
        ]

    def _materialization(self, asset: str) -> dg.AssetMaterialization:
        (found,) = [
            event.materialization
            for event in self.result.get_asset_materialization_events()
            if event.asset_key == dg.AssetKey([PROJECT, asset])
        ]
        return found

    def checks(self) -> dict[str, bool]:
        """Return what the checks said."""
        found = self.result.get_asset_check_evaluations()
        return {evaluation.check_name: evaluation.passed for evaluation in found}


@dataclass
class World:
    """A project, its Dagster instance and its registry.

    Attributes:
        home: The home of the registry.
        instance: The Dagster instance.
        declared: The project.
        apart: Whether trainings run in a process of their own.
        trainer: What trains instead, where it is neither.
    """

    home: Path
    instance: dg.DagsterInstance
    declared: Declaration
    apart: bool = False
    trainer: TrainerResource | None = None

    @property
    def policy(self) -> Policy:
        """The project's policy."""
        return self.declared.policy

    def change(self, **changes: Any) -> None:
        """Change fields of the project."""
        self.declared = declaration(**changes)

    def definitions(self) -> dg.Definitions:
        """Return the project's code location."""
        found = definitions_of(self.declared, ROOT)
        if not self.apart:
            trainer = self.trainer or InProcessTrainer()
            found = dg.Definitions.merge(found, dg.Definitions(resources={"trainer": trainer}))
        return with_registry(found, "growth")

    def registry(self) -> Registry:
        """Open the registry."""
        return open_registry(self.home, actor="tester")

    def add_run(self, name: str) -> None:
        """Add a partition, as a person does in the UI."""
        self.instance.add_dynamic_partitions(f"{PROJECT}_runs", [name])

    def materialize(
        self, work: str, run: str | None = None, **config: Mapping[str, Any]
    ) -> Outcome:
        """Run one of the project's jobs, with the configuration of some of its assets."""
        if run is not None:
            self.add_run(run)
        ops = {f"{PROJECT}__{asset}": {"config": dict(found)} for asset, found in config.items()}
        quiet = {"console": {"config": {"log_level": "CRITICAL"}}}
        result = (
            self.definitions()
            .resolve_job_def(f"{PROJECT}_{work}")
            .execute_in_process(
                instance=self.instance,
                partition_key=run,
                raise_on_error=False,
                run_config={"ops": ops, "loggers": quiet},
            )
        )
        failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
        said = [
            str(
                failure.user_failure_data.description
                if failure.user_failure_data
                else failure.error
            )
            for failure in failures
        ]
        return Outcome(result, "\n".join(said), self.instance)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Yield a world in a folder."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(folder / "home", instance, declaration())
