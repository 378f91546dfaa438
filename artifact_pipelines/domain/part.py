"""What the parts of a policy document are made of."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(value: object) -> timedelta:
    """Return the duration that a text writes."""
    if isinstance(value, timedelta) and value >= timedelta():
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("expected a duration such as 12h, 30d or 4w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def written(value: timedelta) -> str:
    """Return a duration in the largest unit that divides it."""
    seconds = int(value.total_seconds())
    for unit, name in reversed(_UNITS.items()):
        whole = int(timedelta(**{name: 1}).total_seconds())
        if seconds and seconds % whole == 0:
            return f"{seconds // whole}{unit}"
    return "0s"


Duration = Annotated[
    timedelta, BeforeValidator(duration), PlainSerializer(written, return_type=str)
]

Metric = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}$")]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """A part of a policy: it takes no field that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
