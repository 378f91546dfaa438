"""Policies, requests, approvals, pointer moves and what a stage serves."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.gate import Schema
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.policy import PRODUCTION, Approvals, Policy
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.schema import Layout
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.domain.stage import decide_rollback, gathered
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.errors import (
    KeyMissingError,
    LedgerError,
    PolicyError,
    PromotionRefusedError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import deciding, pointers, resolving, steps
from artifact_pipelines.registry.attesting import Provenance
from artifact_pipelines.registry.describing import Describing
from artifact_pipelines.registry.entrusting import Entrusting
from artifact_pipelines.registry.keys import SERVICE
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.signing_off import Proof
from artifact_pipelines.registry.steps import Steps

_LEAF: Final = "urn:artifact-pipelines:leaf:"
_NO_POLICY: Final = "the project {!r} has no policy; materialize one of its assets first."


@dataclass(frozen=True, slots=True)
class Promotion:
    """A pointer that moved, or was in place already.

    Attributes:
        stage: The stage, as `project@stage`.
        model: What it points at.
        previous: What it pointed at before, or nothing.
        seq: The leaf that moved it.
        seconds: How long it took, verification and signature included.
        changed: Whether it moved now.
    """

    stage: str
    model: Artifact
    previous: Artifact | None
    seq: int
    seconds: float
    changed: bool


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a stage serves, with its proof.

    Attributes:
        model: The model.
        seq: The pointer leaf; it changes when the pointer moves.
        proof: That the pointer leaf is in the signed log.
        pending: Whether a later move waits for a signed head.
    """

    model: Artifact
    seq: int
    proof: Proof
    pending: bool


@dataclass(frozen=True, slots=True)
class PolicySet:
    """A policy that came into force.

    Attributes:
        digest: The policy.
        seq: The leaf that set it.
        time: When.
    """

    digest: str
    seq: int
    time: str


@dataclass(frozen=True, slots=True)
class Request:
    """A wish to promote a model.

    Attributes:
        seq: Its leaf.
        stage: The stage.
        model: The model.
        reason: Why.
        state: `open` or `done`.
        approved_by: The names of the keys that approved it.
    """

    seq: int
    stage: str
    model: Artifact
    reason: str
    state: str
    approved_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a pointer.

    Attributes:
        seq: Its leaf.
        time: When.
        action: `promote` or `rollback`.
        model: What the stage pointed at from then on.
        actor: Who moved it.
        policy: The digest of the policy in force.
    """

    seq: int
    time: str
    action: str
    model: Artifact
    actor: str
    policy: str


class Promoting(Entrusting, Describing):
    """The registry, as far as models move through stages."""

    # Policies

    def set_policy(self, project: str, policy: Policy) -> str:
        """Put a policy in force, signed by the owner, and return its digest.

        The layouts that its schema gates bring are registered first.

        Raises:
            PolicyError: A layout is not the registered one of its version, or skips a version.
            SchemaRefusedError: A layout would leave consumers unable to read.
        """
        naming.check_own_project(project)
        if self.policy_digest(project) == policy.digest:
            return policy.digest
        for gate in policy.gates:
            if isinstance(gate, Schema) and isinstance(gate.layout, dict):
                self._register_layout(project, gate.schema_, Layout.of(gate.layout))
        self.store.put_object(policy.encode())
        statement = self.owner_key().sign_statement(
            {
                "type": "policy",
                "origin": self.origin,
                "project": project,
                "policy": policy.digest,
                "gates": list(policy.required()),
                # A statement counts once; going back to an earlier policy is a new one.
                "nonce": secrets.token_hex(16),
            }
        )
        self.append("policy_set", project, statement.as_body())
        return policy.digest

    def _register_layout(self, project: str, reference: str, layout: Layout) -> None:
        name, _, version = reference.partition("@")
        known = self.schemas(project, name)
        if int(version) > len(known) + 1:
            raise PolicyError(
                f"the layout of {reference} cannot be registered: {project} has "
                f"{len(known)} versions of {name}; the next is {name}@{len(known) + 1}."
            )
        if int(version) == len(known) + 1:
            if self.register_schema(project, name, layout).version != int(version):
                raise PolicyError(
                    f"the layout of {reference} is that of {known[-1].reference}; name that one."
                )
        elif known[int(version) - 1].digest != layout.digest:
            raise PolicyError(
                f"the layout of {reference} is not the registered one, and a version never "
                f"changes: write {name}@{len(known) + 1}, or bring the layout back."
            )

    def policy(self, project: str) -> Policy:
        """Return the policy in force.

        Raises:
            PolicyError: The project has none.
        """
        found = self.policy_digest(project)
        if found is None:
            raise PolicyError(_NO_POLICY.format(project))
        return Policy.decode(self.store.get_object(found))

    def policy_digest(self, project: str) -> str | None:
        """Return the digest of the policy in force, or nothing where there is none."""
        table = tables.policy
        statement = sa.select(table.c.digest).where(table.c.project == project)
        return self.catalog.read(lambda conn: conn.execute(statement).scalar())

    def policy_set(self, project: str) -> PolicySet:
        """Return which policy is in force, and since when.

        Raises:
            PolicyError: The project has none.
        """
        table, leaf = tables.policy, tables.leaf
        statement = (
            sa.select(table.c.digest, table.c.seq, leaf.c.time)
            .join(leaf, leaf.c.seq == table.c.seq)
            .where(table.c.project == project)
        )
        row = self.catalog.read(lambda conn: conn.execute(statement).first())
        if row is None:
            raise PolicyError(_NO_POLICY.format(project))
        return PolicySet(row.digest, row.seq, row.time)

    def check_known_stage(self, project: str, stage: str) -> None:
        """Refuse a stage that the project's policy lacks and that nothing was ever moved to.

        Raises:
            UnknownArtifactError: There is no such project, or no such stage of it.
        """
        declared = self.policy_digest(project) is not None
        if not declared and project not in (known := self.projects()):
            raise UnknownArtifactError(
                f"there is no project {project!r}; there is {', '.join(known) or 'none yet'}."
            )
        stages = {*self.policy(project).promotion} if declared else set()
        stages |= self.catalog.read(pointers.stages, project)
        if stage not in stages:
            raise UnknownArtifactError(
                f"there is no stage {stage!r} of {project}; it has "
                f"{', '.join(sorted(stages)) or 'none yet'}."
            )

    # Requests and approvals

    def request(self, reference: str, stage: str, reason: str = "") -> Request:
        """Ask for a model to be promoted; the same wish twice is one."""
        model = self._model(reference)
        naming.check_stage(stage)
        policy = self.policy(model.project)
        if stage not in policy.promotion:
            raise PromotionRefusedError(
                f"{model.reference} cannot be requested for {stage!r}",
                [f"the policy has the stages {', '.join(sorted(policy.promotion))}"],
            )
        if model.state != "live" or model.recalled:
            raise PromotionRefusedError(
                f"{model.reference} cannot be requested for {stage!r}",
                ["it was forgotten" if model.state != "live" else "it was recalled"],
            )
        current, pointer = self._pointer(model.project, stage)
        if current == model.id:
            raise PromotionRefusedError(
                f"{model.reference} cannot be requested for {stage!r}", ["it is there already"]
            )
        for there in self.requests(model.project, stage):
            if there.state == "open" and there.model.id == model.id:
                return there
        leaf = self.append(
            "request",
            f"{model.project}/{stage}",
            {
                "project": model.project,
                "stage": stage,
                "artifact": model.id,
                "policy": policy.digest,
                "pointer": pointer,
                "author": self.actor,
                "reason": reason,
            },
        )
        return Request(leaf.seq, stage, model, reason, "open", ())

    def requests(self, project: str, stage: str) -> list[Request]:
        """Return the requests for a stage, oldest first."""
        table = tables.request
        statement = sa.select(table).where(table.c.project == project, table.c.stage == stage)
        rows = self.catalog.read(lambda conn: list(conn.execute(statement.order_by(table.c.seq))))
        models = self.by_ids([row.artifact for row in rows])
        approvals = self.catalog.read(deciding.approvals_of, list(models))
        return [
            Request(
                row.seq,
                stage,
                models[row.artifact],
                row.reason,
                row.state,
                tuple(
                    fact.approver
                    for fact in approvals
                    if fact.artifact == row.artifact and fact.stage == stage and not fact.used
                ),
            )
            for row in rows
        ]

    def approve(self, reference: str, stage: str, key: str) -> None:
        """Approve a requested promotion with the key of a name.

        Raises:
            PromotionRefusedError: Nobody has asked for this promotion.
        """
        model = self._model(reference)
        wishes = [wish for wish in self.requests(model.project, stage) if wish.state == "open"]
        if model.id not in {wish.model.id for wish in wishes}:
            ask = f"run: artifact-pipelines model request {model.reference} --stage {stage}"
            raise PromotionRefusedError(
                f"{model.reference} cannot be approved for {stage!r}",
                [f"nobody has requested it; {ask}"],
            )
        signer = self.registered_signer(key, "approver")
        statement = signer.sign_statement(
            {
                "type": "approval",
                "origin": self.origin,
                "project": model.project,
                "stage": stage,
                "artifact": model.id,
                "policy": self.policy(model.project).digest,
                "pointer": self._pointer(model.project, stage)[1],
                "approver": key,
            }
        )
        self.append("approval", f"{model.project}/{stage}", statement.as_body())

    # Pointer moves

    def promote(self, reference: str, stage: str) -> Promotion:
        """Point a stage at a model that has every proof.

        Raises:
            PromotionRefusedError: A rule stands against it; every reason is given.
        """
        return steps.run(self.promotion(self._model(reference), stage))

    def promotion(self, model: Artifact, stage: str) -> Steps[Promotion]:
        """Promote a model, step by step."""
        naming.check_stage(stage)
        about = {"project": model.project, "model": model.reference, "stage": stage}
        return (
            yield from steps.observed_steps(self._promotion(model, stage), "promotion", **about)
        )

    def _promotion(self, model: Artifact, stage: str) -> Steps[Promotion]:
        began = time.monotonic()
        current, pointer = self._pointer(model.project, stage)
        if current == model.id:
            newest = self.newest_head()
            if newest is None or newest[0].size <= pointer:
                # Whoever moved the pointer died before the log was signed.
                self.sign_head()
            served = self.resolve(f"{model.project}@{stage}").model
            if served.id != model.id:
                raise LedgerError(
                    f"the catalog says that {model.project}@{stage} is {model.reference}, and the "
                    f"signed log says {served.reference}; run: artifact-pipelines audit verify"
                )
            return Promotion(
                f"{model.project}@{stage}",
                model,
                None,
                pointer,
                time.monotonic() - began,
                changed=False,
            )
        what = f"{model.reference} may not be promoted to {stage}"
        policy = self.policy(model.project)
        ready = self._rollback_ready(current)
        decision = self.catalog.read(deciding.decide, model, stage, policy, pointer, ready)
        reasons = [*self._byte_reasons(model), *gathered(decision.reasons)]
        if reasons:
            raise PromotionRefusedError(what, reasons)
        yield "decided"
        service = self.keys.load(SERVICE)
        provenance = digest.canonical(self._provenance(model).envelope(service, self.origin))
        payload = {
            "policy": policy.digest,
            "provenance": self.store.put_object(provenance),
            "verdicts": list(decision.verdicts),
            "approvals": list(decision.approvals),
        }

        def unchanged(conn: Connection) -> tuple[str, ...]:
            again = deciding.decide(conn, model, stage, policy, pointer, ready)
            if again == decision:
                return ()
            return again.reasons or ("its verdicts or approvals changed meanwhile; try again",)

        return (
            yield from self._move(
                "promote", model, stage, pointer, current, payload, began, unchanged
            )
        )

    def rollback(
        self, project: str, stage: str, to: str | None = None, reason: str = ""
    ) -> Promotion:
        """Point a stage back at a model that was promoted to it.

        Without a name, that is the last one promoted before the model it points at; doing
        it twice goes back twice.

        Raises:
            PromotionRefusedError: There is no such model, or it was recalled or is damaged.
        """
        began = time.monotonic()
        self.check_known_stage(project, stage)
        current, pointer = self._pointer(project, stage)
        what = f"{project}@{stage} may not be rolled back"
        history = self.history(project, stage)
        if to is None:
            former = before(history, current)
            if former is None:
                raise PromotionRefusedError(
                    what, ["no whole model was promoted before the one it points at; name one"]
                )
            model = former
        else:
            model = self._model(to)
        proofs = [
            move for move in history if move.model.id == model.id and move.action == "promote"
        ]
        decision = decide_rollback(
            proven=bool(proofs), recalled=model.recalled, current=model.id == current
        )
        reasons = [*decision.reasons, *self._byte_reasons(model)]
        if reasons:
            raise PromotionRefusedError(what, reasons)
        payload: dict[str, Any] = {
            "policy": proofs[-1].policy,
            "verdicts": [],
            "approvals": [],
            "provenance": None,
            "original": proofs[-1].seq,
            "reason": reason,
        }
        return steps.run(self._move("rollback", model, stage, pointer, current, payload, began))

    def history(self, project: str, stage: str, at: str | None = None) -> list[Move]:
        """Return the moves of a pointer, oldest first, up to a time where one is given.

        Raises:
            LedgerError: The catalog's table of moves is not what the ledger says.
        """
        found = self.catalog.read(pointers.moves, project, stage)
        moved = [one for one in found if at is None or one.time <= at]
        models = self.by_ids([one.artifact for one in moved])
        actors = self.catalog.read(_actors, sorted({one.actor for one in moved}))
        return [
            Move(
                one.seq,
                one.time,
                one.action,
                models[one.artifact],
                actors.get(one.actor, one.actor),
                one.policy,
            )
            for one in moved
        ]

    def stages(self, project: str) -> dict[str, Artifact]:
        """Return what the stages of a project point at in the catalog."""
        table = tables.stage
        statement = sa.select(table).where(table.c.project == project)
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        return {row.stage: self.get(row.artifact) for row in rows}

    def resolve(self, reference: str) -> Resolved:
        """Return what a stage serves, from the signed log alone.

        A move that no signed head covers yet is pending, and the former model is served.

        Raises:
            UnknownArtifactError: The stage serves nothing.
            LedgerError: The log does not prove what the catalog says.
        """
        parsed = naming.parse(reference)
        if not isinstance(parsed, naming.StageRef):
            raise UnknownArtifactError(f"{reference!r} names no stage; write digits@production.")
        found = self.catalog.read(resolving.gather, parsed.project, parsed.stage)
        head = None if found is None else self._opened(found.newest, found.log_keys)
        if found is None or head is None or found.move is None or found.seq is None:
            _, pointer = self._pointer(parsed.project, parsed.stage)
            if pointer:
                raise LedgerError(
                    f"{reference} was moved by leaf {pointer}, which no signed tree head covers; "
                    "if that lasts, run: artifact-pipelines audit verify"
                )
            if not self.catalog.read(pointers.is_alias, parsed.project, parsed.stage):
                self.check_known_stage(parsed.project, parsed.stage)
            raise UnknownArtifactError(
                f"{reference} serves nothing yet; only stages serve, and an alias carries no proof."
            )
        leaf, body, signed = found.move.under(head)
        said = SignedStatement.from_body(body).payload
        place = f"{said['project']}/{said['stage']}"
        if leaf.seq != found.seq or signed.get(place) != found.seq:
            raise LedgerError(f"the signed log does not prove what {reference} points at.")
        model, published = found.model, found.published
        if model is None or published is None or model.id != said["artifact"]:
            raise UnknownArtifactError(f"there is no artifact {said['artifact'][:16]}.")
        _check_published(model, *published.under(head)[:2])
        if model.recalled:
            raise LedgerError(
                f"{reference} points at {model.reference}, which was recalled; go back with: "
                f"artifact-pipelines model rollback {reference}"
            )
        return Resolved(model, found.seq, found.move, found.pointer != found.seq)

    def provenance(self, reference: str) -> dict[str, Any]:
        """Return a model's in-toto statement in a DSSE envelope, signed by the service's key.

        It says where the model came from and what became of it until now. What was true when it
        was promoted is cited by its promotion.

        Raises:
            UnknownArtifactError: The reference names no model.
        """
        model = self._model(reference)
        moves = [
            {
                "name": f"{move.action} to {stage}",
                "uri": f"{_LEAF}{move.seq}",
                "annotations": {"policy": move.policy, "time": move.time},
            }
            for stage in sorted(self.policy(model.project).promotion)
            for move in self.history(model.project, stage)
            if move.model.id == model.id
        ]
        return self._provenance(model, moves).envelope(self.keys.load(SERVICE), self.origin)

    def _provenance(self, model: Artifact, moves: Sequence[dict[str, Any]] = ()) -> Provenance:
        parents = {edge.parent.id: edge.parent for edge in self.lineage(model.id)}
        return Provenance(
            model, self.files(model.id), list(parents.values()), self.verdicts(model), moves
        )

    def verdicts(self, model: Artifact) -> list[Verdict]:
        """Return the newest verdict of each gate for a model, by gate."""
        table = tables.verdict
        statement = sa.select(table).where(table.c.artifact == model.id).order_by(table.c.seq)
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        newest = {row.gate: digest.parse(row.statement.encode()) for row in rows}
        return [Verdict.from_payload(newest[gate]) for gate in sorted(newest)]

    def evidence(self, verdict: Verdict) -> Mapping[str, Any] | None:
        """Return what a gate kept beside its verdict, if it kept anything."""
        if verdict.evidence is None:
            return None
        return digest.parse(self.store.get_object(verdict.evidence))

    def baseline(self, project: str) -> str | None:
        """Return the id of the model that the production pointer names."""
        return self._pointer(project, PRODUCTION)[0]

    def why_not(self, reference: str, stage: str) -> tuple[str, ...]:
        """Return what stands against a promotion now, gates that say the same named together."""
        model = self._model(reference)
        pointer = self._pointer(model.project, stage)[1]
        policy = self.policy(model.project)
        decision = self.catalog.read(deciding.decide, model, stage, policy, pointer, None)
        return tuple(gathered(decision.reasons))

    def needs_approval(self, project: str, stage: str) -> bool:
        """Return whether a stage's promotions need people."""
        return isinstance(self.policy(project).promotion.get(stage), Approvals)

    def _move(
        self,
        action: str,
        model: Artifact,
        stage: str,
        pointer: int,
        current: str | None,
        payload: Mapping[str, Any],
        began: float,
        unchanged: Callable[[Connection], tuple[str, ...]] = lambda _: (),
    ) -> Steps[Promotion]:
        """Write a pointer, export its leaf and have the log signed."""
        self.check_signer()
        statement = self.keys.load(SERVICE).sign_statement(
            {
                "type": "pointer",
                "origin": self.origin,
                "project": model.project,
                "stage": stage,
                "artifact": model.id,
                "previous": current,
                "pointer": pointer,
                **payload,
            }
        )
        seq = self.catalog.write(
            deciding.write_pointer, action, model, stage, pointer, statement, self.actor, unchanged
        )
        yield "committed"
        self.export_leaves()
        yield "exported"
        try:
            self.sign_head()
        except KeyMissingError as error:
            raise KeyMissingError(
                f"{model.project}@{stage} was moved to {model.reference} (leaf {seq}), which is "
                f"served when a tree head covers it: {error}"
            ) from error
        yield "signed"
        return Promotion(
            f"{model.project}@{stage}",
            model,
            None if current is None else self.get(current),
            seq,
            time.monotonic() - began,
            changed=True,
        )

    def _rollback_ready(self, current: str | None) -> bool | None:
        """Return whether the model that a stage points at could be gone back to."""
        if current is None:
            return None
        model = self.get(current)
        return not model.recalled and not self._byte_reasons(model)

    def _byte_reasons(self, model: Artifact) -> list[str]:
        if model.state == "forgotten":
            return ["its bytes were forgotten"]
        return list(self.verify(model.id).damaged)

    def _model(self, reference: str) -> Artifact:
        found = self.find(reference)
        if found.kind is not Kind.MODEL:
            raise UnknownArtifactError(
                f"{reference} is a {found.kind.value.replace('_', ' ')}, not a model; "
                f"write a model such as {found.project}/v1."
            )
        return found

    def _pointer(self, project: str, stage: str) -> tuple[str | None, int]:
        return self.catalog.read(pointers.pointer, project, stage)


def _actors(conn: Connection, ids: Sequence[str]) -> dict[str, str]:
    """Return the names of actors, by id; a name that was erased is left out."""
    table = tables.actor
    rows = conn.execute(sa.select(table.c.id, table.c.name).where(table.c.id.in_(ids)))
    return {row.id: row.name for row in rows if row.name}


def before(history: Sequence[Move], current: str | None) -> Artifact | None:
    """Return the last whole model that was promoted before the current one was."""
    promotions = [move for move in history if move.action == "promote"]
    reached = max((move.seq for move in promotions if move.model.id == current), default=0)
    for move in reversed(promotions):
        whole = move.model.state == "live" and not move.model.recalled
        if move.seq < reached and move.model.id != current and whole:
            return move.model
    return None


def _check_published(model: Artifact, leaf: Leaf, body: Mapping[str, Any]) -> None:
    """Refuse a model whose row is not what its record and its signed leaf say.

    Whoever pins a digest or a name that was printed must not be pinning an edited row.
    """
    row = (model.id, model.record.id, model.record.content, model.content, model.version)
    content = body.get("content")
    said = (leaf.subject, leaf.subject, content, content, body.get("version"))
    if leaf.seq != model.seq or leaf.action != "publish" or row != said:
        raise LedgerError(
            f"the catalog's row of {model.id[:16]} is not what was signed for it; "
            "run: artifact-pipelines catalog rebuild"
        )
