"""Which artifacts may go, decided item by item: a second and slower account for the tests."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

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
from artifact_pipelines.domain.retention import Decision, Item

GIGABYTE: Final = 10**9
MONTH: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the policy says about one artifact, with the rule that says it.

    Attributes:
        number: The number of the rule, or nothing for the policy's own terms.
    """

    number: int | None
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
    """Return a decision for every item, in the order of the items.

    Checkpoints and models go; datasets and training runs only where a rule is about their
    kind. What a hold or a keep rule keeps stays as it is; the rest is archived, slimmed and
    forgotten as it grows older.
    """
    terms = [_terms(item, policy, now) for item in items]
    kept = _kept(items, terms, select, now)
    decided = [
        _decide(item, term, kept.get(item.id, ()), policy.costs, now)
        for item, term in zip(items, terms, strict=True)
    ]
    return _within_bytes(items, terms, decided)


def costs(item: Item, prices: Costs, left: timedelta | None) -> tuple[float, float]:
    """Return what an item costs where it is and in the archive, for the time it has left."""
    remaining = max(prices.horizon if left is None else left, timedelta())
    size = item.size / GIGABYTE
    hot = size * prices.hot.storage * (remaining / MONTH)
    cold = size * prices.ratio * prices.cold.storage * (max(remaining, prices.cold.minimum) / MONTH)
    return hot, cold + size * prices.ratio * prices.cold.retrieval * prices.reads


def _terms(item: Item, policy: Retention, now: datetime) -> _Terms | None:
    """Return the terms of the first rule that fits, of the policy, or nothing."""
    for number, rule in enumerate(policy.rules):
        if _fits(rule, item, now):
            return _Terms(
                number,
                policy.keep if rule.keep is None and item.kind is Kind.CHECKPOINT else rule.keep,
                _either(rule.archive_after, policy.archive_after),
                _either(rule.slim_after, policy.slim_after),
                _either(rule.forget_after, policy.forget_after),
                rule.max_bytes,
            )
    if item.kind not in {Kind.CHECKPOINT, Kind.MODEL}:
        return None
    return _Terms(
        None,
        policy.keep if item.kind is Kind.CHECKPOINT else None,
        policy.archive_after,
        policy.slim_after,
        policy.forget_after,
        policy.max_bytes if item.kind is Kind.CHECKPOINT else None,
    )


def _either(term: timedelta | None, otherwise: timedelta | None) -> timedelta | None:
    return otherwise if term is None else None if term == NEVER else term


def _fits(rule: Rule, item: Item, now: datetime) -> bool:
    age = now - item.published
    name, _, value = (rule.tag or "").partition("=")
    return (
        item.kind == rule.kind
        and (rule.stage is None or rule.stage in item.stages)
        and (rule.tag is None or (name in item.tags and value in {"", item.tags[name]}))
        and (rule.state is None or item.ready == (rule.state == "production-ready"))
        and (rule.older_than is None or age > rule.older_than)
        and (rule.younger_than is None or age < rule.younger_than)
    )


def _kept(
    items: Sequence[Item], terms: Sequence[_Terms | None], select: Select | None, now: datetime
) -> dict[str, list[str]]:
    """Return why items are kept, by id; each is counted in the whole of its group."""
    groups: dict[tuple[Kind, str], list[tuple[Item, _Terms | None]]] = {}
    for item, term in zip(items, terms, strict=True):
        groups.setdefault((item.kind, item.group or ""), []).append((item, term))
    found: dict[str, list[str]] = {}
    for members in groups.values():
        members.sort(key=lambda pair: (pair[0].number or 0, pair[0].published, pair[0].id))
        ordered = [item for item, _ in members]
        keeps = {term.keep: None for _, term in members if term is not None and term.keep}
        for keep in keeps:
            under = {item.id for item, term in members if term is not None and term.keep == keep}
            for item, reason in _kept_of_group(ordered, keep, select, now):
                if item.id in under:
                    found.setdefault(item.id, []).append(reason)
    return found


def _decide(
    item: Item, terms: _Terms | None, kept: Sequence[str], prices: Costs | None, now: datetime
) -> Decision:
    if item.holds:
        return Decision(item.id, Action.KEEP, "hold", item.holds)
    if terms is None:
        return Decision(item.id, Action.KEEP, "kind", (f"every {item.kind} stays",))
    if kept:
        return Decision(item.id, Action.KEEP, terms.named("keep"), tuple(kept))
    return _aged(item, terms, prices, now - item.published)


def _aged(item: Item, terms: _Terms, prices: Costs | None, age: timedelta) -> Decision:
    """Return what becomes of an item that nothing keeps, by its age."""
    if terms.forget_after is not None and age >= terms.forget_after:
        why = f"nothing keeps it and it is older than {written(terms.forget_after)}"
        return Decision(item.id, Action.FORGET, terms.named("forget_after"), (why,))
    if terms.slim_after is not None and age >= terms.slim_after and item.training_bytes:
        limit = written(terms.slim_after)
        why = f"nothing keeps what only training needs and it is older than {limit}"
        return Decision(item.id, Action.SLIM, terms.named("slim_after"), (why,))
    if terms.archive_after is not None and age >= terms.archive_after and not item.archived:
        return _archived(item, terms, prices, age)
    never = terms.forget_after is None
    why = "the policy forgets nothing" if never else "it is not old enough to go"
    return Decision(item.id, Action.KEEP, terms.named("forget_after"), (why,))


def _archived(item: Item, terms: _Terms, prices: Costs | None, age: timedelta) -> Decision:
    """Return that an item moves to the archive, unless it would cost more there."""
    limit = written(terms.archive_after or timedelta())
    reasons = [f"nothing needs it at hand and it is older than {limit}"]
    if prices is not None:
        left = None if terms.forget_after is None else terms.forget_after - age
        hot, cold = costs(item, prices, left)
        if cold >= hot:
            why = f"it would cost {cold:.4g} in the archive and costs {hot:.4g} where it is"
            return Decision(item.id, Action.KEEP, "costs", (why,))
        reasons.append(f"it costs {cold:.4g} in the archive and {hot:.4g} where it is")
    return Decision(item.id, Action.ARCHIVE, terms.named("archive_after"), tuple(reasons))


def _within_bytes(
    items: Sequence[Item], terms: Sequence[_Terms | None], decided: list[Decision]
) -> list[Decision]:
    """Forget the oldest that nothing keeps, where what stays has more bytes than it may."""
    limits: dict[_Terms, list[int]] = {}
    for place, term in enumerate(terms):
        if term is not None and term.max_bytes is not None:
            limits.setdefault(term, []).append(place)
    for term, places in limits.items():
        total = sum(items[place].size for place in places if decided[place].action != Action.FORGET)
        limit = term.max_bytes or 0
        for place in sorted(places, key=lambda place: (items[place].published, items[place].id)):
            if total <= limit:
                break
            if decided[place].action == Action.FORGET or _is_kept(decided[place]):
                continue
            why = f"nothing keeps it and it is the oldest where {total} bytes exceed {limit}"
            decided[place] = Decision(
                items[place].id, Action.FORGET, term.named("max_bytes"), (why,)
            )
            total -= items[place].size
    return decided


def _is_kept(decision: Decision) -> bool:
    """Return whether a hold or a keep rule decided, and not merely the age."""
    return decision.rule in {"hold", "kind"} or decision.rule.endswith("keep")


def _kept_of_group(
    ordered: Sequence[Item], keep: Keep, select: Select | None, now: datetime
) -> Iterable[tuple[Item, str]]:
    """Yield the items of one group that a rule keeps, with the rule; by number, as numbers."""
    group = "run" if ordered[0].kind is Kind.CHECKPOINT else "name"
    for item in ordered[max(0, len(ordered) - keep.last) :]:
        yield item, f"it is among the last {keep.last} of its {group}"
    best: Best = keep.best
    metric = best.metric or (select.metric if select is not None else None)
    if metric is not None:
        mode = best.mode if best.metric or select is None else select.mode
        for item in _best(ordered, best.count, metric, mode):
            yield item, f"it is among the best {best.count} of its {group} by {metric}"
    if keep.final:
        for item in ordered:
            if item.final:
                yield item, "it is the final one of a finished run"
    yield from _regular(ordered, keep)
    yield from _recent(ordered, keep, now)


def _regular(ordered: Sequence[Item], keep: Keep) -> Iterable[tuple[Item, str]]:
    """Yield the items at a distance in steps or in time from one another."""
    if isinstance(keep.every, timedelta):
        for item in _spaced(ordered, keep.every):
            yield item, f"it is the first one after {written(keep.every)}"
    elif keep.every is not None:
        for item in ordered:
            if (item.number or 0) % keep.every == 0:
                yield item, f"its step is a multiple of {keep.every}"


def _recent(ordered: Sequence[Item], keep: Keep, now: datetime) -> Iterable[tuple[Item, str]]:
    """Yield the items that are young, or the newest of a period."""
    if keep.within is not None:
        for item in ordered:
            if now - item.published <= keep.within:
                yield item, f"it is younger than {written(keep.within)}"
    for name, period in _PERIODS.items():
        wanted = getattr(keep, name)
        if wanted is not None:
            for item in _newest(ordered, wanted, period):
                yield item, f"it is the newest of one of the last {wanted} {name} periods"


def _best(ordered: Sequence[Item], wanted: int, metric: str, mode: str) -> list[Item]:
    """Return the best by the metric; of equals the later, and no value that is not finite."""
    sign = -1.0 if mode == "max" else 1.0
    measured = [
        (sign * item.metrics[metric], -place, item)
        for place, item in enumerate(ordered)
        if math.isfinite(item.metrics.get(metric, math.nan))
    ]
    return [item for _, _, item in sorted(measured, key=lambda found: found[:2])[:wanted]]


def _spaced(ordered: Sequence[Item], interval: timedelta) -> Iterable[Item]:
    """Yield the first item, and each next one that is so much younger than the one before."""
    last: datetime | None = None
    for item in sorted(ordered, key=lambda item: (item.published, item.id)):
        if last is None or item.published - last >= interval:
            last = item.published
            yield item


def _newest(
    ordered: Sequence[Item], wanted: int, period: Callable[[datetime], tuple[int, ...]]
) -> list[Item]:
    """Return the newest item of each of the last periods that have one."""
    found: dict[tuple[int, ...], Item] = {}
    for item in ordered:
        key = period(item.published.astimezone(UTC))
        if key not in found or item.published >= found[key].published:
            found[key] = item
    return [found[key] for key in sorted(found, reverse=True)[:wanted]]


_PERIODS: Mapping[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda time: (time.year, time.month, time.day, time.hour),
    "daily": lambda time: (time.year, time.month, time.day),
    "weekly": lambda time: tuple(time.isocalendar()[:2]),
    "monthly": lambda time: (time.year, time.month),
    "yearly": lambda time: (time.year,),
}
