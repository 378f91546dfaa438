"""Which artifacts may go. A pure function of records, policy and time; it gives its reasons.

A project may have a million artifacts, so each thing that a policy asks about them is one
column, and each term is decided for all of them at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from artifact_pipelines.domain.keeping import (
    NEVER,
    Action,
    Best,
    Costs,
    Keep,
    Retention,
    Rule,
)
from artifact_pipelines.domain.part import written
from artifact_pipelines.domain.policy import Select
from artifact_pipelines.domain.record import Kind

GIGABYTE: Final = 10**9
MONTH: Final = timedelta(days=30)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_HOUR: Final = 3_600_000_000
_DAY: Final = 24 * _HOUR
_MONDAY: Final = 3  # 1970 began on a Thursday

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Reasons = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """An artifact as the policy sees it.

    Attributes:
        id: The artifact id.
        kind: Its kind.
        group: What it is counted in: the run of a checkpoint, the name of another kind.
        number: The step of a checkpoint, the version of another kind.
        published: When it was registered.
        metrics: What was measured of it.
        holds: Why it may not go, whatever the policy says.
        size: Its bytes that are still there.
        training_bytes: Those of them that only training needs.
        archived: Whether its bytes are in the cold tier.
        final: Whether it is the last checkpoint of a run that finished.
        ready: Whether it passed every gate, or a model made from it did.
        stages: The stages that point or pointed at it, or at a model made from it.
        tags: Its tags.
    """

    id: str
    kind: Kind
    group: str | None
    number: int | None
    published: datetime
    metrics: Mapping[str, float] = field(default_factory=dict)
    holds: tuple[str, ...] = ()
    size: int = 0
    training_bytes: int = 0
    archived: bool = False
    final: bool = False
    ready: bool = False
    stages: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an artifact, and why.

    Attributes:
        id: The artifact id.
        action: Whether it stays.
        rule: The name of the rule that decided.
        reasons: Why, one phrase each.
    """

    id: str
    action: Action
    rule: str
    reasons: Reasons


@dataclass(frozen=True, slots=True)
class Columns:
    """Artifacts as the policy sees them, a column for each thing that it asks.

    The members of a group stand together, in the order of their numbers; of equal numbers the
    one that was registered later stands later.

    Attributes:
        kinds: The kind of each group.
        starts: Where each group begins.
        number: The step of a checkpoint, the version of another kind.
        order: The order in which they were registered, as numbers.
        at: When they were registered, in microseconds since 1970.
        size: Their bytes that are still there.
        training: Those of them that only training needs.
        archived: Whether their bytes are in the cold tier.
        final: Whether they are the last checkpoints of runs that finished.
        ready: Whether they passed every gate, or a model made from them did.
        held: Why some may not go, whatever the policy says, by place.
        metrics: What was measured of them, by name; not finite where nothing was.
        stages: Whether a stage points or pointed at them, or at models made from them.
        tags: Whether they carry a tag, by the text that a rule names it with.
    """

    kinds: tuple[Kind, ...]
    starts: Ints
    number: Ints
    order: Ints
    at: Ints
    size: Ints
    training: Ints
    archived: Mask
    final: Mask
    ready: Mask
    held: Mapping[int, Reasons] = field(default_factory=dict)
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    stages: Mapping[str, Mask] = field(default_factory=dict)
    tags: Mapping[str, Mask] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return how many artifacts they are about."""
        return len(self.at)

    def lengths(self) -> Ints:
        """Return how many members each group has."""
        return np.diff(np.append(self.starts, len(self)))

    def each(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what is said of groups, said of each of their members."""
        return np.repeat(values, self.lengths())

    def taken(self, wanted: Mask, final: Mask, held: Mapping[int, Reasons]) -> Self:
        """Return some of the artifacts, with what is said of those, by their new places."""
        groups = self.each(np.arange(len(self.starts)))[wanted]
        there, starts = np.unique(groups, return_index=True)
        return type(self)(
            tuple(self.kinds[group] for group in there.tolist()),
            starts,
            number=self.number[wanted],
            order=self.order[wanted],
            at=self.at[wanted],
            size=self.size[wanted],
            training=self.training[wanted],
            archived=self.archived[wanted],
            final=final,
            ready=self.ready[wanted],
            held=held,
            metrics={name: column[wanted] for name, column in self.metrics.items()},
            stages={stage: mask[wanted] for stage, mask in self.stages.items()},
            tags={tag: mask[wanted] for tag, mask in self.tags.items()},
        )

    def of_kind(self, kind: Kind) -> Mask:
        """Return which are of a kind."""
        found: Mask = self.each(np.array([one is kind for one in self.kinds], dtype=bool))
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule does with the artifacts that it decides about.

    Attributes:
        action: What becomes of them.
        rule: The name of the rule.
        why: Return the reasons for the artifact at a place.
    """

    action: Action
    rule: str
    why: Callable[[int], Reasons]


@dataclass(frozen=True, slots=True)
class Decided:
    """What becomes of artifacts, in the order of their columns.

    Attributes:
        outcomes: What was decided of some artifact.
        chosen: Which of the outcomes is each one's.
    """

    outcomes: Sequence[Outcome]
    chosen: Ints

    def outcome(self, place: int) -> Outcome:
        """Return what was decided of the artifact at a place."""
        return self.outcomes[int(self.chosen[place])]

    def where(self, *actions: Action) -> Mask:
        """Return of which artifacts one of some actions was decided."""
        found: Mask = np.array([one.action in actions for one in self.outcomes])[self.chosen]
        return found


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the policy says about some artifacts, with the rule that says it.

    Attributes:
        number: The number of the rule, or nothing for the policy's own terms.
        kind: The kind that it is about.
        about: The artifacts that it is about.
    """

    number: int | None
    kind: Kind
    about: Mask
    keep: Keep | None
    archive_after: timedelta | None
    slim_after: timedelta | None
    forget_after: timedelta | None
    max_bytes: int | None

    def named(self, term: str) -> str:
        """Return a term's name, with its rule's where a rule says it."""
        return term if self.number is None else f"rules[{self.number}].{term}"


def plan(
    items: Sequence[Item], policy: Retention, select: Select | None, now: datetime
) -> list[Decision]:
    """Return a decision for every item, in the order of the items."""
    places = sorted(
        range(len(items)),
        key=lambda place: (
            items[place].kind,
            items[place].group or "",
            items[place].number or 0,
            items[place].published,
            items[place].id,
        ),
    )
    columns = _columns([items[place] for place in places], policy, select)
    decided = decide(columns, policy, select, now)
    found: dict[int, Decision] = {}
    for at, place in enumerate(places):
        outcome = decided.outcome(at)
        found[place] = Decision(items[place].id, outcome.action, outcome.rule, outcome.why(at))
    return [found[place] for place in range(len(items))]


def decide(columns: Columns, policy: Retention, select: Select | None, now: datetime) -> Decided:
    """Return what becomes of artifacts.

    Checkpoints and models go; datasets and training runs only where a rule is about their
    kind. What a hold or a keep rule keeps stays as it is; the rest is archived, slimmed and
    forgotten as it grows older.
    """
    outcomes: list[Outcome] = []
    chosen = np.full(len(columns), -1)

    def say(about: Mask, outcome: Outcome) -> Mask:
        """Decide about those that nothing has decided about yet; return which they were."""
        mine: Mask = about & (chosen < 0)
        chosen[mine] = len(outcomes)
        outcomes.append(outcome)
        return mine

    held = np.zeros(len(columns), dtype=bool)
    held[list(columns.held)] = True
    say(held, Outcome(Action.KEEP, "hold", lambda place: columns.held[place]))
    today = microseconds(now)
    terms = _terms(columns, policy, today)
    firm = held | ~np.logical_or.reduce([term.about for term in terms])
    for term in terms:
        kept = _kept(columns, term, select, today)
        if kept:
            every = np.logical_or.reduce([mask for mask, _ in kept])
            firm |= say(term.about & every, _keeping(term, kept))
        for about, outcome in _aged(columns, term, policy.costs, today):
            say(term.about & about, outcome)
    for kind in Kind:
        stays = Outcome(Action.KEEP, "kind", _always(f"every {kind} stays"))
        say(columns.of_kind(kind), stays)
    for term in terms:
        if term.max_bytes is not None:
            decided = Decided(outcomes, chosen)
            more, outcome = _over(columns, term, term.about & ~decided.where(Action.FORGET), firm)
            chosen[more] = len(outcomes)
            outcomes.append(outcome)
    return Decided(outcomes, chosen)


def microseconds(at: datetime) -> int:
    """Return a time in microseconds since 1970."""
    return (at - EPOCH) // _MICROSECOND


def asked(policy: Retention, select: Select | None) -> set[str]:
    """Return the names of the metrics that a policy ranks by."""
    keeps = [policy.keep, *(rule.keep for rule in policy.rules)]
    names = {keep.best.metric for keep in keeps if keep is not None}
    names.add(None if select is None else select.metric)
    return {name for name in names if name}


def _columns(items: Sequence[Item], policy: Retention, select: Select | None) -> Columns:
    """Return items that stand in order as columns."""
    keys = [(item.kind, item.group or "") for item in items]
    begins = [place for place, key in enumerate(keys) if not place or keys[place - 1] != key]
    order = np.empty(len(items), dtype=np.int64)
    registered = sorted(
        range(len(items)), key=lambda place: (items[place].published, items[place].id)
    )
    order[registered] = np.arange(len(items))

    def column(of: Callable[[Item], Any], kind: type) -> NDArray[Any]:
        return np.array([of(item) for item in items], dtype=kind)

    return Columns(
        tuple(keys[place][0] for place in begins),
        np.array(begins, dtype=np.int64),
        column(lambda item: item.number or 0, np.int64),
        order,
        column(lambda item: microseconds(item.published), np.int64),
        column(lambda item: item.size, np.int64),
        column(lambda item: item.training_bytes, np.int64),
        column(lambda item: item.archived, np.bool_),
        column(lambda item: item.final, np.bool_),
        column(lambda item: item.ready, np.bool_),
        {place: item.holds for place, item in enumerate(items) if item.holds},
        {
            name: column(lambda item, name=name: item.metrics.get(name, np.nan), np.float64)  # type: ignore[misc]
            for name in asked(policy, select)
        },
        {
            stage: column(lambda item, stage=stage: stage in item.stages, np.bool_)  # type: ignore[misc]
            for stage in {rule.stage for rule in policy.rules if rule.stage is not None}
        },
        {
            tag: column(lambda item, tag=tag: tagged(item.tags, tag), np.bool_)  # type: ignore[misc]
            for tag in {rule.tag for rule in policy.rules if rule.tag is not None}
        },
    )


def tagged(tags: Mapping[str, str], wanted: str) -> bool:
    """Return whether something carries the tag that a rule names, as `name` or `name=value`."""
    name, _, value = wanted.partition("=")
    return name in tags and value in {"", tags[name]}


def costs(size: Ints, prices: Costs, left: Ints | None) -> tuple[Floats, Floats]:
    """Return what bytes cost where they are and in the archive, for the time they have left.

    Args:
        size: The bytes of each artifact.
        prices: What the tiers cost.
        left: The microseconds until each is forgotten; nothing where it never is.
    """
    horizon = np.full(len(size), prices.horizon // _MICROSECOND)
    remaining = horizon if left is None else np.maximum(left, 0)
    held, month = size / GIGABYTE, MONTH // _MICROSECOND
    paid = np.maximum(remaining, prices.cold.minimum // _MICROSECOND)
    hot: Floats = held * prices.hot.storage * (remaining / month)
    cold: Floats = held * prices.ratio * prices.cold.storage * (paid / month)
    return hot, cold + held * prices.ratio * prices.cold.retrieval * prices.reads


def _terms(columns: Columns, policy: Retention, today: int) -> list[_Terms]:
    """Return what each rule says of what it is the first to fit, and the policy of the rest."""
    found = []
    left = np.ones(len(columns), dtype=bool)
    for number, rule in enumerate(policy.rules):
        about = left & _fitting(columns, rule, today)
        left &= ~about
        kind = Kind(rule.kind)
        keep = policy.keep if rule.keep is None and kind is Kind.CHECKPOINT else rule.keep
        archive = _either(rule.archive_after, policy.archive_after)
        slim = _either(rule.slim_after, policy.slim_after)
        forget = _either(rule.forget_after, policy.forget_after)
        found.append(_Terms(number, kind, about, keep, archive, slim, forget, rule.max_bytes))
    own = (policy.archive_after, policy.slim_after, policy.forget_after)
    checkpoints, models = (left & columns.of_kind(one) for one in (Kind.CHECKPOINT, Kind.MODEL))
    found.append(_Terms(None, Kind.CHECKPOINT, checkpoints, policy.keep, *own, policy.max_bytes))
    found.append(_Terms(None, Kind.MODEL, models, None, *own, None))
    return found


def _either(term: timedelta | None, otherwise: timedelta | None) -> timedelta | None:
    return otherwise if term is None else None if term == NEVER else term


def _fitting(columns: Columns, rule: Rule, today: int) -> Mask:
    """Return which artifacts a rule fits."""
    fits = columns.of_kind(Kind(rule.kind))
    if rule.stage is not None:
        fits = fits & columns.stages[rule.stage]
    if rule.tag is not None:
        fits = fits & columns.tags[rule.tag]
    if rule.state is not None:
        fits = fits & (columns.ready == (rule.state == "production-ready"))
    age = today - columns.at
    if rule.older_than is not None:
        fits = fits & (age > rule.older_than // _MICROSECOND)
    if rule.younger_than is not None:
        fits = fits & (age < rule.younger_than // _MICROSECOND)
    return fits


def _always(*reasons: str) -> Callable[[int], Reasons]:
    return lambda _place: reasons


def _keeping(term: _Terms, kept: Sequence[tuple[Mask, str]]) -> Outcome:
    def why(place: int) -> Reasons:
        return tuple(reason for mask, reason in kept if mask[place])

    return Outcome(Action.KEEP, term.named("keep"), why)


def _aged(
    columns: Columns, term: _Terms, prices: Costs | None, today: int
) -> Iterator[tuple[Mask, Outcome]]:
    """Yield what becomes of what nothing keeps, by its age; the first that fits decides."""
    age = today - columns.at
    forget, slim, archive = term.forget_after, term.slim_after, term.archive_after
    if forget is not None:
        why = f"nothing keeps it and it is older than {written(forget)}"
        outcome = Outcome(Action.FORGET, term.named("forget_after"), _always(why))
        yield age >= forget // _MICROSECOND, outcome
    if slim is not None:
        why = f"nothing keeps what only training needs and it is older than {written(slim)}"
        outcome = Outcome(Action.SLIM, term.named("slim_after"), _always(why))
        yield (age >= slim // _MICROSECOND) & (columns.training > 0), outcome
    if archive is not None:
        yield from _archived(columns, term, archive, prices, today)
    why = "the policy forgets nothing" if forget is None else "it is not old enough to go"
    everything = np.ones(len(columns), dtype=bool)
    yield everything, Outcome(Action.KEEP, term.named("forget_after"), _always(why))


def _archived(
    columns: Columns, term: _Terms, after: timedelta, prices: Costs | None, today: int
) -> Iterator[tuple[Mask, Outcome]]:
    """Yield what moves to the archive, and before it what would cost more there."""
    due = (today - columns.at >= after // _MICROSECOND) & ~columns.archived
    why = f"nothing needs it at hand and it is older than {written(after)}"
    if prices is None:
        yield due, Outcome(Action.ARCHIVE, term.named("archive_after"), _always(why))
        return

    forget, age = term.forget_after, today - columns.at
    left = None if forget is None else forget // _MICROSECOND - age
    hot, cold = costs(columns.size, prices, left)

    def stays(place: int) -> Reasons:
        here, there = hot[place], cold[place]
        return (f"it would cost {there:.4g} in the archive and costs {here:.4g} where it is",)

    def moves(place: int) -> Reasons:
        return (why, f"it costs {cold[place]:.4g} in the archive and {hot[place]:.4g} where it is")

    yield due & (cold >= hot), Outcome(Action.KEEP, "costs", stays)
    yield due, Outcome(Action.ARCHIVE, term.named("archive_after"), moves)


def _over(columns: Columns, term: _Terms, there: Mask, firm: Mask) -> tuple[Ints, Outcome]:
    """Return the oldest that nothing keeps, as far as what is there has too many bytes."""
    limit = term.max_bytes or 0
    loose = np.flatnonzero(there & ~firm)
    loose = loose[np.argsort(columns.order[loose])]
    sizes = columns.size[loose]
    before = int(columns.size[there].sum()) - (np.cumsum(sizes) - sizes)
    going = loose[before > limit]
    totals = dict(zip(going.tolist(), before.tolist(), strict=False))

    def why(place: int) -> Reasons:
        total = totals[place]
        return (f"nothing keeps it and it is the oldest where {total} bytes exceed {limit}",)

    return going, Outcome(Action.FORGET, term.named("max_bytes"), why)


def _kept(
    columns: Columns, term: _Terms, select: Select | None, today: int
) -> list[tuple[Mask, str]]:
    """Return what a term keeps, with the reason; each is counted in the whole of its group."""
    keep = term.keep
    if keep is None or not term.about.any():
        return []
    group = "run" if term.kind is Kind.CHECKPOINT else "name"
    found = [(_last(columns, keep.last), f"it is among the last {keep.last} of its {group}")]
    best: Best = keep.best
    metric = best.metric or (select.metric if select is not None else None)
    if metric is not None:
        mode = best.mode if best.metric or select is None else select.mode
        mask = _best(columns, best.count, columns.metrics[metric], mode)
        found.append((mask, f"it is among the best {best.count} of its {group} by {metric}"))
    if keep.final:
        found.append((columns.final, "it is the final one of a finished run"))
    if isinstance(keep.every, timedelta):
        mask = _spaced(columns, keep.every)
        found.append((mask, f"it is the first one after {written(keep.every)}"))
    elif keep.every is not None:
        mask = columns.number % keep.every == 0
        found.append((mask, f"its step is a multiple of {keep.every}"))
    if keep.within is not None:
        mask = today - columns.at <= keep.within // _MICROSECOND
        found.append((mask, f"it is younger than {written(keep.within)}"))
    for name, period in _PERIODS.items():
        wanted = getattr(keep, name)
        if wanted is not None:
            mask = _newest(columns, wanted, period(columns.at))
            found.append((mask, f"it is the newest of one of the last {wanted} {name} periods"))
    return found


def _last(columns: Columns, wanted: int) -> Mask:
    """Return the last members of every group."""
    ends = columns.each(columns.starts + columns.lengths())
    found: Mask = ends - np.arange(len(columns)) <= wanted
    return found


def _best(columns: Columns, wanted: int, values: Floats, mode: str) -> Mask:
    """Return the best by a metric; of equals the later, and no value that is not finite."""
    found = np.zeros(len(columns), dtype=bool)
    left = np.where(np.isfinite(values), values if mode == "max" else -values, -np.inf)
    places = np.arange(len(columns))
    for _ in range(min(wanted, int(columns.lengths().max()))):
        top = columns.each(np.maximum.reduceat(left, columns.starts))
        tied = (left == top) & (left > -np.inf)
        winners = np.maximum.reduceat(np.where(tied, places, -1), columns.starts)
        winners = winners[winners >= 0]
        if not len(winners):
            break
        found[winners] = True
        left[winners] = -np.inf
    return found


def _spaced(columns: Columns, interval: timedelta) -> Mask:
    """Return the first of each group, and each that is so much younger than the one before."""
    found = np.zeros(len(columns), dtype=bool)
    step = interval // _MICROSECOND
    for start, end in pairwise((*columns.starts.tolist(), len(columns))):
        places = start + np.argsort(columns.order[start:end])
        times = columns.at[places]
        at = 0
        while at < len(times):
            found[places[at]] = True
            at = int(np.searchsorted(times, times[at] + step))
    return found


def _newest(columns: Columns, wanted: int, period: Ints) -> Mask:
    """Return the newest of each of the last periods of a group that have one."""
    group = columns.each(np.arange(len(columns.starts)))
    # Of those registered at the same time the last in its group counts as the newest.
    order = np.lexsort((np.arange(len(columns)), columns.at, period, group))
    of, when = group[order], period[order]
    newest = np.append((of[1:] != of[:-1]) | (when[1:] != when[:-1]), True)
    places, of = order[newest], of[newest]
    last = np.append(of[1:] != of[:-1], True)
    ends = np.flatnonzero(last)
    from_end = ends[np.searchsorted(ends, np.arange(len(of)))] - np.arange(len(of))
    found = np.zeros(len(columns), dtype=bool)
    found[places[from_end < wanted]] = True
    return found


def _calendar(unit: str) -> Callable[[Ints], Ints]:
    def period(at: Ints) -> Ints:
        found: Ints = at.astype("M8[us]").astype(f"M8[{unit}]").astype(np.int64)
        return found

    return period


_PERIODS: Mapping[str, Callable[[Ints], Ints]] = {
    "hourly": lambda at: at // _HOUR,
    "daily": lambda at: at // _DAY,
    "weekly": lambda at: (at // _DAY + _MONDAY) // 7,
    "monthly": _calendar("M"),
    "yearly": _calendar("Y"),
}
