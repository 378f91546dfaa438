"""What a retention plan is made from: the living artifacts of a project, column by column.

A plan sees every artifact of its project, so they are read in as few statements as there are
tables, each through an index that holds all that is asked for, and a whole group in one row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import batches, now
from artifact_pipelines.domain import retention
from artifact_pipelines.domain.keeping import Action
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.retention import Columns, Decided, Decision, Floats, Ints, Mask
from artifact_pipelines.registry.reading import reference_of

_TIME: Final = 26  # the characters of a time without its zone, which is always UTC
_LIVING: Final[sa.ColumnElement[str]] = sa.literal_column(
    "'live'"
)  # a parameter would hide the index from SQLite


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
class Survey:
    """The living artifacts of a project, as a policy sees them.

    Attributes:
        project: The project.
        policy: The policy that says what is asked of them.
        names: The name of each group: the run of checkpoints, the name of another kind.
        columns: What is asked; `order` holds the leaves that published them.
    """

    project: str
    policy: Policy
    names: tuple[str, ...]
    columns: Columns

    def decided(self, held: Mapping[int, Sequence[str]], at: datetime) -> Decided:
        """Return what becomes of them, where some are held; by leaf, with the reasons."""
        columns = self.columns
        if held:
            places = {place: tuple(held[leaf]) for leaf, place in self.places(held).items()}
            columns = replace(columns, held=places)
        return retention.decide(columns, self.policy.retention, self.policy.select, at)

    def places(self, leaves: Iterable[int]) -> dict[int, int]:
        """Return where the artifacts of some leaves stand, as far as they are here."""
        wanted = np.array(sorted(leaves), dtype=np.int64)
        at, here = _Places(self.columns.order).of(wanted)
        return dict(zip(wanted[here].tolist(), at[here].tolist(), strict=True))

    def references(self) -> list[str]:
        """Return the texts that find the artifacts again."""
        columns = self.columns
        groups = columns.each(np.arange(len(self.names))).tolist()
        return [
            reference_of(columns.kinds[group], self.project, self.names[group], number)
            for group, number in zip(groups, columns.number.tolist(), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Sight:
    """All that a plan says of the living artifacts of a project.

    Attributes:
        survey: The artifacts.
        at: The time to decide for.
        held: Why some may not go, by id.
        ids: Their ids, by leaf.
        referrers: The names of what was made from them, by leaf.
    """

    survey: Survey
    at: datetime
    held: Mapping[str, Sequence[str]]
    ids: Mapping[int, str]
    referrers: Mapping[int, Sequence[str]]

    @classmethod
    def of(
        cls, conn: Connection, project: str, policy: Policy, held: Mapping[str, Sequence[str]]
    ) -> Self:
        """Return what a view of the catalog says."""
        seen = survey(conn, project, policy)
        known = dict(zip(seen.columns.order.tolist(), seen.references(), strict=True))
        return cls(seen, _now(conn), held, _ids(conn, project), _referrers(conn, project, known))

    def items(self, planned: Mapping[str, str]) -> list[PlanItem]:
        """Return a line of a plan for each, oldest first; other plans hold what they are about."""
        held = {
            leaf: [*self.held.get(one, ()), *([planned[one]] if one in planned else ())]
            for leaf, one in self.ids.items()
            if one in self.held or one in planned
        }
        decided = self.survey.decided(held, self.at)
        columns, references = self.survey.columns, self.survey.references()
        kinds = [str(kind) for kind in columns.kinds]
        groups = columns.each(np.arange(len(kinds))).tolist()
        leaves, sizes = columns.order.tolist(), columns.size.tolist()
        found = []
        for place in np.argsort(columns.order).tolist():
            leaf, outcome = leaves[place], decided.outcome(place)
            found.append(
                PlanItem(
                    self.ids[leaf],
                    references[place],
                    kinds[groups[place]],
                    sizes[place],
                    str(outcome.action),
                    outcome.rule,
                    outcome.why(place),
                    tuple(self.referrers.get(leaf, ())),
                )
            )
        return found


def totals(
    conn: Connection, project: str, policy: Policy, held: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, int]]:
    """Return how many artifacts of a project a policy keeps and moves now, and their bytes."""
    seen = survey(conn, project, policy)
    leaves = leaves_of(conn, project, held)
    decided = seen.decided({leaves[one]: held[one] for one in held if one in leaves}, _now(conn))
    found = {}
    for action in Action:
        chosen = decided.where(action)
        found[str(action)] = {
            "artifacts": int(chosen.sum()),
            "size_bytes": int(seen.columns.size[chosen].sum()),
        }
    return found


def decisions(
    conn: Connection,
    project: str,
    policy: Policy,
    held: Mapping[str, Sequence[str]],
    artifacts: Iterable[str],
) -> dict[str, Decision]:
    """Return what becomes of some artifacts of a project, by id, as far as they are there."""
    seen = survey(conn, project, policy)
    wanted = set(artifacts)
    leaves = leaves_of(conn, project, wanted | held.keys())
    decided = seen.decided({leaves[one]: held[one] for one in held if one in leaves}, _now(conn))
    found = {}
    for leaf, place in seen.places(leaves[one] for one in wanted if one in leaves).items():
        outcome = decided.outcome(place)
        found[leaf] = (outcome.action, outcome.rule, outcome.why(place))
    return {
        one: Decision(one, *found[leaf])
        for one, leaf in leaves.items()
        if one in wanted and leaf in found
    }


def _now(conn: Connection) -> datetime:
    return datetime.fromtimestamp(now(conn), UTC)


def survey(conn: Connection, project: str, policy: Policy, *, forgotten: bool = False) -> Survey:
    """Return the living artifacts of a project with what a policy asks of them.

    With `forgotten` also those that were forgotten, and of all the bytes that they began with.
    """
    artifact = tables.artifact
    size = artifact.c.size if forgotten else artifact.c.there
    rules = policy.retention.rules
    slims = any(
        after is not None
        for after in (policy.retention.slim_after, *(rule.slim_after for rule in rules))
    )
    number = sa.func.coalesce(artifact.c.step, artifact.c.version, 0)
    cold = sa.case((artifact.c.tier == "cold", "1"), else_="0")
    listed = (number, artifact.c.seq, size, *((artifact.c.training,) if slims else ()))
    rows = conn.execute(
        sa.select(
            artifact.c.kind,
            artifact.c.name,
            sa.func.count(),
            *(sa.func.aggregate_strings(one, "") for one in (cold, artifact.c.published)),
            *(_joined(conn, one) for one in listed),
        )
        .where(
            artifact.c.project == project, sa.true() if forgotten else artifact.c.state == _LIVING
        )
        .group_by(artifact.c.kind, artifact.c.name)
        .order_by(artifact.c.kind, artifact.c.name)
    ).all()
    kinds, names, counts, tiers, times, *texts = zip(*rows, strict=True) if rows else [()] * 9
    numbers, leaves, there, *rest = (_integers(one) for one in texts)
    training = rest[0] if slims else np.zeros_like(there)
    archived = np.frombuffer("".join(tiers).encode(), dtype=np.uint8) == ord("1")
    starts = np.cumsum((0, *counts))[:-1]
    order = _in_order(starts, np.array(counts, dtype=np.int64), numbers, leaves)
    leaves = leaves[order]
    facts = _Facts(conn, project, policy, leaves)
    found = tuple(Kind(kind) for kind in kinds)
    final = np.zeros(len(leaves), dtype=bool)
    if any(keep.final for keep in facts.keeps):
        finished = _finished(conn, project)
        ends = starts + np.array(counts, dtype=np.int64) - 1
        for kind, name, end in zip(found, names, ends, strict=True):
            final[end] = kind is Kind.CHECKPOINT and name in finished
    return Survey(
        project,
        policy,
        names,
        Columns(
            found,
            starts,
            numbers[order],
            leaves,
            _times("".join(times))[order],
            there[order],
            training[order],
            archived[order],
            final,
            facts.ready(),
            {},
            facts.metrics(),
            facts.stages(),
            facts.tags(),
        ),
    )


def _joined(conn: Connection, numbers: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
    """Return the numbers of a group as one text, with commas between them."""
    # SQLite takes numbers for texts by itself, and is slower when it is asked to.
    lite = conn.dialect.name == "sqlite"
    texts = sa.type_coerce(numbers, sa.Text) if lite else sa.cast(numbers, sa.Text)
    return sa.func.aggregate_strings(texts, ",")


def _integers(texts: Iterable[str]) -> Ints:
    """Return the numbers of texts, which commas divide."""
    joined = ",".join(texts)
    return np.fromstring(joined, dtype=np.int64, sep=",") if joined else np.empty(0, dtype=np.int64)


def _times(joined: str) -> Ints:
    """Return times that stand one after another, in microseconds since 1970."""
    letters = np.frombuffer(joined.encode(), dtype=np.uint8).reshape(-1, _TIME + 1)[:, :_TIME]
    found: Ints = (
        np.ascontiguousarray(letters).view(f"S{_TIME}").ravel().astype("M8[us]").astype(np.int64)
    )
    return found


def _in_order(starts: Ints, counts: Ints, numbers: Ints, leaves: Ints) -> Ints | slice:
    """Return how the members of each group come to stand in the order of their numbers.

    SQLite reads them in that order already.
    """
    group = np.repeat(np.arange(len(starts)), counts)
    rises = (np.diff(numbers) > 0) | ((np.diff(numbers) == 0) & (np.diff(leaves) > 0))
    if (rises | (np.diff(group) > 0)).all():
        return slice(None)
    return np.lexsort((leaves, numbers, group))


class _Places:
    """Where each leaf stands in a column of leaves."""

    def __init__(self, leaves: Ints) -> None:
        self._order = np.argsort(leaves, kind="stable")  # quick, because they nearly are in order
        self._sorted = leaves[self._order]

    def of(self, leaves: Ints) -> tuple[Ints, Mask]:
        """Return where leaves stand, and which of them are there at all."""
        if not len(self._sorted):
            return np.zeros(len(leaves), dtype=np.int64), np.zeros(len(leaves), dtype=bool)
        at = np.minimum(np.searchsorted(self._sorted, leaves), len(self._sorted) - 1)
        return self._order[at], self._sorted[at] == leaves


class _Facts:
    """What a policy asks beside size and age, and only what it asks."""

    def __init__(self, conn: Connection, project: str, policy: Policy, leaves: Ints) -> None:
        self.conn, self.project, self.policy, self.leaves = conn, project, policy, leaves
        self.rules = policy.retention.rules
        keeps = (policy.retention.keep, *(rule.keep for rule in self.rules))
        self.keeps = [keep for keep in keeps if keep is not None]
        self.places = _Places(leaves)

    def marked(self, statement: sa.Select[Any]) -> Mask:
        """Return of which artifacts a statement finds the leaf."""
        found = self.conn.execute(statement).scalars().all()
        mask = np.zeros(len(self.leaves), dtype=bool)
        places, there = self.places.of(np.array(found, dtype=np.int64))
        mask[places[there]] = True
        return mask

    def metrics(self) -> dict[str, Floats]:
        """Return the metrics that the policy ranks by, each value as its place among all."""
        asked = sorted(retention.asked(self.policy.retention, self.policy.select))
        return {name: self._ranked(name) for name in asked}

    def _ranked(self, name: str) -> Floats:
        """Return the places of a metric's values, the same for equal ones.

        The index holds them in order. They stay there: written as texts they would lose digits,
        and as rows they would cost more than all else.
        """
        metric = tables.metric
        kinds = {Kind.CHECKPOINT.value, *(rule.kind for rule in self.rules if rule.keep)}
        statement = (
            sa.select(_joined(self.conn, metric.c.seq))
            .where(
                metric.c.project == self.project,
                metric.c.kind.in_(sorted(kinds)),
                metric.c.name == name,
                metric.c.value.is_not(None),
            )
            .group_by(metric.c.value)
            .order_by(metric.c.value)
        )
        found = self.conn.execute(statement).scalars().all()
        equal = np.array([text.count(",") + 1 for text in found], dtype=np.int64)
        places, there = self.places.of(_integers(found))
        column = np.full(len(self.leaves), np.nan)
        column[places[there]] = np.repeat(np.arange(len(equal)), equal)[there]
        return column

    def stages(self) -> dict[str, Mask]:
        """Return what the stages that rules name point or pointed at, and what is behind it."""
        history = tables.stage_history
        return {
            stage: self.marked(
                _with_checkpoints(
                    self.project, sa.select(history.c.artifact).where(history.c.stage == stage)
                )
            )
            for stage in {rule.stage for rule in self.rules if rule.stage is not None}
        }

    def tags(self) -> dict[str, Mask]:
        """Return what carries the tags that rules name."""
        label, artifact = tables.label, tables.artifact
        found = {}
        for tag in {rule.tag for rule in self.rules if rule.tag is not None}:
            name, _, value = tag.partition("=")
            statement = (
                sa.select(artifact.c.seq)
                .join(label, label.c.artifact == artifact.c.id)
                .where(artifact.c.project == self.project, label.c.name == name)
            )
            found[tag] = self.marked(
                statement.where(label.c.value == value) if value else statement
            )
        return found

    def ready(self) -> Mask:
        """Return what passed every gate of the policy, with the checkpoints behind."""
        ready = np.zeros(len(self.leaves), dtype=bool)
        if any(rule.state is not None for rule in self.rules):
            for part in batches(sorted(_passed(self.conn, self.policy))):
                ids = sa.select(tables.artifact.c.id).where(tables.artifact.c.id.in_(part))
                ready |= self.marked(_with_checkpoints(self.project, ids))
        return ready


def _with_checkpoints(project: str, ids: sa.Select[Any]) -> sa.Select[Any]:
    """Return the leaves of artifacts of a project, and of checkpoints that models came from."""
    artifact, edge = tables.artifact, tables.edge
    behind = sa.select(edge.c.parent).where(edge.c.child.in_(ids), edge.c.role == "checkpoint")
    return sa.select(artifact.c.seq).where(
        artifact.c.project == project, artifact.c.id.in_(sa.union_all(ids, behind))
    )


def _finished(conn: Connection, project: str) -> set[str]:
    run = tables.run
    statement = sa.select(run.c.name).where(run.c.project == project, run.c.state == "finished")
    return set(conn.execute(statement).scalars())


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


def _ids(conn: Connection, project: str) -> dict[int, str]:
    """Return the ids of the living artifacts of a project, by the leaves that published them."""
    artifact = tables.artifact
    statement = sa.select(artifact.c.seq, artifact.c.id).where(
        artifact.c.project == project, artifact.c.state == "live"
    )
    return {row[0]: row[1] for row in conn.execute(statement).all()}


def made_from(conn: Connection, project: str, *, forgotten: bool = False) -> dict[int, list[int]]:
    """Return the leaves of what was made from the artifacts of a project, by their leaves."""
    artifact, ancestry = tables.artifact, tables.ancestry
    statement = (
        sa.select(ancestry.c.parent, _joined(conn, ancestry.c.child))
        .join(artifact, artifact.c.seq == ancestry.c.parent)
        .where(artifact.c.project == project)
        .group_by(ancestry.c.parent)
    )
    if not forgotten:
        statement = statement.where(artifact.c.state == _LIVING)
    return {row[0]: sorted(map(int, row[1].split(","))) for row in conn.execute(statement).all()}


def named(conn: Connection, wanted: Iterable[int]) -> Iterator[tuple[int, str, str]]:
    """Yield leaves with the references of what they published, and when."""
    artifact = tables.artifact
    columns = ("seq", "published", "kind", "project", "name")
    number = sa.func.coalesce(artifact.c.step, artifact.c.version, 0)
    for part in batches(sorted(wanted)):
        statement = sa.select(*(artifact.c[name] for name in columns)).where(
            artifact.c.seq.in_(part)
        )
        for row in conn.execute(statement.add_columns(number.label("number"))).all():
            yield (
                row.seq,
                reference_of(Kind(row.kind), row.project, row.name, row.number),
                row.published,
            )


def leaves_of(conn: Connection, project: str, artifacts: Iterable[str]) -> dict[str, int]:
    """Return the leaves that published artifacts, as far as these are of a project."""
    artifact = tables.artifact
    found: dict[str, int] = {}
    for part in batches(sorted(artifacts)):
        statement = sa.select(artifact.c.id, artifact.c.seq).where(
            artifact.c.id.in_(part), artifact.c.project == project
        )
        found.update((row[0], row[1]) for row in conn.execute(statement).all())
    return found


def _referrers(conn: Connection, project: str, known: dict[int, str]) -> dict[int, list[str]]:
    """Return the names of what was made from the artifacts of a project, by their leaves."""
    children = made_from(conn, project)
    missing = {leaf for found in children.values() for leaf in found} - known.keys()
    names = known | {leaf: name for leaf, name, _ in named(conn, missing)}
    return {parent: [names[leaf] for leaf in found] for parent, found in children.items()}
