"""Plans carried out: item by item, against what has happened since each was decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain.keeping import Action
from artifact_pipelines.domain.retention import Decision
from artifact_pipelines.domain.sharding import MOST, shards
from artifact_pipelines.errors import GoneError, HeldError, PlanRefusedError
from artifact_pipelines.registry import planning, steps
from artifact_pipelines.registry.moving import SHARD, Moved, Moving, archived_together
from artifact_pipelines.registry.planning import Plan, Planning
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines.registry.surveying import PlanItem

UNSETTLING: Final = frozenset(
    {
        "hold_place",
        "plan_approve",
        "policy_set",
        "promote",
        "request",
        "rollback",
        "run_resume",
        "tag",
        "verdict",
    }
)
"""The leaves that may give an artifact a reason to stay."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a plan.

    Attributes:
        plan: The plan.
        forgotten: The references that are gone now.
        skipped: The references that stay after all, with the reason.
        slimmed: The references that have lost what only training needs.
        archived: The references that are in the cold tier now.
    """

    plan: str
    forgotten: tuple[str, ...]
    skipped: Mapping[str, str]
    slimmed: tuple[str, ...] = ()
    archived: tuple[str, ...] = ()


class Applying(Moving, Planning):
    """The registry, as far as plans are carried out."""

    def apply_plan(self, plan: str) -> Applied:
        """Do what an approved plan says, item by item, unless something speaks against it now.

        An applied plan may be applied again: what is forgotten stays so.

        Raises:
            PlanRefusedError: It is not approved, or no longer says what is to be done.
        """
        return steps.run(self.application(plan))

    def application(self, plan: str) -> Steps[Applied]:
        """Apply a plan, step by step."""
        found = self.plan(plan)
        self._check_applicable(found)
        policy = self.policy(found.project)
        decided, current = self._decided(found)
        yield "decided"
        forgotten: list[str] = []
        skipped: dict[str, str] = {}
        for item in found.chosen(Action.FORGET):
            today = current.get(item.artifact)
            if today is None:
                continue  # forgotten before
            while today is not None and today.action == Action.FORGET:
                said = self.catalog.write(
                    _forget, found, item, self.actor, decided, found.approver or ""
                )
                if isinstance(said, str):
                    skipped[item.reference] = said
                    break
                if said >= 0:
                    forgotten.append(item.reference)
                    decided = said
                    yield "forgotten"
                    break
                # A leaf since the decision may hold it now: decide all that is left again.
                if self.policy(found.project).digest != policy.digest:
                    self._check_applicable(found)
                decided, current = self._decided(found)
                today = current.get(item.artifact)
            else:
                if today is not None:
                    skipped[item.reference] = "; ".join(today.reasons)
        self.export_leaves()
        yield "exported"
        slimmed = self._slim_items(found, skipped)
        yield "slimmed"
        archived = yield from self._archive_items(found, skipped)
        if found.state != "applied":
            body = {
                "project": found.project,
                "forgotten": len(forgotten),
                "slimmed": len(slimmed),
                "archived": len(archived),
                "skipped": len(skipped),
            }
            self.append("plan_applied", found.id, body)
            yield "applied"
        return Applied(found.id, tuple(forgotten), skipped, slimmed, archived)

    def _slim_items(self, plan: Plan, skipped: dict[str, str]) -> tuple[str, ...]:
        """Take from checkpoints what only training needs, where that is still to be done."""
        slimmed = []
        for item in self._still(plan, Action.SLIM, skipped):
            why = "; ".join(item.reasons)
            try:
                if self.slim(item.reference, reason=why, rule=item.rule, plan=plan.id):
                    slimmed.append(item.reference)
            except (HeldError, GoneError) as error:
                skipped[item.reference] = str(error)
        return tuple(slimmed)

    def archive_shards(self, plan: str, *, each: int = SHARD, most: int = MOST) -> list[list[str]]:
        """Return what a plan archives in shards, checkpoints of a run with their neighbours.

        Args:
            plan: The plan.
            each: The bytes of a shard, about.
            most: How many shards there may be.

        Raises:
            PlanRefusedError: It is not approved, or no longer says what is to be done.
        """
        found = self.plan(plan)
        self._check_applicable(found)
        due = [self.get(item.artifact) for item in self._still(found, Action.ARCHIVE, {})]
        groups = archived_together(due)
        cut = shards(groups, lambda group: sum(one.size for one in group), each, most=most)
        return [[one.reference for group in part for one in group] for part in cut]

    def archive_shard(self, plan: str, references: Sequence[str]) -> Moved:
        """Archive a shard of what a plan archives; applying the plan then finds it done.

        Raises:
            PlanRefusedError: The plan is not approved, or no longer says what is to be done.
        """
        found = self.plan(plan)
        self._check_applicable(found)
        due = {item.reference for item in self._still(found, Action.ARCHIVE, {})}
        return self.archive([reference for reference in references if reference in due])

    def _archive_items(self, plan: Plan, skipped: dict[str, str]) -> Steps[tuple[str, ...]]:
        """Move to the cold tier what is still to be moved, and return all that is there now."""
        references = [item.reference for item in self._still(plan, Action.ARCHIVE, skipped)]
        if references:
            moved = yield from self.archiving(references)
            skipped.update(moved.skipped)
        chosen = [self.get(item.artifact) for item in plan.chosen(Action.ARCHIVE)]
        return tuple(one.reference for one in chosen if one.tier == "cold")

    def _still(self, plan: Plan, action: Action, skipped: dict[str, str]) -> list[PlanItem]:
        """Return the items of an action that the policy still says this of, and note the others."""
        chosen = plan.chosen(action)
        if not chosen:
            return []
        _, current = self._decided(plan)
        found = []
        for item in chosen:
            today = current.get(item.artifact)
            if today is not None and today.action == action:
                found.append(item)
            elif today is not None and today.rule == "hold":
                skipped[item.reference] = "; ".join(today.reasons)
        return found

    def _check_applicable(self, plan: Plan) -> None:
        reasons = []
        if plan.state == "open":
            reasons.append(
                f"nobody has approved it; run: artifact-pipelines retention approve {plan.id[:12]}"
            )
        reasons += [*self.stale(plan), *planning.breaker(plan, self.policy(plan.project))]
        if reasons:
            raise PlanRefusedError(f"plan {plan.id[:12]} may not be applied", reasons)

    def _decided(self, plan: Plan) -> tuple[int, dict[str, Decision]]:
        """Return what the policy says now of what a plan changes, and the leaves it knew of."""
        size = int(self.catalog.read(ledger.head).size)
        about = [item.artifact for item in plan.items if item.action != Action.KEEP]
        policy = self.policy(plan.project)
        return size, self.decisions(plan.project, policy, about, excepted=plan.id)


def _forget(
    tx: Transaction, plan: Plan, item: PlanItem, actor: str, decided: int, approver: str
) -> str | int:
    """Forget an artifact.

    Returns:
        The leaves that the decision about the next item knows of; -1 when this one has to be
        decided again; or why it stays.
    """
    (row,) = tx.lock_rows(tables.artifact, "id", [item.artifact])
    # Under the ledger's lock nobody can place a hold or a request between look and leaf.
    head = ledger.lock(tx)
    if row.state == "forgotten":
        return decided
    if _unsettled(tx, row.seq, decided):
        return -1
    held = _held_now(tx, plan.project, item.artifact)
    if held is not None:
        return held
    ledger.append(
        tx,
        action="forget",
        subject=item.artifact,
        body={
            "project": plan.project,
            "plan": plan.id,
            "rule": item.rule,
            "reason": "; ".join(item.reasons),
            "approver": approver,
        },
        actor=actor,
    )
    return int(head.size) + 1


def _unsettled(tx: Transaction, seq: int, decided: int) -> bool:
    """Return whether a leaf since a decision may have given an artifact a reason to stay."""
    leaf, ancestry = tables.leaf, tables.ancestry
    # Few leaves are so new, and many are of these actions: the database must not begin there.
    since = tx.conn.execute(sa.select(leaf.c.action).where(leaf.c.seq >= decided)).scalars()
    if not UNSETTLING.isdisjoint(since):
        return True
    used = sa.select(ancestry.c.child).where(ancestry.c.parent == seq, ancestry.c.child >= decided)
    return tx.conn.execute(used.limit(1)).first() is not None


def _held_now(tx: Transaction, project: str, artifact: str) -> str | None:
    """Return what holds an artifact at this moment."""
    stage, reader, hold, request = tables.stage, tables.reader, tables.hold, tables.request
    questions: dict[str, sa.Select[Any]] = {
        "a stage points at it": sa.select(stage.c.seq).where(stage.c.artifact == artifact),
        "somebody is reading it": sa.select(reader.c.id).where(
            reader.c.artifact == artifact, reader.c.lease_until > tx.now()
        ),
        "it is on hold": sa.select(hold.c.seq).where(
            hold.c.artifact == artifact, hold.c.lifted.is_(None)
        ),
        "its promotion is requested": sa.select(request.c.seq).where(
            request.c.project == project,
            request.c.artifact == artifact,
            request.c.state == "open",
        ),
    }
    for answer, question in questions.items():
        if tx.conn.execute(question).first() is not None:
            return answer
    return None
