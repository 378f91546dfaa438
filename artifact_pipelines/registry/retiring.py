"""Retention plans, forgetting and prune, the only deleter."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, packs, tables
from artifact_pipelines.catalog.catalog import Transaction, now
from artifact_pipelines.domain import digest, retention
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.retention import Action, Item
from artifact_pipelines.errors import PlanRefusedError, UnknownArtifactError
from artifact_pipelines.registry.liveness import alive
from artifact_pipelines.registry.promoting import Promoting
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.store.pack import object_key

DAY = 86_400.0
ROLLBACK_WINDOW = 2
"""How many former models of a stage stay ready for a rollback."""


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One line of a plan.

    Attributes:
        artifact: The artifact id.
        reference: Its name.
        kind: Its kind.
        size: Its bytes.
        action: `keep` or `forget`.
        rule: The rule that decided.
        reasons: Why.
        referrers: How many artifacts were made from it.
    """

    artifact: str
    reference: str
    kind: str
    size: int
    action: str
    rule: str
    reasons: tuple[str, ...]
    referrers: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A list of what may go, that a person can read before anything does.

    Attributes:
        id: The digest of the stored plan.
        project: The project.
        policy: The digest of the policy that it follows.
        size: The number of ledger leaves that it was made from.
        items: Every artifact of the project.
        state: `open`, `approved` or `applied`.
    """

    id: str
    project: str
    policy: str
    size: int
    items: tuple[PlanItem, ...]
    state: str

    def chosen(self, action: str) -> list[PlanItem]:
        """Return the items of an action."""
        return [item for item in self.items if item.action == action]


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a plan.

    Attributes:
        plan: The plan.
        forgotten: The references that are gone now.
        skipped: The references that stay after all, with the reason.
    """

    plan: str
    forgotten: tuple[str, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What prune did.

    Attributes:
        condemned: How many packs are marked for deletion now.
        deleted: How many packs were deleted.
        freed: Their bytes.
        swept: How many objects of dead writers were removed.
        disagreements: What the two engines say differently; nothing is deleted then.
    """

    condemned: int
    deleted: int
    freed: int
    swept: int
    disagreements: tuple[str, ...]


class Retiring(Promoting):
    """The registry, as far as artifacts leave it."""

    def place_hold(self, reference: str, name: str, reason: str) -> None:
        """Keep an artifact from being forgotten, under a name."""
        artifact = self.find(reference)
        body = {"project": artifact.project, "name": name, "reason": reason}
        self.append("hold_place", artifact.id, body)

    def lift_hold(self, reference: str, name: str, reason: str) -> None:
        """Lift the hold of a name."""
        artifact = self.find(reference)
        body = {"project": artifact.project, "name": name, "reason": reason}
        self.append("hold_lift", artifact.id, body)

    def plan_retention(self, project: str) -> Plan:
        """Return a new plan, or the open one when nothing has changed since it was made."""
        policy = self.policy(project)
        items = self._plan_items(project, policy)
        document = {
            "format": "artifact-pipelines/plan/v1",
            "project": project,
            "policy": policy.digest,
            "items": [asdict(item) for item in items],
        }
        for there in self.plans(project):
            if there.state != "applied" and there.items == tuple(items):
                return there
        size = self.catalog.read(ledger.head).size
        plan = self.store.put_object(digest.canonical({**document, "size": size}))
        self.append("plan_made", plan, {"project": project, "plan": plan})
        return self.plan(plan)

    def plan(self, plan: str) -> Plan:
        """Return the plan of an id or of its first digits.

        Raises:
            UnknownArtifactError: There is none.
        """
        table = tables.plan
        statement = sa.select(table).where(table.c.id.between(plan, plan + "g"))
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        if len(rows) != 1:
            raise UnknownArtifactError(f"there is no one retention plan {plan!r}.")
        found = digest.parse(self.store.get_object(rows[0].id))
        items = tuple(
            PlanItem(**{**item, "reasons": tuple(item["reasons"])}) for item in found["items"]
        )
        return Plan(
            rows[0].id, found["project"], found["policy"], found["size"], items, rows[0].state
        )

    def plans(self, project: str) -> list[Plan]:
        """Return the plans of a project, oldest first."""
        table = tables.plan
        statement = sa.select(table.c.id).where(table.c.project == project).order_by(table.c.seq)
        ids = self.catalog.read(lambda conn: list(conn.execute(statement).scalars()))
        return [self.plan(found) for found in ids]

    def approve_plan(self, plan: str) -> Plan:
        """Approve a plan.

        Raises:
            PlanRefusedError: It removes a larger share than the policy allows.
        """
        found = self.plan(plan)
        if found.state != "open":
            return found
        limit = self.policy(found.project).retention.max_share
        forget, total = len(found.chosen(Action.FORGET)), len(found.items)
        if total and forget / total > limit:
            raise PlanRefusedError(
                f"plan {found.id[:12]} may not be approved",
                [f"it forgets {forget} of {total} artifacts, more than the policy's {limit:.0%}"],
            )
        self.append("plan_approve", found.id, {"project": found.project, "approver": self.actor})
        return self.plan(found.id)

    def apply_plan(self, plan: str) -> Applied:
        """Forget what an approved plan says, item by item, unless something holds it now.

        An applied plan may be applied again: what is forgotten stays so.

        Raises:
            PlanRefusedError: It is not approved, or the policy has changed since.
        """
        found = self.plan(plan)
        policy = self.policy(found.project)
        reasons = []
        if found.state == "open":
            reasons.append(
                f"nobody has approved it; run: artifact-pipelines retention approve {found.id[:12]}"
            )
        if policy.digest != found.policy:
            reasons.append("the policy has changed since; make a new plan")
        if reasons:
            raise PlanRefusedError(f"plan {found.id[:12]} may not be applied", reasons)
        current = {item.artifact: item for item in self._plan_items(found.project, policy)}
        forgotten, skipped = [], {}
        for item in found.chosen(Action.FORGET):
            today = current.get(item.artifact)
            if today is None:
                continue  # forgotten before
            if today.action != Action.FORGET:
                skipped[item.reference] = "; ".join(today.reasons)
                continue
            why = self.catalog.write(_forget, found, item, self.actor)
            if why is None:
                forgotten.append(item.reference)
            else:
                skipped[item.reference] = why
        self.export_leaves()
        if found.state != "applied":
            body = {"project": found.project, "forgotten": len(forgotten), "skipped": len(skipped)}
            self.append("plan_applied", found.id, body)
        return Applied(found.id, tuple(forgotten), skipped)

    def prune(self, grace: float = DAY) -> Pruned:
        """Delete the packs that nothing can reach, once their grace in seconds is over.

        Two engines must agree on what is alive, or nothing is deleted.
        """
        self._check_ahead()
        self.export_leaves()
        disagreements = self._disagreements()
        if disagreements:
            return Pruned(0, 0, 0, 0, tuple(disagreements))
        self.catalog.write(packs.expire)
        self._adopt_strays()
        swept = self._sweep_publications()
        condemned = sum(
            self.catalog.write(packs.condemn, pack)
            for pack in self.catalog.read(packs.unused, "live")
        )
        for pack in self.catalog.read(packs.unused, "condemned"):
            self.catalog.write(_doom, pack, grace, self.actor)
        # The leaves first: a pack that goes has been written down as gone.
        self.export_leaves()
        deleted = freed = 0
        for doomed in self.catalog.read(packs.deleting):
            self.store.backend.delete(object_key(doomed.id))
            self.catalog.write(packs.gone, doomed.id)
            deleted, freed = deleted + 1, freed + doomed.size
        return Pruned(condemned, deleted, freed, swept, ())

    def _plan_items(self, project: str, policy: Policy) -> list[PlanItem]:
        found = self.catalog.read(_live, project)
        artifacts = [Artifact.of(row) for row in found]
        holds = self._holds(project, artifacts)
        items = [
            Item(
                artifact.id,
                artifact.kind,
                artifact.name,
                artifact.version if artifact.step is None else artifact.step,
                datetime.fromisoformat(artifact.published),
                artifact.metrics,
                tuple(holds.get(artifact.id, ())),
                artifact.size,
            )
            for artifact in artifacts
        ]
        today = datetime.fromtimestamp(self.catalog.read(now), UTC)
        decisions = retention.plan(items, policy.retention, policy.select, today)
        referrers = self.catalog.read(_referrers, project)
        return [
            PlanItem(
                artifact.id,
                artifact.reference,
                str(artifact.kind),
                artifact.size,
                str(decision.action),
                decision.rule,
                decision.reasons,
                referrers.get(artifact.id, 0),
            )
            for artifact, decision in zip(artifacts, decisions, strict=True)
        ]

    def _holds(self, project: str, artifacts: list[Artifact]) -> dict[str, list[str]]:
        """Return why artifacts may not go, by id."""
        held: dict[str, list[str]] = {}
        reasons = [
            *self._stage_holds(project),
            *(
                (row.artifact, f"the hold {row.name!r}: {row.reason}")
                for row in self.catalog.read(_placed_holds)
            ),
            *((row.artifact, "somebody is reading it") for row in self.catalog.read(_readers)),
            *(
                (view.checkpoints[-1].id, "its run has not finished and would resume from it")
                for view in self.runs(project)
                if view.state != "finished" and view.checkpoints
            ),
        ]
        for artifact, reason in reasons:
            held.setdefault(artifact, []).append(reason)
        for model in artifacts:
            if model.kind is Kind.MODEL and model.id in held:
                why = f"the held model {model.reference} was made from it"
                for item in model.record.inputs:
                    if item.role == "checkpoint":
                        held.setdefault(item.id, []).append(why)
        return held

    def _stage_holds(self, project: str) -> Iterator[tuple[str, str]]:
        """Yield what stages point at, can go back to, or are asked to point at."""
        for stage, model in self.stages(project).items():
            yield model.id, f"{project}@{stage} points at it"
            former = [
                move.model.id for move in self.history(project, stage) if move.model.id != model.id
            ]
            for artifact in list(dict.fromkeys(reversed(former)))[:ROLLBACK_WINDOW]:
                yield artifact, f"{project}@{stage} can be rolled back to it"
        for stage in self.policy(project).promotion:
            for wish in self.requests(project, stage):
                if wish.state == "open":
                    yield wish.model.id, f"it is requested for {stage}"

    def _disagreements(self) -> list[str]:
        """Return what the catalog and the store say differently about what is alive."""
        other = alive(self)
        size, rows, pointers = self.catalog.read(_liveness)
        if size != other.size:
            return [f"the catalog has {size} leaves, the store {other.size}"]
        said = []
        mine = {row.id: row.kind for row in rows}
        if Counter(mine.values()) != Counter(other.artifacts.values()) or mine != other.artifacts:
            differing = sorted(set(mine.items()) ^ set(other.artifacts.items()))
            said.append(
                f"{len(differing)} artifacts are alive in one and not in the other, "
                f"{differing[0][0][:16]} for one"
            )
        if pointers != other.pointers:
            said.append("the stages point at other models in the catalog than in the ledger")
        said += [
            f"{name} points at {artifact[:16]}, which is not alive"
            for name, artifact in sorted(other.pointers.items())
            if artifact not in other.artifacts
        ]
        located = self.locate(sorted(other.chunks))
        missing = sorted(other.chunks - set(located))
        if missing:
            said.append(f"{len(missing)} chunks that live artifacts need are mapped nowhere")
        unneeded = {
            *self.catalog.read(packs.unused, "live"),
            *self.catalog.read(packs.unused, "condemned"),
            *(doomed.id for doomed in self.catalog.read(packs.deleting)),
        }
        wanted = sorted(unneeded & {place.pack for place in located.values()})
        if wanted:
            said.append(f"pack {wanted[0]} holds chunks of a live artifact, but no row says so")
        return said

    def _adopt_strays(self) -> None:
        """Enter packs that a dead writer left in the store, so that they can be deleted."""
        backend = self.store.backend
        stored = [key.rpartition("/")[2] for key in backend.keys("packs/")]
        known = self.catalog.read(_pack_ids)
        for pack in stored:
            if pack not in known:
                size = backend.size(object_key(pack))
                if size is not None:
                    self.catalog.write(packs.adopt_stray, pack, size)

    def _sweep_publications(self) -> int:
        """Delete publish objects whose session is gone and that no artifact cites.

        The listing comes first: a session that begins after it wrote nothing that is in it.
        """
        backend = self.store.backend
        listed = list(backend.keys("publish/"))
        cited, sessions = self.catalog.read(_publications)
        swept = 0
        for key in listed:
            _, artifact, session = key.split("/")
            if session not in sessions and (artifact, session) not in cited:
                swept += backend.delete(key)
        return swept


def _forget(tx: Transaction, plan: Plan, item: PlanItem, actor: str) -> str | None:
    """Forget an artifact unless something holds it, and return what does."""
    (row,) = tx.lock_rows(tables.artifact, "id", [item.artifact])
    if row.state == "forgotten":
        return None
    # Under the ledger's lock nobody can place a hold or a request between look and leaf.
    ledger.lock(tx)
    held = _held_now(tx, item.artifact)
    if held is None:
        ledger.append(
            tx,
            action="forget",
            subject=item.artifact,
            body={
                "project": plan.project,
                "plan": plan.id,
                "rule": item.rule,
                "reason": "; ".join(item.reasons),
            },
            actor=actor,
        )
    return held


def _held_now(tx: Transaction, artifact: str) -> str | None:
    """Return what came to hold an artifact since its plan was made."""
    stage, reader, hold, request = tables.stage, tables.reader, tables.hold, tables.request
    questions = {
        "a stage points at it": sa.select(stage.c.seq).where(stage.c.artifact == artifact),
        "somebody is reading it": sa.select(reader.c.id).where(
            reader.c.artifact == artifact, reader.c.lease_until > tx.now()
        ),
        "it is on hold": sa.select(hold.c.seq).where(
            hold.c.artifact == artifact, hold.c.lifted.is_(None)
        ),
        "its promotion is requested": sa.select(request.c.seq).where(
            request.c.artifact == artifact, request.c.state == "open"
        ),
    }
    for answer, question in questions.items():
        if tx.conn.execute(question).first() is not None:
            return answer
    return None


def _doom(tx: Transaction, pack: str, grace: float, actor: str) -> None:
    found = packs.doom(tx, pack, grace)
    if found is not None:
        doomed, chunks = found
        ledger.append(
            tx,
            action="prune",
            subject=pack,
            body={"pack": pack, "bytes": doomed.size, "chunks": chunks},
            actor=actor,
        )


def _live(conn: Connection, project: str) -> list[sa.Row[Any]]:
    table = tables.artifact
    statement = sa.select(table).where(table.c.project == project, table.c.state == "live")
    return list(conn.execute(statement.order_by(table.c.seq)))


def _referrers(conn: Connection, project: str) -> dict[str, int]:
    edge, artifact = tables.edge, tables.artifact
    statement = (
        sa.select(edge.c.parent, sa.func.count(edge.c.child.distinct()))
        .join(artifact, artifact.c.id == edge.c.parent)
        .where(artifact.c.project == project)
        .group_by(edge.c.parent)
    )
    return {row[0]: row[1] for row in conn.execute(statement)}


def _placed_holds(conn: Connection) -> list[sa.Row[Any]]:
    return list(conn.execute(sa.select(tables.hold).where(tables.hold.c.lifted.is_(None))))


def _readers(conn: Connection) -> list[sa.Row[Any]]:
    table = tables.reader
    return list(conn.execute(sa.select(table).where(table.c.lease_until > now(conn))))


def _liveness(conn: Connection) -> tuple[int, list[Any], dict[str, str]]:
    artifact, stage = tables.artifact, tables.stage
    alive_rows = conn.execute(
        sa.select(artifact.c.id, artifact.c.kind).where(artifact.c.state == "live")
    )
    rows = list(alive_rows)
    pointers = {
        f"{row.project}/{row.stage}": row.artifact for row in conn.execute(sa.select(stage))
    }
    return int(ledger.head(conn).size), rows, pointers


def _pack_ids(conn: Connection) -> set[str]:
    return set(conn.execute(sa.select(tables.pack.c.id)).scalars())


def _publications(conn: Connection) -> tuple[set[tuple[str, str]], set[str]]:
    artifact = tables.artifact
    cited = {
        (row.id, row.object) for row in conn.execute(sa.select(artifact.c.id, artifact.c.object))
    }
    return cited, set(conn.execute(sa.select(tables.session.c.id)).scalars())
