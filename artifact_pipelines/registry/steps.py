"""Use cases as resumable steps.

A use case that changes more than one medium is a generator: it yields the label of each
step when that step is durable. Running it to the end is the use case; stopping it after
any label is a crash that the next caller must survive.
"""

from collections.abc import Generator
from typing import TypeVar

from artifact_pipelines.registry.observing import observed

T = TypeVar("T")

Steps = Generator[str, None, T]


def observed_steps(steps: Steps[T], work: str, **about: str | int | None) -> Steps[T]:
    """Take the steps of some work, and tell how long they took and how they ended."""
    with observed(work, **about):
        return (yield from steps)


def run(steps: Steps[T]) -> T:
    """Take every step and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
