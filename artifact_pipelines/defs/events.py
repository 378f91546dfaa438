"""The one sensor of a code location: what happened in the registry reaches Dagster.

It reads the ledger by number, so that no event is missed or seen out of order, and the
catalog, not the cursor, decides what is still to be done: a lost cursor repeats nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.auditing import Event
from artifact_pipelines.resources import RegistryResource

BATCH = 500


def event_sensor(
    location: str, jobs: Mapping[str, Sequence[Any]]
) -> dg.SensorDefinition:
    """Return the sensor of a code location over its projects and their jobs."""
    wanted = [job for found in jobs.values() for job in found]

    @dg.sensor(
        name=f"{location.replace('-', '_')}_events",
        jobs=wanted,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Follows the registry: new runs, finished runs, verdicts.",
    )
    def events(
        context: dg.SensorEvaluationContext, registry: RegistryResource
    ) -> dg.SensorResult | dg.SkipReason:
        with registry.opened() as opened:
            cursor = int(context.cursor) if context.cursor else -1
            found = opened.events(after=cursor, limit=BATCH)
            if not found:
                return dg.SkipReason(f"Nothing has happened since leaf {cursor}.")
            told = _Told(opened, context.instance)
            for event in found:
                if event.project in jobs:
                    told.take(event)
            return told.result(str(found[-1].seq))

    return events


class _Told:
    """What a batch of events asks of Dagster."""

    def __init__(self, registry: Registry, instance: dg.DagsterInstance) -> None:
        self.registry = registry
        self.instance = instance
        self.partitions: dict[str, list[str]] = {}
        self.requests: dict[str, dg.RunRequest] = {}
        self.reports: list[dg.AssetMaterialization] = []

    def take(self, event: Event) -> None:
        """Take one event into account."""
        project, body = str(event.project), event.body or {}
        if event.action == "publish" and body.get("kind") == "training_run":
            self.partitions.setdefault(project, []).append(str(body["name"]))
        elif event.action == "run_finish" and body.get("outcome") == "finished":
            self._finished(project, str(body["name"]))
        elif event.action == "verdict":
            self._judged(project, str(body["artifact"]))

    def result(self, cursor: str) -> dg.SensorResult:
        """Return what the sensor answers."""
        additions = []
        for project, names in self.partitions.items():
            partitions = dg.DynamicPartitionsDefinition(name=f"{project}_runs")
            known = set(self.instance.get_dynamic_partitions(f"{project}_runs"))
            fresh = [name for name in dict.fromkeys(names) if name not in known]
            if fresh:
                additions.append(partitions.build_add_request(fresh))
        return dg.SensorResult(
            run_requests=list(self.requests.values()),
            asset_events=self.reports,
            dynamic_partitions_requests=additions,
            cursor=cursor,
        )

    def _finished(self, project: str, name: str) -> None:
        """A run that trained outside Dagster is shown here and judged."""
        view = self.registry.run(project, name)
        if view.artifact.record.code.get("dagster_run"):
            return
        self.partitions.setdefault(project, []).append(name)
        if not self._shown(project, name):
            for asset, metadata in (
                ("training_run", reports.of_run(view)),
                ("checkpoints", reports.of_checkpoints(view)),
            ):
                self.reports.append(
                    dg.AssetMaterialization([project, asset], partition=name, metadata=metadata)
                )
        policy = self.registry.policy(project).digest
        key = f"{view.artifact.id}/{policy}/{self.registry.baseline(project)}"
        self.requests[key] = dg.RunRequest(
            run_key=key, job_name=f"{_job(project)}_gate", partition_key=name
        )

    def _judged(self, project: str, artifact: str) -> None:
        """A model that may go to a stage by itself goes there."""
        model = self.registry.get(artifact)
        for stage, rule in self.registry.policy(project).promotion.items():
            if rule != "automatic":
                continue
            current = self.registry.stages(project).get(stage)
            newer = current is None or (current.version or 0) < (model.version or 0)
            try:
                reasons = self.registry.why_not(model.reference, stage)
            except ArtifactError:
                continue
            if reasons or not newer:
                continue
            key = f"{artifact}/{self.registry.policy(project).digest}/{stage}"
            self.requests[key] = dg.RunRequest(
                run_key=key,
                job_name=f"{_job(project)}_promote_{stage}",
                run_config={"ops": {f"{_job(project)}__{stage}": {"config": {"model": model.reference}}}},
            )

    def _shown(self, project: str, name: str) -> bool:
        return (
            self.instance.fetch_materializations(
                dg.AssetRecordsFilter(
                    asset_key=dg.AssetKey([project, "training_run"]), asset_partitions=[name]
                ),
                limit=1,
            ).records
            != []
        )


def _job(project: str) -> str:
    return project.replace("-", "_").replace(".", "_")
