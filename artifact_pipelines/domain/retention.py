"""Which artifacts may go. A pure function of records, policy and time; it gives its reasons."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from artifact_pipelines.domain.keeping import Keep, Retention
from artifact_pipelines.domain.policy import Select
from artifact_pipelines.domain.record import Kind


class Action(StrEnum):
    """What becomes of an artifact."""

    KEEP = "keep"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Item:
    """An artifact as the policy sees it.

    Attributes:
        id: The artifact id.
        kind: Its kind.
        run: The run of a checkpoint.
        step: The step of a checkpoint.
        published: When it was registered.
        metric: The value of the metric that the project selects by, or nothing.
        holds: Why it may not go, whatever the policy says.
    """

    id: str
    kind: Kind
    run: str | None
    step: int | None
    published: datetime
    metric: float | None
    holds: tuple[str, ...] = ()


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
    reasons: tuple[str, ...]


def plan(
    items: Sequence[Item], policy: Retention, select: Select | None, now: datetime
) -> list[Decision]:
    """Return a decision for every item, in the order of the items.

    Only checkpoints and models go; datasets and training runs always stay. A checkpoint
    stays while any rule keeps it, and a model while anything holds it.
    """
    kept: dict[str, list[str]] = {item.id: [] for item in items}
    runs: dict[str, list[Item]] = {}
    for item in items:
        if item.kind is Kind.CHECKPOINT:
            runs.setdefault(item.run or "", []).append(item)
    for checkpoints in runs.values():
        ordered = sorted(checkpoints, key=lambda item: (item.step or 0, item.published, item.id))
        for item, reason in _kept_of_run(ordered, policy.keep, select, now):
            kept[item.id].append(reason)
    return [_decide(item, kept[item.id], policy, now) for item in items]


def _decide(item: Item, kept: Sequence[str], policy: Retention, now: datetime) -> Decision:
    if item.holds:
        return Decision(item.id, Action.KEEP, "hold", item.holds)
    if item.kind not in {Kind.CHECKPOINT, Kind.MODEL}:
        return Decision(item.id, Action.KEEP, "kind", (f"every {item.kind} stays",))
    if kept:
        return Decision(item.id, Action.KEEP, "keep", tuple(kept))
    if policy.forget_after is None:
        return Decision(item.id, Action.KEEP, "forget_after", ("the policy forgets nothing",))
    if now - item.published < policy.forget_after:
        return Decision(item.id, Action.KEEP, "forget_after", ("it is not old enough to go",))
    reason = f"nothing keeps it and it is older than {policy.forget_after}"
    return Decision(item.id, Action.FORGET, "forget_after", (reason,))


def _kept_of_run(
    ordered: Sequence[Item], keep: Keep, select: Select | None, now: datetime
) -> Iterable[tuple[Item, str]]:
    """Yield the checkpoints of one run that a rule keeps, with the rule; by step, as numbers."""
    for item in ordered[max(0, len(ordered) - keep.last) :]:
        yield item, f"it is among the last {keep.last} of its run"
    if select is not None:
        for item in _best(ordered, keep.best, select):
            yield item, f"it is among the best {keep.best} of its run by {select.metric}"
    for item in ordered:
        if keep.every is not None and (item.step or 0) % keep.every == 0:
            yield item, f"its step is a multiple of {keep.every}"
        if keep.within is not None and now - item.published <= keep.within:
            yield item, f"it is younger than {keep.within}"
    for name, period in _PERIODS.items():
        wanted = getattr(keep, name)
        if wanted is not None:
            for item in _newest(ordered, wanted, period):
                yield item, f"it is the newest of one of the last {wanted} {name} periods"


def _best(ordered: Sequence[Item], wanted: int, select: Select) -> list[Item]:
    """Return the best by the metric; of equals the later, and no value that is not finite."""
    sign = -1.0 if select.mode == "max" else 1.0
    measured = [
        (sign * item.metric, -place, item)
        for place, item in enumerate(ordered)
        if item.metric is not None and math.isfinite(item.metric)
    ]
    return [item for _, _, item in sorted(measured, key=lambda found: found[:2])[:wanted]]


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
