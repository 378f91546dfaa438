"""What Dagster does not show yet of what the registry holds.

Dagster's event log may be pruned, wiped or forged; nothing is decided by it. Each method
compares what it shows with the catalog and returns the difference alone, so that asking
again, after a crash or with a lost cursor, adds nothing.
"""

import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.components.project import PROJECT_TAG
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.evaluating import Attempt, Evaluation, measured
from artifact_pipelines.registry.reading import Artifact, RunView

AssetEvent = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation

_IDENTITY = "artifact_pipelines_instance"
_AS_REGISTERED = {"lifecycle": "as it was registered"}
_DATA_VERSION = "dagster/data_version"
_PARTITION = "dagster/partition"
_GOING_ON = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class Mirror:
    """A registry and the Dagster instance that shows it.

    Attributes:
        registry: What is true.
        instance: What is shown.
    """

    def __init__(self, registry: Registry, instance: dg.DagsterInstance) -> None:
        """Compare a registry with an instance."""
        self.registry = registry
        self.instance = instance
        self._going_on: Sequence[dg.DagsterRun] | None = None

    def busy(self, project: str, partition: str | None, stage: str | None = None) -> str | None:
        """Return the Dagster run that is at work on a partition or a stage, and reports on it."""
        if self._going_on is None:
            self._going_on = self.instance.get_runs(filters=dg.RunsFilter(statuses=_GOING_ON))
        for run in self._going_on:
            touched = run.tags.get(PROJECT_TAG) == project or any(
                key.path[0] == project for key in run.asset_selection or ()
            )
            staging = stage and dg.AssetKey([project, stage]) in (run.asset_selection or ())
            if touched and (staging or run.tags.get(_PARTITION) == partition):
                return run.run_id
        return None

    def is_retired(self, view: RunView) -> bool:
        """Return whether nothing of a run is kept, so that its partition would only mislead."""
        if view.state == "running" or not view.checkpoints:
            return False
        models = self.registry.models(view.artifact.project, view.artifact.name)
        return all(item.state == "forgotten" for item in (*view.checkpoints, *models))

    def run(self, project: str, name: str) -> list[AssetEvent]:
        """Return what is not shown of a training run, its checkpoints and their end."""
        view = self.registry.run(project, name)
        found: list[AssetEvent] = []
        if view.state == "finished":
            metadata = reports.of_run(view, self.registry.references_of(view.artifact))
            found += self._materialized(project, "training_run", name, view.artifact.id, metadata)
        if view.checkpoints and view.state != "running":
            version, metadata = reports.set_version(view.checkpoints), reports.of_checkpoints(view)
            found += self._materialized(project, "checkpoints", name, version, metadata)
        found += self._lifecycle(project, "checkpoints", name, view.checkpoints)
        found += self._lifecycle(project, "candidate", name, self.registry.models(project, name))
        ended = {"state": "failed", "reason": view.reason} if view.state == "failed" else {}
        found += self._lifecycle(project, "training_run", name, [view.artifact], ended)
        return found

    def candidate(self, project: str, name: str, policy: Policy) -> list[AssetEvent]:
        """Return what is not shown of what the gates said of a run."""
        key = dg.AssetKey([project, "candidate"])
        models = self.registry.models(project, name)
        judged = {
            model.id: verdicts
            for model in models
            if (verdicts := judgement(self.registry, model, policy)) is not None
        }
        if not judged or self._version(key, name) in {model.content for model in models}:
            return []
        attempts = tuple(
            Attempt(
                self.registry.checkpoint_of(model),
                model,
                tuple(judged[model.id]),
                measured(judged[model.id]),
            )
            for model in models
            if model.id in judged
        )
        passed = [tried.model for tried in attempts if tried.passed]
        evaluation = Evaluation(attempts, passed[0] if passed else None)
        shown = reports.shown_attempt(evaluation).model
        verdicts = judged[shown.id]
        return [
            _materialization(key, name, shown.content, reports.of_evaluation(evaluation)),
            *(
                dg.AssetCheckEvaluation(
                    asset_key=key,
                    check_name=verdict.gate,
                    passed=verdict.passed,
                    metadata=_values(
                        reports.of_verdict(verdict, shown, self.registry.evidence(verdict))
                    ),
                    description="; ".join(verdict.reasons),
                    partition=name,
                )
                for verdict in verdicts
            ),
        ]

    def dataset(self, project: str, name: str) -> list[AssetEvent]:
        """Return the newest version of a dataset, if another one is shown."""
        newest = self.registry.datasets(project, name)[-1]
        metadata = reports.of_dataset(newest)
        return self._materialized(project, name, None, newest.content, metadata)

    def stage(self, project: str, stage: str) -> list[AssetEvent]:
        """Return where a stage points, if an older move of it is shown."""
        move = self.registry.history(project, stage)[-1]
        key = dg.AssetKey([project, stage])
        shown = self._latest(key, None)
        leaf = None if shown is None else shown.metadata.get(reports.LEAF)
        if leaf is not None and int(str(leaf.value)) >= move.seq:
            return []
        checkpoint = self.registry.checkpoint_of(move.model)
        metadata = reports.of_pointer(move.model, f"{project}@{stage}", move.seq, checkpoint)
        metadata["moved_by"] = f"{move.action} by {move.actor}"
        return [_materialization(key, None, move.model.content, metadata)]

    def _materialized(
        self,
        project: str,
        asset: str,
        partition: str | None,
        version: str,
        metadata: Mapping[str, Any],
    ) -> list[AssetEvent]:
        key = dg.AssetKey([project, asset])
        if self._version(key, partition) == version:
            return []
        return [_materialization(key, partition, version, metadata)]

    def _lifecycle(
        self,
        project: str,
        asset: str,
        partition: str,
        artifacts: Sequence[Artifact],
        ended: Mapping[str, str] = MappingProxyType({}),
    ) -> list[AssetEvent]:
        """Return what has become of artifacts; the materialization stays what it was."""
        said = {**ended, **self.registry.lifecycle(artifacts)}
        key = dg.AssetKey([project, asset])
        if not said and not self._latest_observation(key, partition):
            return []
        return self._observed(project, asset, partition, said or _AS_REGISTERED)

    def _observed(
        self, project: str, asset: str, partition: str, said: Mapping[str, str]
    ) -> list[AssetEvent]:
        key = dg.AssetKey([project, asset])
        latest = self._latest_observation(key, partition)
        if latest is not None and dict(said) == {
            name: str(value.value) for name, value in latest.metadata.items()
        }:
            return []
        return [dg.AssetObservation(key, partition=partition, metadata=dict(said))]

    def _latest_observation(self, key: dg.AssetKey, partition: str) -> dg.AssetObservation | None:
        wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
        records = self.instance.fetch_observations(wanted, limit=1).records
        return records[0].asset_observation if records else None

    def _version(self, key: dg.AssetKey, partition: str | None) -> str | None:
        latest = self._latest(key, partition)
        return None if latest is None else (latest.tags or {}).get(_DATA_VERSION)

    def _latest(self, key: dg.AssetKey, partition: str | None) -> dg.AssetMaterialization | None:
        partitions = None if partition is None else [partition]
        wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=partitions)
        records = self.instance.fetch_materializations(wanted, limit=1).records
        return records[0].asset_materialization if records else None


def identity(instance: dg.DagsterInstance) -> str:
    """Return what tells an instance from others, kept in its own storage."""
    # Dagster has no name of its own for a storage; a set of partitions is as durable.
    known = instance.get_dynamic_partitions(_IDENTITY)
    if not known:
        instance.add_dynamic_partitions(_IDENTITY, [secrets.token_hex(16)])
        known = instance.get_dynamic_partitions(_IDENTITY)
    return min(known)


def judgement(registry: Registry, model: Artifact, policy: Policy) -> list[Verdict] | None:
    """Return what every gate of a policy said of a model, or None while one is missing."""
    said = {
        verdict.gate: verdict
        for verdict in registry.verdicts(model)
        if verdict.policy == policy.digest
    }
    required = policy.required()
    return [said[gate] for gate in required] if set(required) <= said.keys() else None


def settled(registry: Registry, project: str, run: str, policy: Policy) -> bool:
    """Return whether the gates have nothing more to say of a run under a policy."""
    judged = [
        verdicts
        for model in registry.models(project, run)
        if (verdicts := judgement(registry, model, policy)) is not None
    ]
    tries = policy.select.tries if policy.select else 1
    enough = min(tries, len(registry.checkpoints(project, run)))
    return len(judged) >= enough or any(all(one.passed for one in said) for said in judged)


def _materialization(
    key: dg.AssetKey, partition: str | None, version: str, metadata: Mapping[str, Any]
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        key, partition=partition, metadata=_values(metadata), tags={_DATA_VERSION: version}
    )


def _values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if value is not None}
