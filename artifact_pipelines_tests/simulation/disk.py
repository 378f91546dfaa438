"""A disk of objects in memory that a crash takes back to what was made durable, and no more."""

import random
from collections.abc import Callable, Iterator

from artifact_pipelines.errors import MissingObjectError, StoreError
from artifact_pipelines.store.backend import Backend, Writer, check_key

LOST = 0.5  # of what was never made durable


class Disk(Backend):
    """Objects of which those that were not committed may or may not be there after a crash.

    A writer's bytes reach the disk in pieces and in whatever order. Until it commits, a crash
    leaves any subset of the pieces; a deletion that nothing was made durable after may come
    undone. What a method has returned for is there for good.
    """

    def __init__(
        self,
        chance: random.Random,
        clock: Callable[[], float],
        fate: Callable[[], None],
        *,
        lies: bool,
    ) -> None:
        """Begin with no objects; a disk that lies loses what it said was durable."""
        self.url = "memory://simulated"
        self._chance, self._clock, self._fate = chance, clock, fate
        self.dead = False
        self.objects: dict[str, tuple[bytes, float]] = {}
        self._unfinished: dict[int, tuple[str, list[bytes]]] = {}
        self._deleted: dict[str, tuple[bytes, float]] = {}
        self._torn: dict[str, float] = {}
        self._lies = lies
        self.lost = 0

    def crash(self) -> None:
        """Lose what was not durable: torn pieces stay as temporaries, deletions come undone."""
        self.dead = False
        for key, pieces in self._unfinished.values():
            kept = [piece for piece in pieces if self._chance.random() > LOST]
            self.lost += len(pieces) - len(kept)
            if kept:
                self._torn[f"tmp/{key}"] = self._clock()
        self._unfinished.clear()
        for key, found in self._deleted.items():
            if self._chance.random() < LOST:
                self.objects.setdefault(key, found)
        self._deleted.clear()
        if self._lies:
            for key in list(self.keys("packs/")):
                del self.objects[key]

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object; it is durable when this returns."""
        check_key(key)
        self._live()
        if if_absent and key in self.objects:
            return False
        self._deleted.pop(key, None)
        self.objects[key] = (bytes(data), self._clock())
        self._fate()
        return True

    def create(self, key: str, *, cold: bool = False) -> Writer:
        """Return a writer of a new object."""
        del cold
        return _DiskWriter(self, check_key(key))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them."""
        data, _ = self._find(key)
        return data[start:] if length is None else data[start : start + length]

    def size(self, key: str) -> int | None:
        """Return an object's length in bytes, or None when there is none."""
        found = self.objects.get(check_key(key))
        return None if found is None else len(found[0])

    def age(self, key: str) -> float:
        """Return the seconds since an object was written, by the simulated clock."""
        return self._clock() - self._find(key)[1]

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, in order."""
        yield from sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, key: str) -> bool:
        """Delete an object; a crash may bring it back."""
        self._live()
        found = self.objects.pop(check_key(key), None)
        if found is not None:
            self._deleted[key] = found
        self._fate()
        return found is not None

    def sweep_temporaries(self, older_than: float) -> int:
        """Remove what dead writers left."""
        old = [key for key, at in self._torn.items() if self._clock() - at >= older_than]
        for key in old:
            del self._torn[key]
        return len(old)

    def _live(self) -> None:
        """Die before a change, if it is time; what is dead changes nothing."""
        if self.dead:
            raise StoreError("the machine is dead.")
        self._fate()

    def _find(self, key: str) -> tuple[bytes, float]:
        found = self.objects.get(check_key(key))
        if found is None:
            raise MissingObjectError(key)
        return found


class _DiskWriter(Writer):
    def __init__(self, disk: Disk, key: str) -> None:
        self._disk, self._key, self._open = disk, key, True
        self._pieces: list[bytes] = []
        disk._unfinished[id(self)] = (key, self._pieces)

    def write(self, data: bytes | memoryview) -> None:
        if not self._open:
            raise StoreError(f"the object {self._key!r} is already closed.")
        self._disk._live()
        self._pieces.append(bytes(data))

    def commit(self) -> None:
        there = id(self) in self._disk._unfinished
        if not there or not self._open:
            raise StoreError(f"the object {self._key!r} is already closed.")
        self.abort()
        if not self._disk.put(self._key, b"".join(self._pieces), if_absent=True):
            raise StoreError(f"the object {self._key!r} is there already; it is not replaced.")

    def abort(self) -> None:
        self._open = False
        if not self._disk.dead:
            self._disk._unfinished.pop(id(self), None)
