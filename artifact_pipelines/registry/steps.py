"""Use cases as resumable steps.

A use case that changes more than one medium is a generator: it yields the label of each
step when that step is durable. Running it to the end is the use case; stopping it after
any label is a crash that the next caller must survive.
"""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[str, None, T]


def run(steps: Steps[T]) -> T:
    """Take every step and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
