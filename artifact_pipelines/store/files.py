"""Objects as files of a local disk, durable when a method that writes returns."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from artifact_pipelines.errors import HomeError, MissingObjectError, StoreError
from artifact_pipelines.store.backend import KEY, TEMPORARY, Backend, Writer, check_key
from artifact_pipelines.store.writing import Stream, room

_NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.goofys",
        "fuse.juicefs",
        "fuse.mount-s3",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
    }
)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


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
    """Objects as files under one folder of a local disk.

    After a failed fsync nobody knows what the disk holds, so that this instance writes
    nothing more; it still reads.
    """

    def __init__(self, root: Path) -> None:
        """Open the folder, making it when it is not there.

        Raises:
            HomeError: It is on a network file system, or cannot be written.
        """
        self.root = root.absolute()
        self.url = self.root.as_uri()
        self._temporary = self.root / TEMPORARY
        self._durable: set[Path] = set()
        self._failed: str | None = None
        check_file_system(self.root)
        try:
            self._make_folder(self._temporary)
        except OSError as error:
            raise HomeError(f"the store {self.root} cannot be made: {explain(error)}.") from error

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object, and return whether it was written."""
        path = self._path(key)
        if if_absent and _plain_file(path) is not None:
            self._settle(path)
            return False
        with _FileWriter(self, key) as writer:
            writer.write(data)
            return writer.place(replace=not if_absent)

    def create(self, key: str, *, cold: bool = False) -> Writer:
        """Return a writer of a new object; every place is the same here."""
        del cold
        return _FileWriter(self, key)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object's bytes, or a range of them."""
        with self._opened(key) as (file, size):
            left = max(size - start, 0)
            return _read_fully(file, start, left if length is None else min(left, length))

    def read(self, key: str, start: int, length: int) -> memoryview:
        """Return a range of an object's bytes, in memory that costs little to get."""
        with self._opened(key) as (file, size):
            view = room(min(max(size - start, 0), length))
            filled = 0
            while filled < len(view):
                count = os.preadv(file, [view[filled:]], start + filled)
                if count == 0:
                    break
                filled += count
            return view[:filled]

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, int]]:
        """Yield an object's open file and its size, which bounds what is allocated for it."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            file = os.open(self._path(key), flags)
            try:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode):
                    raise MissingObjectError(key)
                yield file, found.st_size
            finally:
                os.close(file)
        except OSError as error:
            raise _unreadable(key, error) from error

    def size(self, key: str) -> int | None:
        """Return an object's length in bytes, or None when there is none."""
        try:
            found = _plain_file(self._path(key))
        except OSError as error:
            raise _unreadable(key, error) from error
        return None if found is None else found.st_size

    def age(self, key: str) -> float:
        """Return the seconds since an object was written."""
        try:
            found = _plain_file(self._path(key))
        except OSError as error:
            raise _unreadable(key, error) from error
        if found is None:
            raise MissingObjectError(key)
        return max(time.time() - found.st_mtime, 0.0)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix, in order."""
        folder, slash, _ = prefix.rpartition("/")
        if not slash or KEY.fullmatch(folder):
            yield from self._walk(folder + slash, prefix)

    def delete(self, key: str) -> bool:
        """Delete an object, and return whether there was one."""
        path = self._path(key)
        try:
            if _plain_file(path) is None:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"the object {path} cannot be deleted: {explain(error)}.") from error
        self._settle(path)
        return True

    def sweep_temporaries(self, older_than: float) -> int:
        """Delete temporary files whose writers are gone."""
        swept = 0
        for path in self._temporary.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime >= older_than:
                    swept += _remove_left(path)
        return swept

    # For the writers

    def check_sound(self) -> None:
        """Refuse to write after a failed fsync.

        Raises:
            StoreError: An fsync of this instance has failed.
        """
        if self._failed is not None:
            raise StoreError(
                f"the store {self.root} takes no more writes, since {self._failed}; "
                "check the disk, then start the process again."
            )

    def sync_file(self, file: int, what: str) -> None:
        """Make an open file's content durable, or never write again."""
        self.check_sound()
        try:
            _sync(file)
        except OSError as error:
            # The kernel may drop the pages and forget the error, so that a second fsync
            # would succeed over lost data. A full disk loses only what was just written,
            # and that is discarded.
            if error.errno not in _FULL:
                self._failed = f"an fsync of {what} failed ({error.strerror})"
            raise

    def sync_folder(self, folder: Path) -> None:
        """Make the entries of a folder durable, or never write again."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync_file(handle, str(folder))
        finally:
            os.close(handle)

    def make_parents(self, path: Path) -> None:
        """Make the folders above a path, durable from the root down."""
        self._make_folder(path.parent)

    def temporary(self) -> tuple[int, Path]:
        """Return a new temporary file, open and locked, and its path."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            path = self._temporary / secrets.token_hex(16)
            file = os.open(path, flags, 0o600)
            # The lock tells a sweep that the writer lives, however long it sleeps. A sweep
            # between the opening and the lock takes the file away, and another one is made.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                return file, path
            os.close(file)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _settle(self, path: Path) -> None:
        """Make an object durable that another writer may only just have placed."""
        try:
            self.make_parents(path)
            self.sync_folder(path.parent)
        except OSError as error:
            raise _unstored(path, error) from error

    def _make_folder(self, folder: Path) -> None:
        # A folder that another process made a moment ago is there and may not be durable,
        # so that each instance syncs the way to each folder once.
        if folder in self._durable:
            return
        if folder.is_relative_to(self.root) or not folder.is_dir():
            self._make_folder(folder.parent)
        else:
            return
        there = folder.is_dir()
        folder.mkdir(mode=0o700, exist_ok=True)
        # What is above the root may be another's, and not ours to open.
        if not there or os.access(folder.parent, os.R_OK):
            self.sync_folder(folder.parent)
        self._durable.add(folder)

    def _walk(self, base: str, prefix: str) -> Iterator[str]:
        names = []
        try:
            with os.scandir(self.root / base) as entries:
                for entry in entries:
                    inner = entry.is_dir(follow_symlinks=False)
                    # A folder sorts with its slash, as the keys in it do.
                    name = f"{base}{entry.name}{'/' if inner else ''}"
                    if (
                        (name.startswith(prefix) or (inner and prefix.startswith(name)))
                        and KEY.fullmatch(entry.name)
                        and name != f"{TEMPORARY}/"
                        and (inner or entry.is_file(follow_symlinks=False))
                    ):
                        names.append(name)
        except OSError as error:
            if error.errno in _ABSENT:
                return
            raise StoreError(f"the store cannot be listed: {explain(error)}.") from error
        for name in sorted(names):
            if name.endswith("/"):
                yield from self._walk(name, prefix)
            else:
                yield name


class _FileWriter(Writer):
    def __init__(self, backend: FileBackend, key: str) -> None:
        self._backend = backend
        self._key = key
        self._target = backend.root / check_key(key)
        self._open = False
        backend.check_sound()
        try:
            self._file, self._temporary = backend.temporary()
        except OSError as error:
            raise _unstored(self._target, error) from error
        self._stream = Stream(self._file)
        self._open = True

    def write(self, data: bytes | memoryview) -> None:
        self._check_open()
        try:
            self._stream.write(data)
        except OSError as error:
            self.abort()
            raise _unstored(self._target, error) from error

    def commit(self) -> None:
        if not self.place(replace=False):
            raise StoreError(f"the object {self._key!r} is there already; it is not replaced.")

    def place(self, *, replace: bool) -> bool:
        """Make the object durable under its key, and return whether it was placed there."""
        self._check_open()
        placed = True
        try:
            self._stream.finish()
            self._backend.sync_file(self._file, self._key)
            self._backend.make_parents(self._target)
            if replace:
                self._temporary.rename(self._target)
            else:
                try:
                    os.link(self._temporary, self._target, follow_symlinks=False)
                except FileExistsError:
                    placed = False
            self._backend.sync_folder(self._target.parent)
        except OSError as error:
            raise _unstored(self._target, error) from error
        finally:
            self.abort()
        return placed

    def abort(self) -> None:
        if self._open:
            self._open = False
            self._stream.stop()
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            os.close(self._file)

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError(f"the object {self._key!r} is already closed.")


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def explain(error: OSError) -> str:
    """Return why the system refused to write, as the end of a sentence."""
    if error.errno in _FULL:
        return "the disk is full; free some space and try again"
    if error.errno in _READ_ONLY:
        return "it may not be written; check the permissions or choose another home"
    return error.strerror or str(error)


def _sync(file: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fsync(file)


def _plain_file(path: Path) -> os.stat_result | None:
    try:
        found = path.lstat()
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return found if stat.S_ISREG(found.st_mode) else None


def _unreadable(key: str, error: OSError) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if error.errno in _ABSENT:
        return MissingObjectError(key)
    return StoreError(f"the object {key!r} cannot be read: {error.strerror or error}.")


def _unstored(path: Path, error: OSError) -> StoreError:
    if isinstance(error, StoreError):
        return error
    return StoreError(f"the object {path} could not be stored: {explain(error)}.")


def _remove_left(path: Path) -> bool:
    """Remove a temporary file unless a writer holds its lock, and return whether it went."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Under the lock, so that a writer that waits for it sees that its file is gone.
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _read_fully(file: int, start: int, length: int) -> bytes:
    data = os.pread(file, length, start)
    if len(data) == length:
        return data
    # One read returns at most 2 GiB, and less at the end of the file.
    pieces, missing = [data], length - len(data)
    while missing and (data := os.pread(file, missing, start + length - missing)):
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, or nothing where that is hidden."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    place = folder.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        # Blanks and backslashes stand in the table as octal numbers.
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1]))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind
