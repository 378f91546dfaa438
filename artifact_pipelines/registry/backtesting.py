"""Back-tests: what a retention policy would have done, had it been in force from the start."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.domain import retention
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.retention import Action, Item
from artifact_pipelines.registry import planning
from artifact_pipelines.registry.planning import Planning

_ASKED: Final = {
    "drill": "it was brought back in a drill",
    "hold_place": "somebody put it on hold",
    "request": "somebody asked for its promotion",
    "restore": "somebody restored it",
    "verdict": "it was judged",
}
ROUNDS: Final = 100
"""How many times a policy is asked at most, over the whole history."""


@dataclass(frozen=True, slots=True)
class Regret:
    """Something that the policy would have removed, and that was used afterwards.

    Attributes:
        reference: The artifact.
        removed: When it would have gone.
        used: When it was used.
        how: What it was used for.
    """

    reference: str
    removed: str
    used: str
    how: str


@dataclass(frozen=True, slots=True)
class BackTest:
    """What a policy would have done.

    Attributes:
        project: The project.
        rounds: How many times it was asked.
        artifacts: How many artifacts the history has.
        size: Their bytes.
        forgotten: How many would have gone by now.
        saved: Their bytes.
        regrets: What would have gone and was used afterwards.
    """

    project: str
    rounds: int
    artifacts: int
    size: int
    forgotten: int
    saved: int
    regrets: tuple[Regret, ...]


@dataclass(frozen=True, slots=True)
class _Use:
    """A use of an artifact, which is why it should have been there."""

    at: datetime
    how: str


@dataclass(slots=True)
class _History:
    """What happened to the artifacts of a project, and when."""

    rows: list[sa.Row[Any]]
    items: dict[str, Item]
    uses: dict[str, list[_Use]]
    pointers: list[tuple[datetime, str, str]]  # time, stage, model
    holds: list[tuple[datetime, datetime | None, str]]
    finished: dict[str, datetime]
    behind: dict[str, list[str]]


class Backtesting(Planning):
    """The registry, as far as policies are tried on what has happened."""

    def backtest(self, project: str, policy: Policy | None = None) -> BackTest:
        """Return what a policy, or the one in force, would have done over the recorded history.

        Nothing is changed. What was really forgotten counts as being there until the policy
        that is tried would have forgotten it.
        """
        tried = self.policy(project) if policy is None else policy
        history = self.catalog.read(_history, project, tried)
        until = datetime.fromtimestamp(self.catalog.read(now), UTC)
        gone: dict[str, datetime] = {}
        rounds = 0
        for at in _times(history, until):
            rounds += 1
            items = list(_items(history, at, gone, tried))
            for found in retention.plan(items, tried.retention, tried.select, at):
                if found.action is Action.FORGET:
                    gone[found.id] = at
        regrets = [
            Regret(planning.reference(row), _text(gone[row.id]), _text(use.at), use.how)
            for row in history.rows
            if row.id in gone
            for use in history.uses.get(row.id, ())
            if use.at > gone[row.id]
        ]
        return BackTest(
            project,
            rounds,
            len(history.rows),
            sum(row.size for row in history.rows),
            len(gone),
            sum(row.size for row in history.rows if row.id in gone),
            tuple(regrets),
        )


def _times(history: _History, until: datetime) -> Iterator[datetime]:
    """Yield the times at which the policy is asked: after each publish, thinned out, and now."""
    times = sorted({item.published for item in history.items.values()})
    step = max(1, len(times) // ROUNDS)
    yield from (at + timedelta(microseconds=1) for at in times[::step])
    yield until


def _items(
    history: _History, at: datetime, gone: dict[str, datetime], policy: Policy
) -> Iterator[Item]:
    """Yield the artifacts as they were at a time, with what held them then."""
    there = {
        found: item
        for found, item in history.items.items()
        if item.published <= at and found not in gone
    }
    last = _last_of_runs(there)
    held = _held_then(history, at, last, policy)
    finals = {item.id for run, item in last.items() if run in history.finished}
    for found, item in there.items():
        yield Item(
            item.id,
            item.kind,
            item.group,
            item.number,
            item.published,
            item.metrics,
            tuple(held.get(found, ())),
            item.size,
            final=found in finals,
            ready=item.ready,
            stages=item.stages,
            tags=item.tags,
        )


def _last_of_runs(there: dict[str, Item]) -> dict[str, Item]:
    """Return the last checkpoint of each run."""
    last: dict[str, Item] = {}
    for item in there.values():
        if item.kind is Kind.CHECKPOINT:
            known = last.get(item.group or "")
            if known is None or (item.number or 0) > (known.number or 0):
                last[item.group or ""] = item
    return last


def _held_then(
    history: _History, at: datetime, last: dict[str, Item], policy: Policy
) -> dict[str, list[str]]:
    """Return what held artifacts at a time."""
    held: dict[str, list[str]] = {}
    pointed = history.pointers[: bisect_right(history.pointers, (at, "\uffff", ""))]
    for stage in {stage for _, stage, _ in pointed}:
        models = list(dict.fromkeys(model for _, one, model in reversed(pointed) if one == stage))
        for model in models[: 1 + policy.retention.rollback]:
            for one in (model, *history.behind.get(model, ())):
                held.setdefault(one, []).append(f"{stage} needs it")
    for since, lifted, artifact in history.holds:
        if since <= at and (lifted is None or lifted > at):
            held.setdefault(artifact, []).append("it is on hold")
    for run, item in last.items():
        if run not in history.finished or history.finished[run] > at:
            held.setdefault(item.id, []).append("its run has not finished")
    return held


def _history(conn: Connection, project: str, policy: Policy) -> _History:
    artifact = tables.artifact
    rows = list(
        conn.execute(
            sa.select(artifact).where(artifact.c.project == project).order_by(artifact.c.seq)
        )
    )
    facts = planning.facts(conn, project, policy)
    items = {
        row.id: Item(
            row.id,
            Kind(row.kind),
            row.name,
            row.version if row.step is None else row.step,
            datetime.fromisoformat(row.published),
            facts.metrics.get(row.id, {}),
            (),
            row.size,
            ready=row.id in facts.ready,
            stages=facts.stages.get(row.id, frozenset()),
            tags=facts.tags.get(row.id, {}),
        )
        for row in rows
    }
    behind = planning.behind(conn, project)
    pointers = list(_pointers(conn, project))
    return _History(
        rows,
        items,
        _uses(conn, project, pointers, behind),
        pointers,
        _holds(conn, project),
        _finished(conn, project),
        behind,
    )


def _pointers(conn: Connection, project: str) -> Iterator[tuple[datetime, str, str]]:
    history, leaf = tables.stage_history, tables.leaf
    statement = (
        sa.select(history.c.stage, history.c.artifact, leaf.c.time)
        .join(leaf, leaf.c.seq == history.c.seq)
        .where(history.c.project == project)
        .order_by(history.c.seq)
    )
    for row in conn.execute(statement):
        yield datetime.fromisoformat(row.time), row.stage, row.artifact


def _uses(
    conn: Connection,
    project: str,
    pointers: list[tuple[datetime, str, str]],
    behind: dict[str, list[str]],
) -> dict[str, list[_Use]]:
    """Return the uses of artifacts: as inputs, by stages, and where somebody asked for them."""
    edge, parent = tables.edge, tables.artifact.alias("parent")
    child, leaf = tables.artifact.alias("child"), tables.leaf
    found: dict[str, list[_Use]] = {}
    statement = (
        sa.select(
            edge.c.parent,
            child.c.kind,
            child.c.project,
            child.c.name,
            child.c.step,
            child.c.version,
            child.c.published,
        )
        .join(parent, parent.c.id == edge.c.parent)
        .join(child, child.c.id == edge.c.child)
        .where(parent.c.project == project)
    )
    for row in conn.execute(statement):
        how = f"{planning.reference(row)} was made from it"
        found.setdefault(row.parent, []).append(_Use(datetime.fromisoformat(row.published), how))
    for at, stage, model in pointers:
        for needed in (model, *behind.get(model, ())):
            found.setdefault(needed, []).append(_Use(at, f"{stage} came to need it"))
    asked = sa.select(leaf.c.subject, leaf.c.action, leaf.c.time).where(
        leaf.c.project == project, leaf.c.action.in_(sorted(_ASKED))
    )
    for one in conn.execute(asked):
        use = _Use(datetime.fromisoformat(one.time), _ASKED[one.action])
        found.setdefault(one.subject, []).append(use)
    return found


def _holds(conn: Connection, project: str) -> list[tuple[datetime, datetime | None, str]]:
    hold, artifact, leaf = tables.hold, tables.artifact, tables.leaf
    placed, lifted = leaf.alias("placed"), leaf.alias("lifted")
    statement = (
        sa.select(hold.c.artifact, placed.c.time.label("since"), lifted.c.time.label("until"))
        .join(artifact, artifact.c.id == hold.c.artifact)
        .join(placed, placed.c.seq == hold.c.seq)
        .outerjoin(lifted, lifted.c.seq == hold.c.lifted)
        .where(artifact.c.project == project)
    )
    return [
        (
            datetime.fromisoformat(row.since),
            None if row.until is None else datetime.fromisoformat(row.until),
            row.artifact,
        )
        for row in conn.execute(statement)
    ]


def _finished(conn: Connection, project: str) -> dict[str, datetime]:
    """Return when each run that has finished did so."""
    run, leaf = tables.run, tables.leaf
    statement = (
        sa.select(run.c.name, leaf.c.time)
        .join(leaf, leaf.c.seq == run.c.seq)
        .where(run.c.project == project, run.c.state == "finished")
    )
    return {row.name: datetime.fromisoformat(row.time) for row in conn.execute(statement)}


def _text(at: datetime) -> str:
    return ledger.timestamp(at.timestamp())
