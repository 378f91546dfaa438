"""Points at which a registry's process may die: around every change of catalog and store.

A point is named after what is about to happen or has just happened, so that a use case's
points are found by running it once, and each is then a place to stop it.
"""

import atexit
import contextlib
import functools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from artifact_pipelines.catalog import catalog
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.store.backend import Backend, Writer
from artifact_pipelines_tests.databases import Databases

Hook = Callable[[str], None]
Work = Callable[[Registry], object]


class WatchedBackend(Backend):
    """A backend that tells before and after each of its changes."""

    def __init__(self, inner: Backend, hook: Hook) -> None:
        """Watch a backend."""
        self.inner, self.hook, self.url = inner, hook, inner.url

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object."""
        self.hook(f"before put {_folder(key)}")
        found = self.inner.put(key, data, if_absent=if_absent)
        self.hook(f"after put {_folder(key)}")
        return found

    def create(self, key: str, *, cold: bool = False) -> Writer:
        """Return a writer of a new object."""
        return WatchedWriter(self.inner.create(key, cold=cold), self.hook, _folder(key))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes."""
        return self.inner.get(key, start, length)

    def size(self, key: str) -> int | None:
        """Return an object's length."""
        return self.inner.size(key)

    def age(self, key: str) -> float:
        """Return an object's age."""
        return self.inner.age(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix."""
        return self.inner.keys(prefix)

    def delete(self, key: str) -> bool:
        """Delete an object."""
        self.hook(f"before delete {_folder(key)}")
        found = self.inner.delete(key)
        self.hook(f"after delete {_folder(key)}")
        return found

    def sweep_temporaries(self, older_than: float) -> int:
        """Remove what dead writers left."""
        return self.inner.sweep_temporaries(older_than)


class WatchedWriter(Writer):
    """A writer that tells of each write and of its end."""

    def __init__(self, inner: Writer, hook: Hook, folder: str) -> None:
        """Watch a writer of an object in a folder."""
        self.inner, self.hook, self.folder = inner, hook, folder

    def write(self, data: bytes | memoryview) -> None:
        """Write on."""
        self.inner.write(data)
        self.hook(f"within {self.folder}")

    def commit(self) -> None:
        """Make the object durable."""
        self.hook(f"before commit {self.folder}")
        self.inner.commit()
        self.hook(f"after commit {self.folder}")

    def abort(self) -> None:
        """Leave nothing behind."""
        self.inner.abort()


def watch(registry: Registry, hook: Hook) -> Registry:
    """Have a registry tell of every change that it makes."""
    registry.store.backend = WatchedBackend(registry.store.backend, hook)
    registry.keyring._backend = registry.store.backend
    for name in ("put", "destroy"):
        setattr(registry.keys.scopes, name, _told(getattr(registry.keys.scopes, name), hook))
    for name in ("write", "write_soon"):
        write = getattr(registry.catalog, name)
        setattr(registry.catalog, name, functools.partial(_watched, write, hook))
    return registry


def _watched(
    write: Callable[..., Any],
    hook: Hook,
    change: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:  # noqa: ANN401
    name = getattr(change, "__name__", "change").strip("_<>")
    hook(f"before {name}")
    found = write(change, *args, **kwargs)
    hook(f"after {name}")
    return found


def _told(change: Callable[..., object], hook: Hook) -> Callable[..., object]:
    def told(*args: object) -> object:
        hook(f"before {change.__name__} scope")
        found = change(*args)
        hook(f"after {change.__name__} scope")
        return found

    return told


def points(home: Path, work: Work, databases: Databases | None = None) -> list[str]:
    """Return the points of a use case, numbered in the order in which they are reached."""
    found: list[str] = []
    with copied(home, databases) as copy, open_registry(copy, actor="tester") as registry:
        work(watch(registry, lambda label: found.append(f"{len(found)} {label}")))
    return found


class copied:  # noqa: N801 (reads as a function)
    """A copy of a home, on a file system in memory where there is one.

    Copies come one after another to the same place, so that what this process learnt of the
    place, such as compiled statements, serves them all.
    """

    _free: ClassVar[list[Path]] = []

    def __init__(self, home: Path, databases: Databases | None = None) -> None:
        """Copy a home, and its catalog where that is on a server."""
        if not self._free:
            shared = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
            folder = tempfile.mkdtemp(dir=shared if shared.is_dir() else None)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            self._free.append(Path(folder))
        self._folder = self._free.pop()
        self.home = self._folder / "home"
        shutil.copytree(home, self.home)
        if databases is not None:
            databases.follow(home, self.home)

    def __enter__(self) -> Path:
        """Return where it is."""
        return self.home

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        shutil.rmtree(self.home)
        self._free.append(self._folder)


@contextlib.contextmanager
def warm_engines() -> Iterator[None]:
    """Keep the engine of each address, with the statements that it has compiled.

    A child that is forked begins with them too, and opens connections of its own.
    """
    make = catalog._engine
    with mock.patch.object(catalog, "_engine", functools.cache(make)):
        yield


def kill_at(home: Path, work: Work, number: int) -> bool:
    """Run a use case in a child that kills itself at a point, and return whether it did."""
    child = os.fork()
    if child == 0:
        try:
            reached = -1

            def hook(_label: str) -> None:
                nonlocal reached
                reached += 1
                if reached == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            work(watch(open_registry(home, actor="tester"), hook))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def expire(registry: Registry) -> None:
    """End every session's lease, as time would."""
    registry.catalog.write(lambda tx: tx.conn.exec_driver_sql("update session set lease_until = 0"))


def _folder(key: str) -> str:
    return key.partition("/")[0]
