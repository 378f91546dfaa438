"""System calls that fail, or that a process does not survive."""

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn
from unittest import mock

CALLS = ("open", "write", "fsync", "link", "rename", "mkdir", "unlink")
"""The calls of Python that change a disk, or decide what survives on it."""


@contextlib.contextmanager
def at_call(
    number: int, happen: Callable[[], object], calls: Sequence[str] = CALLS
) -> Iterator[list[str]]:
    """Let something happen instead of the call of a number; yield the names of all so far."""
    made: list[str] = []
    counter = itertools.count()

    def replaced(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> object:
            made.append(name)
            if next(counter) == number:
                happen()
            return real(*args, **options)

        return call

    with contextlib.ExitStack() as stack:
        for name in calls:
            stack.enter_context(mock.patch.object(os, name, replaced(name)))
        yield made


def failing(code: int) -> Callable[[], NoReturn]:
    """Return what makes a call fail with an error number."""

    def fail() -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def die() -> None:
    """End this process as the kernel or an operator would."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], object]) -> bool:
    """Do work in a child process, and return whether it came to its end.

    It has not when the child was killed; when it raised, this raises.
    """
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "the child raised"
    return True
