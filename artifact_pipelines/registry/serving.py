"""What a deployment asks: what a stage serves since it last asked, and whether it could go back."""

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.gate import Serving as ServingGate
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.gates.case import Case
from artifact_pipelines.gates.guard import guarded
from artifact_pipelines.gates.sandbox import Sandbox
from artifact_pipelines.gates.serving import load_alone, serving_gate
from artifact_pipelines.registry.evaluating import Evaluating
from artifact_pipelines.registry.promoting import Move, Resolved, before
from artifact_pipelines.registry.reading import Artifact


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a rollback would do now, tried up to the move itself.

    Attributes:
        stage: The stage, as `project@stage`.
        model: What it would go back to, or nothing.
        size: The bytes that were brought back and verified.
        seconds: How long it took until the model had answered, or was loaded.
        said: How it answered, or what was loaded.
        reasons: What stands against it; nothing when it is ready.
    """

    stage: str
    model: Artifact | None
    size: int
    seconds: float
    said: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What is on record of the last rehearsal of a stage's rollback to a model.

    Attributes:
        at: When it was.
        seconds: How long it took.
        ready: Whether nothing stood against it.
    """

    at: str
    seconds: float
    ready: bool


class Serving(Evaluating):
    """The registry, as far as deployments follow it."""

    def poll(self, reference: str, known: int | None) -> Resolved | None:
        """Return what a stage serves, or nothing where its pointer is the one that is known.

        The number of the pointer's leaf (`Resolved.seq`) is the tag to ask with next time.
        """
        found = self.resolve(reference)
        return None if found.seq == known else found

    def rehearse_rollback(self, project: str, stage: str) -> Rehearsal:
        """Try a rollback up to the move, and write down what came of it.

        The model's bytes are brought back and verified, and a fresh process loads it: it
        answers as the serving gates of its own promotion ask, or, where there is none or its
        function is not installed here, every tensor is read.
        """
        began = time.monotonic()
        place = f"{project}@{stage}"
        history = self.history(project, stage)
        model = self.rollback_target(project, stage, history)
        if model is None:
            reasons: tuple[str, ...] = ("no whole model was promoted before the one in place",)
            return Rehearsal(place, None, 0, time.monotonic() - began, (), reasons)
        findings = self._answered(model, self._proof_policy(model, history))
        failed = tuple(why for one in findings if not one.passed for why in one.reasons)
        said = tuple(why for one in findings if one.passed for why in one.reasons)
        seconds = time.monotonic() - began
        size = 0 if failed else model.size
        body = {
            "project": project,
            "stage": stage,
            "ok": not failed,
            "tier": model.tier,
            "size": size,
            "seconds": round(seconds, 3),
            "problems": list(failed),
        }
        self.append("drill", model.id, body)
        return Rehearsal(place, model, size, seconds, said, failed)

    def rollback_target(
        self, project: str, stage: str, history: Sequence[Move] | None = None
    ) -> Artifact | None:
        """Return the model that a rollback of a stage would go back to."""
        moves = self.history(project, stage) if history is None else history
        current = self.stages(project).get(stage)
        return before(moves, None if current is None else current.id)

    def rehearsed(self, model: Artifact, stage: str) -> Rehearsed | None:
        """Return what is on record of the last rehearsal of a stage's rollback to a model."""
        leaf = tables.leaf
        statement = (
            sa.select(leaf.c.time, leaf.c.body)
            .where(leaf.c.subject == model.id, leaf.c.action == "drill", leaf.c.body.is_not(None))
            .order_by(leaf.c.seq.desc())
        )
        for row in self.catalog.read(lambda conn: list(conn.execute(statement))):
            body = digest.parse(bytes(row.body))
            if body.get("stage") == stage:
                return Rehearsed(row.time, float(body["seconds"]), bool(body["ok"]))
        return None

    def _proof_policy(self, model: Artifact, history: Sequence[Move]) -> Policy:
        """Return the policy under which a model was last promoted."""
        promotions = [one for one in history if one.model.id == model.id and one.policy]
        return Policy.decode(self.store.get_object(promotions[-1].policy))

    def _answered(self, model: Artifact, policy: Policy) -> list[Finding]:
        """Return whether a model that is brought back answers, or can be read."""
        gates = [gate for gate in policy.gates if isinstance(gate, ServingGate)]
        gates = [gate for gate in gates if _importable(gate.serving)]
        asks = any(not isinstance(gate.golden, dict) for gate in gates)
        try:
            evaluation = self._evaluation_set(model.project, policy) if asks else None
            with (
                Sandbox(policy.limits.seconds, policy.limits.memory) as sandbox,
                self._case(policy, model, None, evaluation, sandbox) as case,
            ):
                if case.damaged:
                    return [Finding("integrity", passed=False, reasons=case.damaged)]
                if not gates:
                    return [load_alone(case)]
                return [_asked(gate, case) for gate in gates]
        except ArtifactError as error:
            return [Finding("integrity", passed=False, reasons=(str(error),))]


def _asked(gate: ServingGate, case: Case) -> Finding:
    return guarded(gate.name, lambda: serving_gate(gate, case))


def _importable(function: str) -> bool:
    """Return whether a function's package is there; a model can be read without."""
    return importlib.util.find_spec(function.partition(":")[0].partition(".")[0]) is not None
