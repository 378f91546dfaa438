"""Gates run here, whoever asks: a run's best checkpoints become models with verdicts."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from artifact_pipelines.catalog import ledger
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest, lineage
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Input
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.domain.verdict import Finding, Verdict
from artifact_pipelines.errors import GoneError, PolicyError, TrainerError
from artifact_pipelines.gates import judging
from artifact_pipelines.gates.case import Case
from artifact_pipelines.gates.sandbox import Sandbox
from artifact_pipelines.registry.keys import SERVICE
from artifact_pipelines.registry.observing import observed
from artifact_pipelines.registry.promoting import Promoting
from artifact_pipelines.registry.publishing import Publishing
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.tracing import Tracing

_NO_METRICS = ("baseline_", "difference_", "limit_", "lineage_", "schema_", "serving_", "slice_")
"""What the figures of a verdict begin with that are no metrics of the model."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One checkpoint that was put forward.

    Attributes:
        checkpoint: The checkpoint.
        model: The model made from it.
        verdicts: What the gates said.
        metrics: What it measured on the evaluation data.
        succeeds: The former model of the same checkpoint, where a new one was made now.
    """

    checkpoint: Artifact
    model: Artifact
    verdicts: tuple[Verdict, ...]
    metrics: Mapping[str, float]
    succeeds: Artifact | None = None

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of a run's gates.

    Attributes:
        attempts: The checkpoints that were tried, best first.
        chosen: The first model that passed every gate, or nothing.
        skipped: The checkpoints that came before the last tried one and were forgotten.
    """

    attempts: tuple[Attempt, ...]
    chosen: Artifact | None
    skipped: tuple[Artifact, ...] = ()


class Evaluating(Publishing, Promoting, Tracing):
    """The registry, as far as models are judged."""

    def evaluate(self, project: str, run: str) -> Evaluation:
        """Judge a run's best checkpoints, the next best after each failure, as the policy says.

        A model that was judged under this policy and baseline is not judged again.

        Raises:
            TrainerError: The run has no checkpoint.
            GoneError: All of its checkpoints were forgotten.
        """
        policy = self.policy(project)
        view = self.run(project, run)
        if not view.checkpoints:
            raise TrainerError(f"the run {view.artifact.reference} has no checkpoint to judge.")
        checkpoints = self._judgeable(project, view.checkpoints)
        if not checkpoints:
            raise GoneError(
                f"the checkpoints of {view.artifact.reference} were forgotten, and so were the "
                "models made from them: there is nothing left to judge."
            )
        left = policy.select.tries if policy.select else 1
        attempts: list[Attempt] = []
        skipped: list[Artifact] = []
        there = {checkpoint.id for checkpoint in checkpoints}
        with Sandbox(policy.limits.seconds, policy.limits.memory) as sandbox:
            for checkpoint in _ranked(view.checkpoints, policy):
                if not left or (attempts and attempts[-1].passed):
                    break
                if checkpoint.id not in there:
                    skipped.append(checkpoint)
                    continue
                attempts.append(self._attempt(policy, checkpoint, sandbox))
                left -= 1
        chosen = attempts[-1].model if attempts[-1].passed else None
        return Evaluation(tuple(attempts), chosen, tuple(skipped))

    def evaluate_model(self, reference: str) -> Evaluation:
        """Judge one model, whichever is its run's best, on the newest evaluation data.

        Raises:
            UnknownArtifactError: The reference names no model.
            GoneError: It was forgotten.
        """
        model = self._model(reference)
        if model.state != "live":
            raise GoneError(f"{model.reference} was forgotten: there is nothing left to judge.")
        policy = self.policy(model.project)
        checkpoint = self.get(_checkpoint_of(model))
        with Sandbox(policy.limits.seconds, policy.limits.memory) as sandbox:
            evaluation = self._evaluation_set(model.project, policy)
            tried = self._judged(policy, checkpoint, model, evaluation, sandbox)
        return Evaluation((tried,), model if tried.passed else None)

    def _judgeable(self, project: str, checkpoints: Sequence[Artifact]) -> list[Artifact]:
        """Return the checkpoints whose bytes are there, a model's where their own are not."""
        if all(one.state == "live" for one in checkpoints):
            return list(checkpoints)
        kept = {_checkpoint_of(one) for one in self.models(project) if one.state == "live"}
        return [one for one in checkpoints if one.state == "live" or one.id in kept]

    def _attempt(self, policy: Policy, checkpoint: Artifact, sandbox: Sandbox) -> Attempt:
        project = checkpoint.project
        evaluation = self._evaluation_set(project, policy)
        inputs = (
            [] if evaluation is None else [Input(f"evaluation:{evaluation.name}", evaluation.id)]
        )
        made = self.models(project, checkpoint.name)
        former = [one for one in made if _checkpoint_of(one) == checkpoint.id]
        model = self.publish_model(checkpoint, inputs)
        tried = self._judged(policy, checkpoint, model, evaluation, sandbox)
        if not former or model.id in {one.id for one in former}:
            return tried
        return replace(tried, succeeds=former[-1])

    def _judged(
        self,
        policy: Policy,
        checkpoint: Artifact,
        model: Artifact,
        evaluation: Artifact | None,
        sandbox: Sandbox,
    ) -> Attempt:
        project = model.project
        baseline = self.baseline(project)
        known = {
            verdict.gate: verdict
            for verdict in self.verdicts(model)
            if verdict.policy == policy.digest and verdict.baseline == baseline
        }
        if set(policy.required()) <= set(known):
            verdicts = tuple(known[gate] for gate in policy.required())
            return Attempt(checkpoint, model, verdicts, measured(verdicts))
        with observed("gate", project=project, model=model.reference):
            findings, code = self._judge(policy, model, baseline, evaluation, sandbox)
        verdicts = tuple(
            Verdict(
                project=project,
                artifact=model.id,
                gate=finding.gate,
                passed=finding.passed,
                policy=policy.digest,
                baseline=baseline,
                evaluation=None if evaluation is None else evaluation.id,
                gate_code=code,
                reasons=finding.reasons,
                values=finding.values,
                evidence=(
                    None
                    if finding.evidence is None
                    else self.store.put_object(digest.canonical(finding.evidence))
                ),
            )
            for finding in findings
        )
        signer, origin = self.keys.load(SERVICE), self.origin
        signed = [signer.sign_statement(verdict.payload(origin)) for verdict in verdicts]
        self.catalog.write(_record_verdicts, model.id, signed, self.actor)
        self.export_leaves()
        return Attempt(checkpoint, model, verdicts, measured(verdicts))

    def _judge(
        self,
        policy: Policy,
        model: Artifact,
        baseline: str | None,
        evaluation: Artifact | None,
        sandbox: Sandbox,
    ) -> tuple[list[Finding], str]:
        """Return what every gate finds, and the digest of the code that looked."""
        code = judging.judging_code(policy, sandbox)
        with self._case(policy, model, baseline, evaluation, sandbox) as case:
            return judging.judge(case), code

    @contextmanager
    def _case(
        self,
        policy: Policy,
        model: Artifact,
        baseline: str | None,
        evaluation: Artifact | None,
        sandbox: Sandbox,
    ) -> Iterator[Case]:
        """Yield what gates may look at, in a folder that goes when they are done."""
        with tempfile.TemporaryDirectory(prefix="gates-") as scratch:
            folder = Path(scratch)
            damaged = self.verify(model.id).damaged

            @cache
            def fetched(artifact: str, name: str) -> Path:
                return self.fetch(artifact, folder / name)

            @cache
            def dataset(name: str) -> Path | None:
                """Return the dataset of a name that this model was judged on or trained on."""
                if evaluation is not None and name == evaluation.name:
                    return fetched(evaluation.id, "evaluation")
                for edge in self.lineage(model.id):
                    if edge.role == f"dataset:{name}":
                        return fetched(edge.parent.id, f"input-{name}")
                return None

            yield Case(
                policy=policy,
                model=None if damaged else fetched(model.id, "model"),
                damaged=damaged,
                digests={entry.path: entry.sha256 for entry in self.files(model.id)},
                evaluation=None if evaluation is None else fetched(evaluation.id, "evaluation"),
                baseline=lambda: None if baseline is None else fetched(baseline, "baseline"),
                dataset=dataset,
                ancestry=lambda: self.ancestry(model.id),
                layout=lambda name: self.layout(self.schema(model.project, name)),
                sandbox=sandbox,
                seen=self._seen(policy, model, evaluation),
            )

    def _seen(
        self, policy: Policy, model: Artifact, evaluation: Artifact | None
    ) -> tuple[str, ...]:
        """Return the datasets that a model was trained on although they are evaluation data."""
        if evaluation is None or policy.trains_on_evaluation:
            return ()
        return tuple(lineage.datasets_like(self.ancestry(model.id), evaluation.content))

    def _evaluation_set(self, project: str, policy: Policy) -> Artifact | None:
        if policy.evaluation is None:
            return None
        found = self.datasets(project, policy.evaluation)
        if not found:
            raise PolicyError(
                f"the evaluation dataset {project}/{policy.evaluation} has no version; "
                "materialize it first."
            )
        return found[-1]


def _checkpoint_of(model: Artifact) -> str:
    """Return the id of the checkpoint that a model was made from."""
    return next(one.id for one in model.record.inputs if one.role == "checkpoint")


def _ranked(checkpoints: Sequence[Artifact], policy: Policy) -> list[Artifact]:
    """Return checkpoints best first; those without the metric come last, newest first."""
    select = policy.select
    if select is None:
        return list(reversed(checkpoints))
    sign = -1.0 if select.mode == "max" else 1.0

    def order(checkpoint: Artifact) -> tuple[float, int]:
        value = checkpoint.metrics.get(select.metric, math.nan)
        return (sign * value if math.isfinite(value) else math.inf, -(checkpoint.step or 0))

    return sorted(checkpoints, key=order)


def measured(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return what was measured, from the figures of the verdicts."""
    return {
        name: float(value)
        for verdict in verdicts
        for name, value in verdict.values.items()
        if isinstance(value, int | float) and not name.startswith(_NO_METRICS)
    }


def _record_verdicts(
    tx: Transaction, model: str, signed: Sequence[SignedStatement], actor: str
) -> None:
    entries = [("verdict", model, statement.as_body()) for statement in signed]
    ledger.append_many(tx, entries, actor)
