"""The one sensor of a code location: what happened in the registry reaches Dagster.

It reads the ledger by number, so that no event is missed or taken out of order. What an
event calls for stays open until the catalog says that it is done: a lost cursor, a deleted
run or a crash between two ticks repeats nothing and forgets nothing.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from artifact_pipelines.components.candidates import automatic_stages
from artifact_pipelines.components.project import TRAINING, op_name, run_tags, runs_of
from artifact_pipelines.components.stages import next_model, onward
from artifact_pipelines.defs.mirror import AssetEvent, Mirror, identity, judgement, settled
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.auditing import Event
from artifact_pipelines.registry.sweeping import Outline, PlannedRun
from artifact_pipelines.resources import RegistryResource

BATCH = 500  # leaves that one tick reads
AT_ONCE = 50  # pieces of work that one tick looks at; a tick has a minute
PLANNED = 20  # planned runs that wait in Dagster's queue at a time; the rest wait here
ATTEMPTS = 3  # Dagster runs for one piece of work, before a person has to look

_AFTERWARDS = {
    *("annotate", "archive", "forget", "heal", "hold_lift", "hold_place"),
    *("quarantine", "recall", "restore", "slim", "tag"),
}
"""The leaves by which something becomes of an artifact that was registered before."""

_RUN_KEY = "dagster/run_key"


@dataclass(frozen=True, slots=True, order=True)
class Work:
    """Something that an event calls for, open until the catalog says that it is done.

    Attributes:
        seq: The leaf of the event.
        what: `run`, `gate`, `model`, `dataset` or `stage`.
        project: The project.
        subject: The run, model id, dataset or stage.
    """

    seq: int
    what: str
    project: str
    subject: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a sensor has read, and what it has not finished.

    Attributes:
        seq: The last leaf that was read.
        open: What is still to be done.
    """

    seq: int
    open: tuple[Work, ...] = ()

    @property
    def frontier(self) -> int:
        """The last leaf up to which nothing is open."""
        return min((work.seq - 1 for work in self.open), default=self.seq)

    def encode(self) -> str:
        """Return the cursor as Dagster keeps it."""
        rows = [[work.seq, work.what, work.project, work.subject] for work in self.open]
        return json.dumps({"seq": self.seq, "open": rows})

    @classmethod
    def decode(cls, text: str | None) -> "Cursor | None":
        """Return the cursor in a text, or None where there is none that can be read."""
        try:
            found = json.loads(text or "")
            return cls(int(found["seq"]), tuple(Work(*row) for row in found["open"]))
        except (ValueError, KeyError, TypeError):
            return None


def event_sensor(
    name: str, policies: Mapping[str, Policy], outlines: Mapping[str, Outline], seconds: int
) -> dg.SensorDefinition:
    """Return the sensor of a code location.

    Args:
        name: The name of the sensor.
        policies: The policies of the location's projects, by project.
        outlines: What their runs may be asked for, by project.
        seconds: How often it looks, at most.
    """
    keys = [
        [project, asset]
        for project, policy in policies.items()
        for asset in (*TRAINING, *automatic_stages(policy))
    ]

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.assets(*keys),
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Follows the registry: begins planned runs, shows those that trained elsewhere, has "
            "finished runs judged, and sends models that pass every gate to the stages that take "
            "them by themselves."
        ),
    )
    def events(
        context: dg.SensorEvaluationContext, registry: RegistryResource
    ) -> dg.SensorResult | dg.SkipReason:
        with registry.opened() as opened:
            opened.note_outlines(outlines)
            return tick(opened, context.instance, name, policies, context.cursor, context.log.info)

    return events


def tick(
    registry: Registry,
    instance: dg.DagsterInstance,
    topic: str,
    policies: Mapping[str, Policy],
    cursor: str | None,
    note: Callable[[str], object] = str,
) -> dg.SensorResult | dg.SkipReason:
    """Return what the events since a cursor ask of Dagster.

    Args:
        registry: What is true.
        instance: What shows it.
        topic: The name of the sensor.
        policies: The policies of its projects, by project.
        cursor: What the last tick returned.
        note: Called with each thing that waits or was given up, and why.
    """
    storage = identity(instance)
    reported = registry.reported(storage, topic)
    before = Cursor.decode(cursor) or Cursor(-1 if reported is None else reported)
    if reported is None or before.frontier > reported:
        # Dagster keeps a cursor only when it has done what came with it.
        registry.mark_reported(storage, topic, before.frontier)
    found = registry.events(after=before.seq, limit=BATCH)
    planned = registry.planned(policies, PLANNED)
    if not found and not before.open and not planned:
        return dg.SkipReason(f"Nothing has happened since leaf {before.seq}.")
    # What is made from a recalled artifact may belong to other projects than itself.
    mine = [event for event in found if event.project in policies or event.action == "recall"]
    asked = _Asked(Mirror(registry, instance), policies, storage)
    asked.add_partitions(mine, planned)
    work = sorted({*before.open, *(one for event in mine for one in _called_for(registry, event))})
    still_open = (*(one for one in work[:AT_ONCE] if asked.take(one)), *work[AT_ONCE:])
    for run in planned:
        asked.begin(run)
    if planned and not asked.notes:
        asked.notes.append(f"{len(planned)} planned runs are on their way")
    after = Cursor(found[-1].seq if found else before.seq, still_open)
    for said in asked.notes:
        note(said)
    why = "; ".join(asked.notes) or "nothing in them calls for anything here"
    idle = not asked.requests and not asked.shown and not asked.partitions
    return dg.SensorResult(
        run_requests=list(asked.requests.values()),
        asset_events=asked.shown,
        dynamic_partitions_requests=asked.partitions,
        cursor=after.encode(),
        skip_reason=f"Read {len(found)} leaves up to {after.seq}: {why}." if idle else None,
    )


def _called_for(registry: Registry, event: Event) -> Iterable[Work]:
    """Return what an event calls for."""
    project, body = str(event.project), event.body or {}

    def work(what: str, subject: object, of: str = project) -> Work:
        return Work(event.seq, what, of, str(subject))

    match event.action:
        case "publish" if body.get("kind") == Kind.DATASET:
            return [work("dataset", body["name"])]
        case "run_finish":
            finished = body.get("outcome") == "finished"
            name = body.get("name")
            return [work("run", name), *([work("gate", name)] if finished else [])]
        case "verdict" if body.get("artifact"):
            return [work("model", body["artifact"])]
        case "promote" | "rollback" if body.get("stage"):
            return [work("stage", body["stage"])]
        case action if action in _AFTERWARDS:
            touched = [event.subject, *map(str, body.get("descendants", ()))]
            return [work("run", name, of) for of, name in _runs_of(registry, touched)]
    return []


def _runs_of(registry: Registry, artifacts: Iterable[str]) -> set[tuple[str, str]]:
    """Return the runs, with their projects, whose pages show one of some artifacts."""
    shown = set()
    for artifact in artifacts:
        try:
            found = registry.get(artifact)
        except ArtifactError:
            continue
        if found.kind is Kind.MODEL:
            found = registry.checkpoint_of(found)
        if found.kind in {Kind.CHECKPOINT, Kind.TRAINING_RUN}:
            shown.add((found.project, found.name))
    return shown


class _Asked:
    """What one tick asks of Dagster."""

    def __init__(self, mirror: Mirror, policies: Mapping[str, Policy], storage: str) -> None:
        self.mirror = mirror
        self.registry = mirror.registry
        self.policies = policies
        self.storage = storage
        self.partitions: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]
        self.partitions = []
        self.requests: dict[str, dg.RunRequest] = {}
        self.shown: list[AssetEvent] = []
        self.notes: list[str] = []
        self._done: set[tuple[str, str, str]] = set()

    def add_partitions(self, events: Iterable[Event], planned: Iterable[PlannedRun]) -> None:
        """Ask for a partition of each new training run."""
        fresh: dict[str, list[str]] = {}
        for run in planned:
            fresh.setdefault(run.project, []).append(run.name)
        for event in events:
            body = event.body or {}
            if event.action == "publish" and body.get("kind") == Kind.TRAINING_RUN:
                fresh.setdefault(str(event.project), []).append(str(body["name"]))
        for project, names in fresh.items():
            partitions = runs_of(project)
            known = set(self.mirror.instance.get_dynamic_partitions(str(partitions.name)))
            missing = [
                name
                for name in dict.fromkeys(names)
                if name not in known and not self._is_retired(project, name)
            ]
            if missing:
                self.partitions.append(partitions.build_add_request(missing))

    def _is_retired(self, project: str, name: str) -> bool:
        try:
            return self.mirror.is_retired(self.registry.run(project, name))
        except ArtifactError:
            return False  # it is only planned

    def begin(self, run: PlannedRun) -> None:
        """Ask for a planned run to be trained; the catalog forgets the plan when it begins."""
        try:
            if self.mirror.busy(run.project, run.name) is not None:
                return
            config = {"params": run.params, "inputs": run.inputs, "resume_from": run.resume_from}
            stages, staged = onward(run.project, self.policies[run.project])
            open_ = self._request(
                f"plan/{run.project}/{run.name}/{run.seq}",
                [dg.AssetKey([run.project, asset]) for asset in (*TRAINING, *stages)],
                kind="training",
                partition_key=run.name,
                run_config={"ops": staged | {op_name(run.project, "train"): {"config": config}}},
            )
            if not open_:
                self.registry.withdraw_run(run.project, run.name, self.notes[-1])
        except (ArtifactError, OSError) as error:
            self.notes.append(f"{run.project}: {error}")

    def take(self, work: Work) -> bool:
        """Take up a piece of work, and return whether it stays open."""
        if work.project not in self.policies:
            return False
        same = (work.what, work.project, work.subject)
        if same in self._done:
            return False
        self._done.add(same)
        handlers: Mapping[str, Callable[[Work], bool]] = {
            "run": self._run,
            "gate": self._gate,
            "model": self._model,
            "dataset": self._dataset,
            "stage": self._stage,
        }
        try:
            return handlers[work.what](work)
        except (ArtifactError, OSError) as error:
            # One project's trouble must not keep the others waiting.
            self.notes.append(f"{work.project}: {error}")
            return True

    def _run(self, work: Work) -> bool:
        if self._is_busy(work, work.subject):
            return True
        self.shown += self.mirror.run(work.project, work.subject)
        if self.mirror.is_retired(self.registry.run(work.project, work.subject)):
            self._remove_partition(work.project, work.subject)
        return False

    def _remove_partition(self, project: str, name: str) -> None:
        """Ask for a run of which nothing is kept to leave the list; its lineage still answers."""
        partitions = runs_of(project)
        if name in self.mirror.instance.get_dynamic_partitions(str(partitions.name)):
            self.partitions.append(partitions.build_delete_request([name]))

    def _gate(self, work: Work) -> bool:
        policy = self._policy(work.project)
        view = self.registry.run(work.project, work.subject)
        if not view.checkpoints or view.state != "finished":
            return False
        if self._is_busy(work, work.subject):
            return True
        if settled(self.registry, work.project, work.subject, policy):
            self.shown += self.mirror.candidate(work.project, work.subject, policy)
            return False
        stages, staged = onward(work.project, policy)
        return self._request(
            f"{view.artifact.id}/{policy.digest}",
            [dg.AssetKey([work.project, asset]) for asset in (TRAINING[-1], *stages)],
            partition_key=work.subject,
            run_config={"ops": staged},
        )

    def _model(self, work: Work) -> bool:
        policy = self._policy(work.project)
        model = self.registry.get(work.subject)
        said = judgement(self.registry, model, policy)
        if said is None or not all(verdict.passed for verdict in said):
            return False
        still_open = False
        for stage in automatic_stages(policy):
            if next_model(self.registry, work.project, stage) != model:
                continue
            if self._is_busy(work, None, stage):
                still_open = True
                continue
            key = dg.AssetKey([work.project, stage])
            subject = f"{model.id}/{policy.digest}/{stage}"
            config = {"ops": {op_name(work.project, stage): {"config": {"model": model.reference}}}}
            still_open |= self._request(subject, [key], run_config=config)
        return still_open

    def _dataset(self, work: Work) -> bool:
        if self._is_busy(work, None):
            return True
        self.shown += self.mirror.dataset(work.project, work.subject)
        return False

    def _stage(self, work: Work) -> bool:
        if self._is_busy(work, None, work.subject):
            return True
        self.shown += self.mirror.stage(work.project, work.subject)
        return False

    def _policy(self, project: str) -> Policy:
        """Return a project's policy, in force."""
        policy = self.policies[project]
        self.registry.set_policy(project, policy)
        return policy

    def _is_busy(self, work: Work, partition: str | None, stage: str | None = None) -> bool:
        run = self.mirror.busy(work.project, partition, stage)
        if run is not None:
            self.notes.append(f"{work.project}/{work.subject} waits for the Dagster run {run[:8]}")
        return run is not None

    def _request(
        self, subject: str, assets: list[dg.AssetKey], kind: str = "control", **asked: Any
    ) -> bool:
        """Ask for assets to be materialized, and return whether their work stays open.

        Dagster never repeats a run key, whatever became of its run, so the catalog counts.
        """
        counted, what = f"{self.storage}/{subject}", assets[0].to_user_string()
        if asked.get("partition_key"):
            what += f" for {asked['partition_key']}"
        attempt = self.registry.attempts(counted)
        ended = self._ended(f"{subject}/{attempt}")
        if ended is dg.DagsterRunStatus.CANCELED:
            self.notes.append(f"{what} was cancelled, so it is not asked for again")
            return False
        if ended is not None:
            if attempt >= ATTEMPTS:
                self.notes.append(f"{what} has failed {attempt} times, so a person has to look")
                return False
            attempt = self.registry.count_attempt(counted, attempt)
        key = f"{subject}/{attempt}"
        self.requests[key] = dg.RunRequest(
            run_key=key,
            asset_selection=assets,
            tags=run_tags(assets[0].path[0], kind),
            **asked,
        )
        return True

    def _ended(self, key: str) -> dg.DagsterRunStatus | None:
        """Return how the run of a key ended, if there was one and it has."""
        wanted = dg.RunsFilter(tags={_RUN_KEY: key})
        runs = self.mirror.instance.get_runs(filters=wanted, limit=1)
        return runs[0].status if runs and runs[0].is_finished else None
