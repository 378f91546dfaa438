"""What a project's policy says about keeping: which artifacts stay, and when the rest may go."""

from pydantic import Field

from artifact_pipelines.domain.part import Count, Duration, Part


class Keep(Part):
    """The checkpoints of a run that stay whatever their age.

    Attributes:
        last: How many of the highest steps.
        best: How many of the best by the metric that the project selects by.
        every: One at each multiple of this many steps.
        within: Those that are not older.
        hourly: The newest of each of so many hours that have one; the same for the next.
        daily: Of each day, in UTC.
        weekly: Of each ISO week.
        monthly: Of each month.
        yearly: Of each year.
    """

    last: int = Field(default=1, ge=0)
    best: int = Field(default=1, ge=0)
    every: Count | None = None
    within: Duration | None = None
    hourly: Count | None = None
    daily: Count | None = None
    weekly: Count | None = None
    monthly: Count | None = None
    yearly: Count | None = None


class Retention(Part):
    """What is kept and when the rest may go."""

    keep: Keep = Keep()
    forget_after: Duration | None = None
    max_share: float = Field(default=0.9, gt=0.0, le=1.0, description="of all items in one plan")
