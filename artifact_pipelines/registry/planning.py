"""Retention plans: what may go, readable before anything does, bound to the ledger's head."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.domain import digest, page
from artifact_pipelines.domain.keeping import Action
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.retention import Decision
from artifact_pipelines.errors import PlanRefusedError, UnknownArtifactError
from artifact_pipelines.registry import surveying
from artifact_pipelines.registry.holding import Holding
from artifact_pipelines.registry.surveying import PlanItem, Sight

FORMAT = "artifact-pipelines/plan/v1"


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
        sight = self._sight(project, policy)
        pending = self._pending(project)
        for there in pending:
            mine = sight.items(_planned(pending, there.id))
            left = {item.artifact for item in mine}
            # What an interrupted plan has done already is no reason for another one.
            if there.policy == policy.digest and mine == [
                item for item in there.items if item.artifact in left
            ]:
                return there
        items = sight.items(_planned(pending))
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
            "items": [_written(item) for item in items],
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

    def plan_items(self, project: str, policy: Policy) -> list[PlanItem]:
        """Return what becomes of each artifact of a project that has bytes, oldest first."""
        return self._sight(project, policy).items(_planned(self._pending(project)))

    def due(self, project: str | None = None) -> dict[str, dict[str, dict[str, int]]]:
        """Return how much the policies of projects would keep, archive, slim and forget now.

        By project and action; no plan is made. What approved plans are about to change counts
        as kept.
        """
        held = self.held()

        def totals(one: str) -> dict[str, dict[str, int]]:
            keeping = _holding(held, _planned(self._pending(one)))
            return self.catalog.read(surveying.totals, one, self.policy(one), keeping)

        # The database works outside of Python's lock.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            projects = self.projects() if project is None else [project]
            return dict(zip(projects, threads.map(totals, projects), strict=True))

    def decisions(
        self, project: str, policy: Policy, artifacts: Iterable[str], excepted: str | None = None
    ) -> dict[str, Decision]:
        """Return what becomes of some artifacts of a project, as far as they are there.

        Args:
            project: The project.
            policy: The policy.
            artifacts: The ids of the artifacts.
            excepted: A plan whose own items it does not hold.
        """
        held = _holding(self.held(), _planned(self._pending(project), excepted))
        return self.catalog.read(surveying.decisions, project, policy, held, artifacts)

    def _sight(self, project: str, policy: Policy) -> Sight:
        """Return what a plan of a project is made from now."""
        return self.catalog.read(Sight.of, project, policy, self.held())

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


def _written(item: PlanItem) -> dict[str, Any]:
    """Return an item as a stored plan lists it."""
    return {
        "artifact": item.artifact,
        "reference": item.reference,
        "kind": item.kind,
        "size": item.size,
        "action": item.action,
        "rule": item.rule,
        "reasons": list(item.reasons),
        "referrers": list(item.referrers),
    }


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


def _holding(held: dict[str, list[str]], planned: dict[str, str]) -> dict[str, list[str]]:
    """Return why artifacts may not go, plans that are approved included."""
    return held | {one: [*held.get(one, ()), reason] for one, reason in planned.items()}


def _planned(pending: Iterable[Plan], excepted: str | None = None) -> dict[str, str]:
    """Return what approved plans are about to change, with the reason to leave it to them."""
    return {
        item.artifact: f"plan {plan.id[:12]} is approved and not applied yet"
        for plan in pending
        if plan.state == "approved" and plan.id != excepted
        for item in plan.items
        if item.action != Action.KEEP
    }
