"""Where objects are kept: a folder of a local disk, or memory.

An object is written once and whole. When a method that writes returns, its bytes are
durable; when it raises, there is no object of that name or the earlier one.
"""

import errno
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from artifact_pipelines.errors import (
    ConfigurationError,
    HomeError,
    InvalidNameError,
    MissingObjectError,
    StoreError,
)

_NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs"),
        *("glusterfs", "lustre", "ceph"),
    }
)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


class Writer(ABC):
    """An object that is being written, piece by piece."""

    @abstractmethod
    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""

    @abstractmethod
    def commit(self) -> None:
        """Make the object durable under its key."""

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

        With `if_absent`, an object that is already there stays as it is.
        """

    @abstractmethod
    def create(self, key: str) -> Writer:
        """Return a writer of a new object."""

    @abstractmethod
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them, cut where the object ends.

        Raises:
            MissingObjectError: There is no such object.
        """

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


def check_key(key: str) -> str:
    """Return a key that every backend can hold.

    Raises:
        InvalidNameError: It is empty, absolute, or leaves the store.
    """
    parts = key.split("/")
    if any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in parts):
        raise InvalidNameError(f"{key!r} is not an object key.")
    return key


def open_backend(url: str) -> Backend:
    """Return the backend at a URL: `file:///path` or `memory://name`.

    Raises:
        ConfigurationError: The URL is of another kind.
        HomeError: The folder cannot carry a store.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path:
        return FileBackend(Path(unquote(parts.path)))
    if parts.scheme == "memory":
        return MemoryBackend.named(parts.netloc)
    raise ConfigurationError(f"the store URL {url!r} is not supported; use file:///path/to/store.")


def check_file_system(folder: Path) -> None:
    """Refuse a folder whose file system cannot be trusted with locks and renames.

    Raises:
        HomeError: It is on a network file system.
    """
    kind = _file_system(folder)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise HomeError(
            f"{folder} is on a network file system ({kind}), where locks and renames are not safe; "
            "use a local disk, or an S3 store with a Postgres catalog."
        )


class FileBackend(Backend):
    """Objects as files under one folder of a local disk."""

    def __init__(self, root: Path) -> None:
        """Open the folder, making it when it is not there.

        Raises:
            HomeError: It is on a network file system, or cannot be written.
        """
        self.root = root.absolute()
        self.url = self.root.as_uri()
        self._temporary = self.root / "tmp"
        try:
            self._temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise HomeError(f"the store {self.root} cannot be made: {_why(error)}.") from error
        check_file_system(self.root)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object, and return whether it was written."""
        path = self._path(key)
        if if_absent and path.exists():
            return False
        writer = _FileWriter(self, key, exclusive=if_absent)
        with writer:
            writer.write(data)
            writer.commit()
        return writer.written

    def create(self, key: str) -> Writer:
        """Return a writer of a new object."""
        return _FileWriter(self, key, exclusive=False)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them."""
        try:
            with self._path(key).open("rb", buffering=0) as file:
                if length is None:
                    length = max(os.fstat(file.fileno()).st_size - start, 0)
                file.seek(start)
                return _read_fully(file.fileno(), length)
        except FileNotFoundError:
            raise MissingObjectError(key) from None
        except OSError as error:
            raise StoreError(f"the object {key!r} cannot be read: {_why(error)}.") from error

    def size(self, key: str) -> int | None:
        """Return an object's length in bytes, or None when there is none."""
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"the object {key!r} cannot be looked at: {_why(error)}.") from error

    def age(self, key: str) -> float:
        """Return the seconds since an object was written."""
        try:
            return max(time.time() - self._path(key).stat().st_mtime, 0.0)
        except FileNotFoundError:
            raise MissingObjectError(key) from None

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, in order."""
        folder = self.root / prefix.rpartition("/")[0]
        found = []
        for parent, folders, names in os.walk(folder):
            place = Path(parent)
            if place == self.root and "tmp" in folders:
                folders.remove("tmp")
            found += [(place / name).relative_to(self.root).as_posix() for name in names]
        yield from sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> bool:
        """Delete an object, and return whether there was one."""
        path = self._path(key)
        try:
            path.unlink()
            sync_folder(path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"the object {key!r} cannot be deleted: {_why(error)}.") from error
        return True

    def sweep_temporaries(self, older_than: float) -> int:
        """Delete what dead writers left behind, and return how many files that were."""
        swept = 0
        for path in self._temporary.iterdir():
            try:
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink()
                    swept += 1
            except FileNotFoundError:
                continue
        return swept

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def make_parents(self, path: Path) -> None:
        """Make the folders above a path, each durable in its parent."""
        missing = []
        parent = path.parent
        while not parent.is_dir():
            missing.append(parent)
            parent = parent.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True, mode=0o700)
            sync_folder(folder.parent)

    def temporary(self) -> Path:
        """Return the path of a new temporary file."""
        return self._temporary / secrets.token_hex(16)


class _FileWriter(Writer):
    def __init__(self, backend: FileBackend, key: str, *, exclusive: bool) -> None:
        self._backend = backend
        self._key = key
        self._target = backend.root / check_key(key)
        self._exclusive = exclusive
        self._temporary = backend.temporary()
        self.written = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file: int | None = os.open(self._temporary, flags, 0o600)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, data: bytes | memoryview) -> None:
        if self._file is None:
            raise StoreError(f"the object {self._key!r} is already closed.")
        view = memoryview(data).cast("B")
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise self._failure(error) from error

    def commit(self) -> None:
        if self._file is None:
            raise StoreError(f"the object {self._key!r} is already closed.")
        try:
            # After a failed fsync the kernel may drop the pages and forget the error, so
            # it is never tried again: the temporary is discarded with what it held.
            os.fsync(self._file)
            os.close(self._file)
            self._file = None
            self._backend.make_parents(self._target)
            self.written = True
            if self._exclusive:
                try:
                    os.link(self._temporary, self._target)
                except FileExistsError:
                    self.written = False
                self._temporary.unlink()
            else:
                self._temporary.rename(self._target)
            sync_folder(self._target.parent)
        except OSError as error:
            raise self._failure(error) from error

    def abort(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._temporary.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> StoreError:
        return StoreError(f"the object {self._key!r} could not be stored: {_why(error)}.")


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

    def create(self, key: str) -> Writer:
        """Return a writer of a new object."""
        return _MemoryWriter(self, check_key(key))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them."""
        with self._lock:
            if key not in self._objects:
                raise MissingObjectError(key)
            data = self._objects[key][0]
        return data[start:] if length is None else data[start : start + length]

    def size(self, key: str) -> int | None:
        """Return an object's length in bytes, or None when there is none."""
        with self._lock:
            return len(self._objects[key][0]) if key in self._objects else None

    def age(self, key: str) -> float:
        """Return the seconds since an object was written."""
        with self._lock:
            if key not in self._objects:
                raise MissingObjectError(key)
            return time.monotonic() - self._objects[key][1]

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, in order."""
        with self._lock:
            found = sorted(key for key in self._objects if key.startswith(prefix))
        yield from found

    def delete(self, key: str) -> bool:
        """Delete an object, and return whether there was one."""
        with self._lock:
            return self._objects.pop(key, None) is not None


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
        self._backend.put(self._key, bytes(self._data))
        self._data = None

    def abort(self) -> None:
        self._data = None


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_fully(file: int, length: int) -> bytes:
    data = os.read(file, length) if length else b""
    if len(data) == length:
        return data
    # One read returns at most 2 GiB, and less at the end of the file.
    pieces = [data]
    left = length - len(data)
    while left and (data := os.read(file, left)):
        pieces.append(data)
        left -= len(data)
    return b"".join(pieces)


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, or nothing where that is hidden."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    place = folder.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        point = Path(fields[1].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def _why(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in _FULL:
        return f"the disk is full{place}; free some space and try again"
    if error.errno in _READ_ONLY:
        return f"it may not be written{place}; check the permissions or choose another home"
    return f"{error.strerror or error}{place}"
