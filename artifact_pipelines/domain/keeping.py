"""What a project's policy says about keeping: which artifacts stay, and when the rest may go."""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from artifact_pipelines.domain import naming
from artifact_pipelines.domain.part import Count, Duration, Metric, Part, duration, written


class Action(StrEnum):
    """What becomes of an artifact."""

    KEEP = "keep"
    ARCHIVE = "archive"
    SLIM = "slim"
    FORGET = "forget"


NEVER: Final = timedelta.max
"""The age that nothing reaches: what a rule's `never` stands for."""

_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


def _size(value: object) -> int:
    """Return the number of bytes that a text writes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{16,30}", value):
        return int(value)  # beyond what a JSON number carries, so canonical JSON writes a text
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("expected a size such as 500MB, 20GB or 2TiB")
    return int(float(found[1]) * _BYTES[found[2]])


def _after(value: object) -> timedelta:
    """Return an age, where `never` is one that nothing reaches."""
    return NEVER if value in {"never", NEVER} else duration(value)


def _age(value: timedelta) -> str:
    return "never" if value == NEVER else written(value)


def _every(value: object) -> int | timedelta:
    """Return a number of steps or a time."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    found = duration(value) if isinstance(value, str | timedelta) else timedelta()
    if not found:
        raise ValueError("expected a number of steps such as 1000, or a time such as 6h")
    return found


def _told(value: int | timedelta) -> int | str:
    return value if isinstance(value, int) else written(value)


Size = Annotated[int, BeforeValidator(_size)]
After = Annotated[timedelta, BeforeValidator(_after), PlainSerializer(_age, return_type=str)]
Every = Annotated[
    Any,
    PlainValidator(_every),
    PlainSerializer(_told),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}),
]


class Best(Part):
    """How many of the best stay, by a metric that may be another than the project selects by."""

    count: int = Field(default=1, ge=0)
    metric: Metric | None = None
    mode: Literal["max", "min"] = "max"


def _best(value: object) -> Best:
    """Return what `best` asks for; a number alone is by the project's own metric."""
    if isinstance(value, Best):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Best(count=value)
    if isinstance(value, dict) and "metric" in value:
        return Best.model_validate(value)
    raise ValueError("expected a number, or a metric with its mode and count")


def _best_told(value: Best) -> int | dict[str, Any]:
    return value.count if value.metric is None else value.model_dump(exclude_defaults=True)


class Keep(Part):
    """What stays whatever its age, counted in each run, or for other kinds under each name.

    Attributes:
        last: How many of the highest steps or versions.
        best: How many of the best by a metric.
        every: One at each multiple of this many steps, or one in each stretch of this time.
        within: Those that are not older.
        final: The last checkpoint of a run that finished.
        hourly: The newest of each of so many hours that have one; the same for the next.
        daily: Of each day, in UTC.
        weekly: Of each ISO week.
        monthly: Of each month.
        yearly: Of each year.
    """

    last: int = Field(default=1, ge=0)
    best: Annotated[Any, PlainValidator(_best), PlainSerializer(_best_told)] = Best()
    every: Every | None = None
    within: Duration | None = None
    final: bool = False
    hourly: Count | None = None
    daily: Count | None = None
    weekly: Count | None = None
    monthly: Count | None = None
    yearly: Count | None = None


class Rule(Part):
    """Other terms for some artifacts: the first rule that fits one decides about it.

    A term that is left out is that of the policy; `never` undoes it.

    Attributes:
        kind: What it is about.
        stage: Only what this stage points at or pointed at, and the checkpoints behind it.
        tag: Only what carries a tag, written `name` or `name=value`.
        state: Only what passed every gate (`production-ready`), or only the rest (`interim`).
        older_than: Only what is older.
        younger_than: Only what is younger.
    """

    kind: Literal["checkpoint", "model", "dataset", "training_run"] = "checkpoint"
    stage: str | None = None
    tag: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    state: Literal["production-ready", "interim"] | None = None
    older_than: Duration | None = None
    younger_than: Duration | None = None
    keep: Keep | None = None
    archive_after: After | None = None
    slim_after: After | None = None
    forget_after: After | None = None
    max_bytes: Size | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        """Refuse a stage that cannot be, and a rule that changes nothing."""
        if self.stage is not None:
            naming.check_stage(self.stage)
        terms = (self.keep, self.archive_after, self.slim_after, self.forget_after, self.max_bytes)
        if all(term is None for term in terms):
            raise ValueError(
                "the rule changes nothing; give it keep, archive_after, slim_after, forget_after "
                "or max_bytes"
            )
        return self


class Tier(Part):
    """What bytes cost where they are; one currency for all.

    Attributes:
        storage: Of a gigabyte in a month.
        retrieval: Of a gigabyte that is read back.
        minimum: For how long is paid at least.
    """

    storage: Annotated[FiniteFloat, Field(ge=0.0)]
    retrieval: Annotated[FiniteFloat, Field(ge=0.0)] = 0.0
    minimum: Duration = timedelta()


class Costs(Part):
    """What the tiers cost, so that what would cost more is not archived.

    Attributes:
        hot: The tier in which bytes arrive.
        cold: The tier of the archive.
        reads: How often an archived artifact is expected to be restored.
        ratio: How many bytes the archive takes for one byte.
        horizon: How long an artifact stays that nothing forgets.
    """

    hot: Tier
    cold: Tier
    reads: Annotated[FiniteFloat, Field(ge=0.0)] = 0.1
    ratio: Annotated[FiniteFloat, Field(gt=0.0, le=1.0)] = 1.0
    horizon: Duration = timedelta(days=365)


class Limits(Part):
    """How much a plan may forget and still be approved by itself."""

    share: Annotated[FiniteFloat, Field(gt=0.0, le=1.0)] = 0.1
    artifacts: Count | None = None
    bytes: Size | None = None


class Retention(Part):
    """What is kept and when the rest may go.

    Attributes:
        keep: The checkpoints that stay in place.
        archive_after: The age at which other bytes move to the cold tier.
        slim_after: The age at which other checkpoints lose what only training needs.
        forget_after: The age at which the others go.
        max_bytes: What the checkpoints may have in all; the oldest that nothing keeps go first.
        rules: Other terms for some artifacts.
        costs: What the tiers cost.
        rollback: How many former models of a stage stay ready.
        max_share: The share of the items that one plan may forget.
        max_forget: The bytes that one plan may forget.
        automatic: What a plan may forget without a person's approval; nothing by default.
        plan_expires: The age at which a plan that was not applied no longer may be.
    """

    keep: Keep = Keep()
    archive_after: Duration | None = None
    slim_after: Duration | None = None
    forget_after: Duration | None = None
    max_bytes: Size | None = None
    rules: tuple[Rule, ...] = ()
    costs: Costs | None = None
    rollback: int = Field(default=2, ge=0, le=100)
    max_share: float = Field(default=0.9, gt=0.0, le=1.0, description="of all items in one plan")
    max_forget: Size | None = None
    automatic: Limits | None = None
    plan_expires: Duration = timedelta(days=14)
