"""Gates run here, whoever asks: a run's best checkpoints become models with verdicts."""

import importlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from artifact_pipelines.catalog import ledger
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.gate import Formats, MetricBound, NoWorse
from artifact_pipelines.domain.policy import Contract, Policy
from artifact_pipelines.domain.record import Input
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.domain.verdict import Finding, Verdict
from artifact_pipelines.errors import ConfigurationError, PolicyError, TrainerError
from artifact_pipelines.gates import data, integrity, metrics, safety
from artifact_pipelines.gates.guard import gate_code_digest, guarded
from artifact_pipelines.registry.keys import SERVICE
from artifact_pipelines.registry.promoting import Promoting
from artifact_pipelines.registry.publishing import Publishing
from artifact_pipelines.registry.reading import Artifact

Evaluate = Callable[[Path, Any], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One checkpoint that was put forward.

    Attributes:
        checkpoint: The checkpoint.
        model: The model made from it.
        verdicts: What the gates said.
        metrics: What it measured on the evaluation data.
    """

    checkpoint: Artifact
    model: Artifact
    verdicts: tuple[Verdict, ...]
    metrics: Mapping[str, float]

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
    """

    attempts: tuple[Attempt, ...]
    chosen: Artifact | None


class Evaluating(Publishing, Promoting):
    """The registry, as far as models are judged."""

    def evaluate(self, project: str, run: str) -> Evaluation:
        """Judge a run's best checkpoints, the next best after each failure, as the policy says.

        A model that was judged under this policy and baseline is not judged again.

        Raises:
            TrainerError: The run has no checkpoint.
        """
        policy = self.policy(project)
        view = self.run(project, run)
        if not view.checkpoints:
            raise TrainerError(f"the run {view.artifact.reference} has no checkpoint to judge.")
        tries = policy.select.tries if policy.select else 1
        attempts: list[Attempt] = []
        for checkpoint in _ranked(view.checkpoints, policy)[:tries]:
            attempts.append(self._attempt(policy, checkpoint))
            if attempts[-1].passed:
                return Evaluation(tuple(attempts), attempts[-1].model)
        return Evaluation(tuple(attempts), None)

    def _attempt(self, policy: Policy, checkpoint: Artifact) -> Attempt:
        project = checkpoint.project
        evaluation = self._evaluation_set(project, policy)
        inputs = (
            [] if evaluation is None else [Input(f"evaluation:{evaluation.name}", evaluation.id)]
        )
        model = self.publish_model(checkpoint, inputs)
        baseline = self.baseline(project)
        known = {
            verdict.gate: verdict
            for verdict in self.verdicts(model)
            if verdict.policy == policy.digest and verdict.baseline == baseline
        }
        if set(policy.required()) <= set(known):
            verdicts = tuple(known[gate] for gate in policy.required())
            return Attempt(checkpoint, model, verdicts, _measured(verdicts))
        findings, code = self._judge(policy, model, baseline, evaluation)
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
        return Attempt(checkpoint, model, verdicts, _measured(verdicts))

    def _judge(
        self, policy: Policy, model: Artifact, baseline: str | None, evaluation: Artifact | None
    ) -> tuple[list[Finding], str]:
        """Return what every gate finds, and the digest of the code that looked."""
        function = None if policy.evaluate is None else load_function(policy.evaluate)
        with tempfile.TemporaryDirectory(prefix="gates-") as scratch:
            folder = Path(scratch)
            checked = self.verify(model.id)
            findings = [guarded("integrity", lambda: integrity.integrity_finding(checked.damaged))]
            if checked.damaged:
                refused = ("the model's bytes are damaged, so this gate could not look",)
                others = [gate for gate in policy.required() if gate != "integrity"]
                findings += [Finding(gate, passed=False, reasons=refused) for gate in others]
                return findings, gate_code_digest()
            place = self.fetch(model.id, folder / "model")
            findings.append(
                guarded("safety", lambda: safety.safety_finding(place, policy.formats()))
            )
            frame = (
                None
                if evaluation is None
                else data.read_dataset(self.fetch(evaluation.id, folder / "evaluation"))
            )
            if policy.contracts:
                contracts = {
                    name: (self._contract_frame(name, evaluation, frame, folder, model), contract)
                    for name, contract in policy.contracts.items()
                }
                findings.append(guarded("data_contract", lambda: _contract_finding(contracts)))
            findings += self._metric_findings(policy, function, place, frame, baseline, folder)
        return findings, gate_code_digest(*([function] if function else []))

    def _metric_findings(
        self,
        policy: Policy,
        function: Evaluate | None,
        place: Path,
        frame: object,
        baseline: str | None,
        folder: Path,
    ) -> list[Finding]:
        gates = [gate for gate in policy.gates if not isinstance(gate, Formats)]
        if not gates or function is None:
            return []
        try:
            mine = dict(function(place, frame))
            theirs: dict[str, float] | None = None
            if baseline is not None and any(isinstance(gate, NoWorse) for gate in gates):
                theirs = dict(function(self.fetch(baseline, folder / "baseline"), frame))
        except Exception as error:  # noqa: BLE001  a gate that raises is a failed verdict
            reason = f"the evaluation raised {type(error).__name__}: {error}"
            return [Finding(gate.name, passed=False, reasons=(reason,)) for gate in gates]
        return [guarded(gate.name, partial(_metric_finding, gate, mine, theirs)) for gate in gates]

    def _contract_frame(
        self,
        name: str,
        evaluation: Artifact | None,
        frame: object,
        folder: Path,
        model: Artifact,
    ) -> object:
        """Return the dataset of a name that this model was judged on or trained on."""
        if evaluation is not None and name == evaluation.name:
            return frame
        for edge in self.lineage(model.id):
            if edge.role == f"dataset:{name}":
                return data.read_dataset(self.fetch(edge.parent.id, folder / f"input-{name}"))
        return None

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


def load_function(path: str) -> Any:  # noqa: ANN401 (whatever a project's module holds)
    """Return the object that `module:name` names.

    Raises:
        ConfigurationError: There is no such module or name.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{path!r} cannot be loaded ({error}); write it as module:function."
        ) from error


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


def _metric_finding(
    gate: MetricBound | NoWorse, mine: Mapping[str, float], theirs: Mapping[str, float] | None
) -> Finding:
    if isinstance(gate, MetricBound):
        return metrics.bound_finding(gate, mine)
    return metrics.no_worse_finding(gate, mine, theirs)


def _contract_finding(contracts: Mapping[str, tuple[Any, Contract]]) -> Finding:
    findings = []
    for name, (frame, contract) in sorted(contracts.items()):
        if frame is None:
            findings.append(
                Finding("data_contract", passed=False, reasons=(f"{name} is not there",))
            )
            continue
        findings += data.contract_findings(name, frame, contract, load_function)
    return Finding(
        "data_contract",
        all(finding.passed for finding in findings),
        tuple(reason for finding in findings for reason in finding.reasons),
        {key: value for finding in findings for key, value in finding.values.items()},
        {finding.gate: finding.evidence for finding in findings if finding.evidence} or None,
    )


def _measured(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return what was measured, from the figures of the verdicts."""
    found: dict[str, float] = {}
    for verdict in verdicts:
        for name, value in verdict.values.items():
            if isinstance(value, int | float) and not name.startswith(("limit", "baseline")):
                found[name] = float(value)
    return found


def _record_verdicts(
    tx: Transaction, model: str, signed: Sequence[SignedStatement], actor: str
) -> None:
    for statement in signed:
        ledger.append(tx, action="verdict", subject=model, body=statement.as_body(), actor=actor)
