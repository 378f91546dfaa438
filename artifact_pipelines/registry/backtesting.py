"""Back-tests: what a retention policy would have done, had it been in force from the start."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.domain import retention
from artifact_pipelines.domain.keeping import Action
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.retention import Columns, Mask
from artifact_pipelines.registry import surveying
from artifact_pipelines.registry.planning import Planning
from artifact_pipelines.registry.surveying import Survey

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


@dataclass(frozen=True, slots=True)
class _History:
    """What happened to the artifacts of a project, and when; each is known by its leaf."""

    survey: Survey
    uses: dict[int, list[_Use]]
    pointers: list[tuple[datetime, str, int]]  # time, stage, model
    holds: list[tuple[datetime, datetime | None, int]]
    finished: dict[str, datetime]
    behind: dict[int, list[int]]


class Backtesting(Planning):
    """The registry, as far as policies are tried on what has happened."""

    def backtest(self, project: str, policy: Policy | None = None) -> BackTest:
        """Return what a policy, or the one in force, would have done over the recorded history.

        Nothing is changed. What was really forgotten counts as being there until the policy
        that is tried would have forgotten it.
        """
        tried = self.policy(project) if policy is None else policy
        history = self.catalog.read(_history, project, tried)
        columns = history.survey.columns
        until = datetime.fromtimestamp(self.catalog.read(now), UTC)
        gone: dict[int, datetime] = {}  # by place
        there = np.ones(len(columns), dtype=bool)
        times = list(_times(columns, until))
        for at in times:
            present = there & (columns.at <= retention.microseconds(at))
            seen = _as_it_was(history, at, present, tried)
            decided = retention.decide(seen, tried.retention, tried.select, at)
            going = np.flatnonzero(present)[decided.where(Action.FORGET)]
            there[going] = False
            gone.update(dict.fromkeys(going.tolist(), at))
        names = history.survey.references()
        leaves = columns.order.tolist()
        regrets = [
            Regret(names[place], _text(gone[place]), _text(use.at), use.how)
            for place in np.argsort(columns.order).tolist()
            if place in gone
            for use in history.uses.get(leaves[place], ())
            if use.at > gone[place]
        ]
        return BackTest(
            project,
            len(times),
            len(columns),
            int(columns.size.sum()),
            len(gone),
            int(columns.size[~there].sum()),
            tuple(regrets),
        )


def _times(columns: Columns, until: datetime) -> Iterator[datetime]:
    """Yield the times at which the policy is asked: after each publish, thinned out, and now."""
    times = np.unique(columns.at)
    step = max(1, len(times) // ROUNDS)
    for at in times[::step].tolist():
        yield retention.EPOCH + timedelta(microseconds=at + 1)
    yield until


def _as_it_was(history: _History, at: datetime, present: Mask, policy: Policy) -> Columns:
    """Return what was there at a time, with what held it then."""
    survey = history.survey
    columns = survey.columns
    groups = columns.each(np.arange(len(survey.names)))[present]
    ends = np.flatnonzero(np.diff(groups, append=-1))  # where the last of each group stands
    last = {
        survey.names[groups[end]]: int(end)
        for end in ends
        if columns.kinds[groups[end]] is Kind.CHECKPOINT
    }
    finished = {run for run, time in history.finished.items() if time <= at}
    final = np.zeros(len(groups), dtype=bool)
    final[[place for run, place in last.items() if run in finished]] = True
    where = dict(zip(columns.order[present].tolist(), range(len(groups)), strict=True))
    held: dict[int, list[str]] = {}
    for leaf, reason in _held_then(history, at, policy):
        if leaf in where:
            held.setdefault(where[leaf], []).append(reason)
    for run, place in last.items():
        if run not in finished:
            held.setdefault(place, []).append("its run has not finished")
    return columns.taken(present, final, {place: tuple(why) for place, why in held.items()})


def _held_then(history: _History, at: datetime, policy: Policy) -> Iterator[tuple[int, str]]:
    """Yield what stages and people held at a time."""
    pointed = history.pointers[: bisect_right(history.pointers, (at, "\uffff", 0))]
    for stage in {stage for _, stage, _ in pointed}:
        models = list(dict.fromkeys(model for _, one, model in reversed(pointed) if one == stage))
        for model in models[: 1 + policy.retention.rollback]:
            for one in (model, *history.behind.get(model, ())):
                yield one, f"{stage} needs it"
    for since, lifted, artifact in history.holds:
        if since <= at and (lifted is None or lifted > at):
            yield artifact, "it is on hold"


def _history(conn: Connection, project: str, policy: Policy) -> _History:
    survey = surveying.survey(conn, project, policy, forgotten=True)
    behind = _behind(conn, project)
    pointers = list(_pointers(conn, project))
    return _History(
        survey,
        _uses(conn, survey, pointers, behind),
        pointers,
        _holds(conn, project),
        _finished(conn, project),
        behind,
    )


def _behind(conn: Connection, project: str) -> dict[int, list[int]]:
    """Return the checkpoints of a project that models were made from, by model."""
    edge, parent, child = tables.edge, tables.artifact.alias(), tables.artifact.alias()
    statement = (
        sa.select(child.c.seq.label("model"), parent.c.seq.label("checkpoint"))
        .join(edge, edge.c.child == child.c.id)
        .join(parent, parent.c.id == edge.c.parent)
        .where(child.c.kind == Kind.MODEL.value, edge.c.role == "checkpoint")
        .where(parent.c.project == project)
    )
    found: dict[int, list[int]] = {}
    for row in conn.execute(statement):
        found.setdefault(row.model, []).append(row.checkpoint)
    return found


def _pointers(conn: Connection, project: str) -> Iterator[tuple[datetime, str, int]]:
    history, leaf, artifact = tables.stage_history, tables.leaf, tables.artifact
    statement = (
        sa.select(leaf.c.time, history.c.stage, artifact.c.seq)
        .join(leaf, leaf.c.seq == history.c.seq)
        .join(artifact, artifact.c.id == history.c.artifact)
        .where(history.c.project == project)
        .order_by(history.c.seq)
    )
    for time, stage, model in conn.execute(statement).all():
        yield datetime.fromisoformat(time), stage, model


def _uses(
    conn: Connection,
    survey: Survey,
    pointers: list[tuple[datetime, str, int]],
    behind: dict[int, list[int]],
) -> dict[int, list[_Use]]:
    """Return the uses of artifacts: as inputs, by stages, and where somebody asked for them."""
    artifact, leaf = tables.artifact, tables.leaf
    children = surveying.made_from(conn, survey.project, forgotten=True)
    used = {
        child: _Use(datetime.fromisoformat(published), f"{name} was made from it")
        for child, name, published in surveying.named(
            conn, {child for found in children.values() for child in found}
        )
    }
    uses = {parent: [used[child] for child in found] for parent, found in children.items()}
    for at, stage, model in pointers:
        for needed in (model, *behind.get(model, ())):
            uses.setdefault(needed, []).append(_Use(at, f"{stage} came to need it"))
    asked = (
        sa.select(artifact.c.seq, leaf.c.action, leaf.c.time)
        .join(artifact, artifact.c.id == leaf.c.subject)
        .where(leaf.c.project == survey.project, leaf.c.action.in_(sorted(_ASKED)))
    )
    for subject, action, time in conn.execute(asked).all():
        use = _Use(datetime.fromisoformat(time), _ASKED[action])
        uses.setdefault(subject, []).append(use)
    return uses


def _holds(conn: Connection, project: str) -> list[tuple[datetime, datetime | None, int]]:
    hold, artifact, leaf = tables.hold, tables.artifact, tables.leaf
    placed, lifted = leaf.alias("placed"), leaf.alias("lifted")
    statement = (
        sa.select(placed.c.time, lifted.c.time, artifact.c.seq)
        .select_from(hold)
        .join(artifact, artifact.c.id == hold.c.artifact)
        .join(placed, placed.c.seq == hold.c.seq)
        .outerjoin(lifted, lifted.c.seq == hold.c.lifted)
        .where(artifact.c.project == project)
    )
    return [
        (
            datetime.fromisoformat(since),
            None if until is None else datetime.fromisoformat(until),
            held,
        )
        for since, until, held in conn.execute(statement).all()
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
