"""Retention plans: what may go, readable before anything does, bound to the ledger's head."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.domain import digest, page, retention
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.retention import Action, Item
from artifact_pipelines.errors import PlanRefusedError, UnknownArtifactError
from artifact_pipelines.registry.holding import Holding, Reason

FORMAT = "artifact-pipelines/plan/v1"
TRAINING_ONLY = "optimizer."
"""How the names of the files begin that slimming removes."""


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One line of a plan.

    Attributes:
        artifact: The artifact id.
        reference: Its name.
        kind: Its kind.
        size: Its bytes that are still there.
        action: `keep`, `archive`, `slim` or `forget`.
        rule: The rule that decided.
        reasons: Why.
        referrers: The names of all that was made from it.
    """

    artifact: str
    reference: str
    kind: str
    size: int
    action: str
    rule: str
    reasons: tuple[str, ...]
    referrers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A list of what may go, that a person can read before anything does.

    Attributes:
        id: The digest of the stored plan.
        project: The project.
        policy: The digest of the policy that it follows.
        size: The number of ledger leaves that it was made from.
        root: The root of the ledger over them.
        made: When it was made.
        expires: When it may no longer be applied.
        items: Every artifact of the project that has bytes.
        page: The object with the page that a browser shows.
        state: `open`, `approved`, `applied`, `superseded` or `expired`.
        approver: Who approved it, or nothing.
    """

    id: str
    project: str
    policy: str
    size: int
    root: str
    made: str
    expires: str
    items: tuple[PlanItem, ...]
    page: str
    state: str
    approver: str | None

    def chosen(self, action: str) -> list[PlanItem]:
        """Return the items of an action."""
        return [item for item in self.items if item.action == action]

    def totals(self) -> dict[str, dict[str, int]]:
        """Return the number of artifacts and of bytes, by action."""
        found = {str(action): {"artifacts": 0, "size_bytes": 0} for action in Action}
        for item in self.items:
            found[item.action]["artifacts"] += 1
            found[item.action]["size_bytes"] += item.size
        return found


class Planning(Holding):
    """The registry, as far as plans are made and approved."""

    def plan_retention(self, project: str) -> Plan:
        """Return a new plan, or the one at hand when nothing has changed since it was made.

        A plan that the policy lets through by itself is approved already.
        """
        policy = self.policy(project)
        items = self.plan_items(project, policy)
        for there in self._pending(project):
            mine = self.plan_items(project, policy, excepted=there.id)
            left = {item.artifact for item in mine}
            # What an interrupted plan has done already is no reason for another one.
            if there.policy == policy.digest and mine == [
                item for item in there.items if item.artifact in left
            ]:
                return there
        retain = policy.retention

        def bound(conn: Connection) -> tuple[int, str, float]:
            size = int(ledger.head(conn).size)
            return size, ledger.root(conn, size).hex(), now(conn)

        size, root, at = self.catalog.read(bound)
        document = {
            "format": FORMAT,
            "project": project,
            "policy": policy.digest,
            "size": size,
            "root": root,
            "made": ledger.timestamp(at),
            "expires": ledger.timestamp(at + retain.plan_expires.total_seconds()),
            "items": [asdict(item) for item in items],
        }
        shown = self.store.put_object(page.of_plan(document).encode())
        plan = self.store.put_object(digest.canonical({**document, "page": shown}))
        self.append("plan_made", plan, {"project": project, "plan": plan, "page": shown})
        made = self.plan(plan)
        if not _beyond(made, policy):
            return self._approve(made, "the policy")
        return made

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
        (row,) = rows
        found = digest.parse(self.store.get_object(row.id))
        found.pop("format")
        items = tuple(
            PlanItem(
                **{
                    **item,
                    "reasons": tuple(item["reasons"]),
                    "referrers": tuple(item["referrers"]),
                }
            )
            for item in found.pop("items")
        )
        state = row.state
        if state in {"open", "approved"} and found["expires"] <= self._today():
            state = "expired"
        return Plan(id=row.id, items=items, state=state, approver=row.approver, **found)

    def plans(self, project: str) -> list[Plan]:
        """Return the plans of a project, oldest first."""
        return [self.plan(found) for found in self._plan_ids(project)]

    def plan_page(self, plan: str) -> str:
        """Return the page of a plan for a browser."""
        return self.store.get_object(self.plan(plan).page).decode()

    def approve_plan(self, plan: str) -> Plan:
        """Approve a plan.

        Raises:
            PlanRefusedError: It forgets more than the policy allows, or is out of date.
        """
        found = self.plan(plan)
        if found.state in {"approved", "applied"}:
            return found
        reasons = [*self.stale(found), *breaker(found, self.policy(found.project))]
        if reasons:
            raise PlanRefusedError(f"plan {found.id[:12]} may not be approved", reasons)
        return self._approve(found, self.who)

    def plan_items(
        self, project: str, policy: Policy, *, excepted: str | None = None, at: float | None = None
    ) -> list[PlanItem]:
        """Return what becomes of each artifact of a project that has bytes.

        Args:
            project: The project.
            policy: The policy.
            excepted: A plan whose own items it does not hold.
            at: The time to decide for; now, where it is left out.
        """
        held = self.held()
        for artifact, reason in self._planned(excepted):
            held.setdefault(artifact, []).append(reason)
        known = self.catalog.read(facts, project, policy)
        items = [_item(row, known, tuple(held.get(row.id, ()))) for row in known.rows]
        today = datetime.fromtimestamp(self.catalog.read(now) if at is None else at, UTC)
        decisions = retention.plan(items, policy.retention, policy.select, today)
        return [
            PlanItem(
                row.id,
                reference(row),
                row.kind,
                item.size,
                str(decision.action),
                decision.rule,
                decision.reasons,
                tuple(known.referrers.get(row.id, ())),
            )
            for row, item, decision in zip(known.rows, items, decisions, strict=True)
        ]

    def stale(self, plan: Plan) -> list[str]:
        """Return why a plan no longer says what is to be done."""
        reasons = []
        if plan.state == "superseded":
            reasons.append("a newer plan has taken its place")
        if plan.state == "expired":
            reasons.append(f"it expired at {plan.expires}; make a new plan")
        if self.policy(plan.project).digest != plan.policy:
            reasons.append("the policy has changed since; make a new plan")
        return reasons

    def _approve(self, plan: Plan, approver: str) -> Plan:
        self.append("plan_approve", plan.id, {"project": plan.project, "approver": approver})
        return self.plan(plan.id)

    def _planned(self, excepted: str | None) -> Iterator[Reason]:
        """Yield what approved plans of any project are about to change."""
        table = tables.plan
        statement = sa.select(table.c.id).where(table.c.state == "approved").order_by(table.c.seq)
        for found in self.catalog.read(lambda conn: list(conn.execute(statement).scalars())):
            plan = None if found == excepted else self.plan(found)
            if plan is not None and plan.state == "approved":
                for item in plan.items:
                    if item.action != Action.KEEP:
                        yield item.artifact, f"plan {plan.id[:12]} is approved and not applied yet"

    def _pending(self, project: str) -> list[Plan]:
        """Return the plans that could still be applied, newest first."""
        found = [self.plan(plan) for plan in reversed(self._plan_ids(project, "open", "approved"))]
        return [plan for plan in found if plan.state in {"open", "approved"}]

    def _plan_ids(self, project: str, *states: str) -> list[str]:
        table = tables.plan
        statement = sa.select(table.c.id).where(table.c.project == project).order_by(table.c.seq)
        if states:
            statement = statement.where(table.c.state.in_(states))
        return self.catalog.read(lambda conn: list(conn.execute(statement).scalars()))

    def _today(self) -> str:
        return ledger.timestamp(self.catalog.read(now))


def breaker(plan: Plan, policy: Policy) -> list[str]:
    """Return why a plan forgets more than the policy lets one plan forget."""
    limits, reasons = policy.retention, []
    forget = plan.chosen(Action.FORGET)
    count, size = len(forget), sum(item.size for item in forget)
    if plan.items and count / len(plan.items) > limits.max_share:
        reasons.append(
            f"it forgets {count} of {len(plan.items)} artifacts, more than the policy's "
            f"{limits.max_share:.0%}"
        )
    if limits.max_forget is not None and size > limits.max_forget:
        reasons.append(
            f"it forgets {size} bytes, more than the {limits.max_forget} that one plan may"
        )
    return reasons


def _beyond(plan: Plan, policy: Policy) -> bool:
    """Return whether a plan needs a person."""
    limits = policy.retention.automatic
    forget = plan.chosen(Action.FORGET)
    return (
        limits is None
        or bool(breaker(plan, policy))
        or len(forget) > limits.share * len(plan.items)
        or (limits.artifacts is not None and len(forget) > limits.artifacts)
        or (limits.bytes is not None and sum(item.size for item in forget) > limits.bytes)
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a plan of one project is made from, read in one view of the catalog.

    Attributes:
        rows: The artifacts that have bytes, in the order of their leaves.
        metrics: What was measured of them, by id.
        bytes: Their bytes, those that only training needs, and whether they are archived.
        finals: The last checkpoints of finished runs.
        ready: What passed every gate, with the checkpoints behind.
        stages: The stages that point or pointed at them, or at models made from them.
        tags: Their tags.
        referrers: The names of what was made from them.
    """

    rows: list[sa.Row[Any]]
    metrics: Mapping[str, Mapping[str, float]]
    bytes: Mapping[str, tuple[int, int, bool]]
    finals: frozenset[str]
    ready: frozenset[str]
    stages: Mapping[str, frozenset[str]]
    tags: Mapping[str, Mapping[str, str]]
    referrers: Mapping[str, list[str]]


def _item(row: sa.Row[Any], facts: _Facts, holds: tuple[str, ...]) -> Item:
    size, training, archived = facts.bytes.get(row.id, (0, 0, False))
    return Item(
        row.id,
        Kind(row.kind),
        row.name,
        row.version if row.step is None else row.step,
        datetime.fromisoformat(row.published),
        facts.metrics.get(row.id, {}),
        holds,
        size,
        training,
        archived,
        row.id in facts.finals,
        row.id in facts.ready,
        facts.stages.get(row.id, frozenset()),
        facts.tags.get(row.id, {}),
    )


def facts(conn: Connection, project: str, policy: Policy) -> _Facts:
    """Return what a plan of a project is made from."""
    artifact = tables.artifact
    columns = ("id", "kind", "project", "name", "step", "version", "published")
    rows = list(
        conn.execute(
            sa.select(*(artifact.c[name] for name in columns))
            .where(artifact.c.project == project, artifact.c.state == "live")
            .order_by(artifact.c.seq)
        )
    )
    sources = behind(conn, project)
    stages: dict[str, set[str]] = {}
    history = tables.stage_history
    for row in conn.execute(sa.select(history.c.artifact, history.c.stage).distinct()):
        for one in (row.artifact, *sources.get(row.artifact, ())):
            stages.setdefault(one, set()).add(row.stage)
    passed = _passed(conn, policy)
    ready = passed | {one for model in passed for one in sources.get(model, ())}
    return _Facts(
        rows,
        _metrics(conn, project, policy),
        _bytes(conn, project),
        _finals(conn, project),
        frozenset(ready),
        {one: frozenset(found) for one, found in stages.items()},
        _tags(conn, project),
        _referrers(conn, project),
    )


def behind(conn: Connection, project: str) -> dict[str, list[str]]:
    """Return the checkpoints of a project that models were made from, by model."""
    edge, artifact = tables.edge, tables.artifact
    statement = (
        sa.select(edge.c.child, edge.c.parent)
        .join(artifact, artifact.c.id == edge.c.parent)
        .where(artifact.c.project == project, edge.c.role == "checkpoint")
    )
    found: dict[str, list[str]] = {}
    for row in conn.execute(statement):
        found.setdefault(row.child, []).append(row.parent)
    return found


def _passed(conn: Connection, policy: Policy) -> set[str]:
    """Return the models that passed every gate of a policy, and failed none."""
    verdict = tables.verdict
    statement = sa.select(verdict.c.artifact, verdict.c.gate, verdict.c.passed).where(
        verdict.c.policy == policy.digest
    )
    gates: dict[str, dict[str, bool]] = {}
    for row in conn.execute(statement):
        known = gates.setdefault(row.artifact, {})
        known[row.gate] = known.get(row.gate, True) and row.passed
    required = set(policy.required())
    return {
        model
        for model, found in gates.items()
        if required <= found.keys() and all(found[gate] for gate in required)
    }


def _metrics(conn: Connection, project: str, policy: Policy) -> dict[str, dict[str, float]]:
    """Return the metrics that the policy ranks by."""
    keeps = [policy.retention.keep, *(rule.keep for rule in policy.retention.rules)]
    names = {keep.best.metric for keep in keeps if keep is not None}
    names.add(None if policy.select is None else policy.select.metric)
    metric = tables.metric
    statement = sa.select(metric.c.artifact, metric.c.name, metric.c.value).where(
        metric.c.project == project,
        metric.c.name.in_(sorted(name for name in names if name)),
        metric.c.value.is_not(None),
    )
    found: dict[str, dict[str, float]] = {}
    for row in conn.execute(statement):
        found.setdefault(row.artifact, {})[row.name] = row.value
    return found


def _bytes(conn: Connection, project: str) -> dict[str, tuple[int, int, bool]]:
    file, artifact = tables.artifact_file, tables.artifact
    there = file.c.state != "removed"
    training = sa.and_(there, file.c.path.startswith(TRAINING_ONLY, autoescape=True))
    statement = (
        sa.select(
            file.c.artifact,
            sa.func.sum(sa.case((there, file.c.size), else_=0)),
            sa.func.sum(sa.case((training, file.c.size), else_=0)),
            sa.func.sum(sa.case((file.c.state == "present", 1), else_=0)),
            sa.func.sum(sa.case((file.c.state == "archived", 1), else_=0)),
        )
        .join(artifact, artifact.c.id == file.c.artifact)
        .where(artifact.c.project == project, artifact.c.state == "live")
        .group_by(file.c.artifact)
    )
    return {
        row[0]: (int(row[1]), int(row[2]), not row[3] and bool(row[4]))
        for row in conn.execute(statement)
    }


def _finals(conn: Connection, project: str) -> frozenset[str]:
    """Return the last checkpoints of the runs that finished."""
    run, artifact = tables.run, tables.artifact
    statement = (
        sa.select(artifact.c.id, artifact.c.name)
        .join(run, sa.and_(run.c.project == artifact.c.project, run.c.name == artifact.c.name))
        .where(
            artifact.c.project == project,
            artifact.c.kind == Kind.CHECKPOINT.value,
            run.c.state == "finished",
        )
        .order_by(artifact.c.step, artifact.c.attempt)
    )
    return frozenset({row.name: row.id for row in conn.execute(statement)}.values())


def _tags(conn: Connection, project: str) -> dict[str, dict[str, str]]:
    label, artifact = tables.label, tables.artifact
    statement = (
        sa.select(label.c.artifact, label.c.name, label.c.value)
        .join(artifact, artifact.c.id == label.c.artifact)
        .where(artifact.c.project == project)
    )
    found: dict[str, dict[str, str]] = {}
    for row in conn.execute(statement):
        found.setdefault(row.artifact, {})[row.name] = row.value
    return found


def _referrers(conn: Connection, project: str) -> dict[str, list[str]]:
    """Return the names of what was made from each artifact, in whatever project."""
    edge, parent = tables.edge, tables.artifact.alias("parent")
    child = tables.artifact.alias("child")
    statement = (
        sa.select(
            edge.c.parent,
            child.c.kind,
            child.c.project,
            child.c.name,
            child.c.step,
            child.c.version,
        )
        .join(parent, parent.c.id == edge.c.parent)
        .join(child, child.c.id == edge.c.child)
        .where(parent.c.project == project, parent.c.state == "live")
        .order_by(child.c.seq)
    )
    found: dict[str, dict[str, None]] = {}
    for row in conn.execute(statement):
        found.setdefault(row.parent, {})[reference(row)] = None
    return {artifact: list(names) for artifact, names in found.items()}


def reference(row: Any) -> str:  # noqa: ANN401 (a row of whatever columns)
    """Return the text that finds an artifact again."""
    if row.kind == Kind.MODEL:
        return f"{row.project}/v{row.version}"
    if row.kind == Kind.TRAINING_RUN:
        return f"{row.project}/{row.name}"
    return f"{row.project}/{row.name}@{row.version if row.step is None else row.step}"
