"""What a backend is: named objects on some medium.

An object is written once and whole. When a method that writes returns, its bytes are
durable; when it raises, there is no object of that name or the earlier one.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from artifact_pipelines.errors import InvalidNameError

MAX_KEY = 512  # characters
TEMPORARY = "tmp"
"""Keys below it are kept for what a backend is still writing."""
KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class Writer(ABC):
    """An object that is being written, piece by piece."""

    @abstractmethod
    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""

    @abstractmethod
    def commit(self) -> None:
        """Make the object durable under its key.

        Raises:
            StoreError: It cannot be made durable, or there is an object of that key.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop what was written; does nothing after `commit`."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what was written unless it was committed."""
        self.abort()


class Backend(ABC):
    """Objects by key, on some medium.

    Attributes:
        url: The address that opens the same backend again.
    """

    url: str

    @abstractmethod
    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object, and return whether it was written.

        With `if_absent`, an object that is already there stays as it is, and is durable
        when this returns, whoever wrote it.
        """

    @abstractmethod
    def create(self, key: str, *, cold: bool = False) -> Writer:
        """Return a writer of a new object of any size.

        A cold one is seldom read: a backend that has a cheaper place for such may use it.
        """

    @abstractmethod
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them, cut where the object ends.

        Raises:
            MissingObjectError: There is no such object.
        """

    def read(self, key: str, start: int, length: int) -> memoryview:
        """Return a range of an object's bytes as `get` does, without a copy where that is saved."""
        return memoryview(self.get(key, start, length))

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return an object's length in bytes, or None when there is none."""

    @abstractmethod
    def age(self, key: str) -> float:
        """Return the seconds since an object was written.

        Raises:
            MissingObjectError: There is no such object.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, in order."""

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Delete an object, and return whether there was one."""

    @abstractmethod
    def sweep_temporaries(self, older_than: float) -> int:
        """Delete what dead writers left unfinished, and return how many objects that were.

        Args:
            older_than: The age in seconds above which something is left behind.
        """


def check_key(key: str) -> str:
    """Return a key that every backend can hold.

    Raises:
        InvalidNameError: It is no relative path of plain parts, or is kept for the backend.
    """
    if len(key) > MAX_KEY or KEY.fullmatch(key) is None or key.partition("/")[0] == TEMPORARY:
        raise InvalidNameError(f"{key[:MAX_KEY]!r} is not an object key.")
    return key
