"""Objects in a dictionary: a backend for tests."""

import threading
import time
from collections.abc import Iterator

from artifact_pipelines.errors import MissingObjectError, StoreError
from artifact_pipelines.store.backend import Backend, Writer, check_key


class MemoryBackend(Backend):
    """Objects in this process's memory."""

    _named: "dict[str, MemoryBackend]" = {}  # noqa: RUF012  the registry behind memory:// URLs

    def __init__(self, name: str = "") -> None:
        """Begin with no objects."""
        self.url = f"memory://{name}"
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    @classmethod
    def named(cls, name: str) -> "MemoryBackend":
        """Return this process's backend of a name."""
        return cls._named.setdefault(name, cls(name))

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object, and return whether it was written."""
        check_key(key)
        with self._lock:
            if if_absent and key in self._objects:
                return False
            self._objects[key] = (bytes(data), time.monotonic())
            return True

    def create(self, key: str, *, cold: bool = False) -> Writer:
        """Return a writer of a new object; every place is the same here."""
        del cold
        return _MemoryWriter(self, check_key(key))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them."""
        data, _ = self._find(key)
        return data[start:] if length is None else data[start : start + length]

    def size(self, key: str) -> int | None:
        """Return an object's length in bytes, or None when there is none."""
        found = self._objects.get(check_key(key))
        return None if found is None else len(found[0])

    def age(self, key: str) -> float:
        """Return the seconds since an object was written."""
        return time.monotonic() - self._find(key)[1]

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, in order."""
        with self._lock:
            found = sorted(key for key in self._objects if key.startswith(prefix))
        yield from found

    def delete(self, key: str) -> bool:
        """Delete an object, and return whether there was one."""
        with self._lock:
            return self._objects.pop(check_key(key), None) is not None

    def sweep_temporaries(self, older_than: float) -> int:  # noqa: ARG002
        """Return 0, for what is unfinished goes with its writer."""
        return 0

    def _find(self, key: str) -> tuple[bytes, float]:
        found = self._objects.get(check_key(key))
        if found is None:
            raise MissingObjectError(key)
        return found


class _MemoryWriter(Writer):
    def __init__(self, backend: MemoryBackend, key: str) -> None:
        self._backend = backend
        self._key = key
        self._data: bytearray | None = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        if self._data is None:
            raise StoreError(f"the object {self._key!r} is already closed.")
        self._data += data

    def commit(self) -> None:
        if self._data is None:
            raise StoreError(f"the object {self._key!r} is already closed.")
        data, self._data = bytes(self._data), None
        if not self._backend.put(self._key, data, if_absent=True):
            raise StoreError(f"the object {self._key!r} is there already; it is not replaced.")

    def abort(self) -> None:
        self._data = None
