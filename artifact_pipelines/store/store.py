"""The store: files in, verified files out, by way of chunks in packs."""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.manifest import FileEntry
from artifact_pipelines.errors import (
    CorruptChunkError,
    DigestMismatchError,
    MissingObjectError,
    SourceError,
    StoreError,
)
from artifact_pipelines.store import chunking
from artifact_pipelines.store.backend import Backend, begin_writeback, explain, sync_folder
from artifact_pipelines.store.pack import RAW, Location, PackWriter, chunk_key, object_key

WINDOW = 64 * chunking.MIB
"""A window holds chunks of at most this many bytes together."""

_SLICE = 4 * chunking.MIB  # bytes that are read, and hashed while they are in the cache
_COALESCE = 16 * chunking.MIB  # bytes of neighbouring chunks that are read at once
_BATCH = 512  # chunks that are looked up at once
_WRITEBACK = 16 * chunking.MIB
_LEFT = re.compile(r"\.fetch-[0-9a-f]{16}")
_LEFT_AFTER = 3600.0  # seconds

# A media type is part of the content digest: an entry that changes, or is added, changes
# the identity of files that are registered again.
_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".md": "text/markdown",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".onnx": "application/onnx",
    ".parquet": "application/vnd.apache.parquet",
    ".safetensors": "application/vnd.safetensors",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}

ChunkMap = Sequence[tuple[str, int]]
Locate = Callable[[Sequence[str]], Mapping[str, Location]]


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def media_type(path: str) -> str:
    """Return the media type that a file's name suggests."""
    return _MEDIA_TYPES.get(Path(path).suffix.lower(), "application/octet-stream")


@dataclass(frozen=True, slots=True)
class ChunkData:
    """A chunk with its bytes.

    Attributes:
        key: The BLAKE3 of its bytes.
        data: The bytes, which are valid until the next window is asked for.
    """

    key: str
    data: memoryview


@dataclass(slots=True)
class Scan:
    """One pass over a file that is offered for storage.

    Iterate `windows` to the end; then the whole file's digest, size and chunk map are known.

    Attributes:
        path: The path that the file will have in its artifact.
        source: Where its bytes are.
        chunk_map: The chunks so far: key and length.
        size: The bytes so far.
        sha256: The SHA-256 of the file, once every window was taken.
    """

    path: str
    source: Path | bytes
    chunk_map: list[tuple[str, int]] = field(default_factory=list)
    size: int = 0
    sha256: str = ""

    def entry(self) -> FileEntry:
        """Return the file as its manifest lists it."""
        return FileEntry(self.path, self.size, self.sha256, media_type(self.path))

    def windows(self) -> Iterator[list[ChunkData]]:
        """Yield the file's chunks, at most one window of bytes at a time.

        Raises:
            SourceError: The source is no readable plain file, or changed meanwhile.
        """
        self.chunk_map, self.size = [], 0
        whole = hashlib.sha256()
        with _opened(self.source) as source:
            spans = _spans(chunking.cuts(source.read, source.size))
            hashed = _at_once if source.size <= _SLICE else _one_ahead
            for chunks in hashed(source, spans, whole):
                self.chunk_map += [(chunk.key, len(chunk.data)) for chunk in chunks]
                self.size += sum(len(chunk.data) for chunk in chunks)
                yield chunks
            source.check_unchanged()
        self.sha256 = whole.hexdigest()


class Store:
    """Chunks, files and small objects on one backend."""

    def __init__(self, backend: Backend) -> None:
        """Use a backend."""
        self.backend = backend

    def open_pack(self, pack: str) -> PackWriter:
        """Return the writer of a new pack."""
        return PackWriter(self.backend, pack)

    def read_chunk(self, key: str, location: Location) -> bytes:
        """Return a chunk's bytes, verified.

        Raises:
            CorruptChunkError: They are not the chunk.
            MissingObjectError: Its pack is not there.
        """
        data = self.backend.get(object_key(location.pack), location.offset, location.stored)
        _verify(key, location, data)
        return data

    def read_file(self, chunks: ChunkMap, locate: Locate, sha256: str) -> Iterator[bytes]:
        """Yield the bytes of a file, each chunk verified, and the whole at the end.

        Raises:
            CorruptChunkError: A chunk is damaged.
            MissingObjectError: A chunk is not to be found.
            DigestMismatchError: The chunks are sound, but are not this file.
        """
        whole = hashlib.sha256()
        with ThreadPoolExecutor(2) as pool:
            hashing = _InOrder(pool)
            hashed: Future[None] | None = None
            for data in self._chunks(chunks, locate, pool):
                if hashed is not None:
                    hashed.result()
                hashed = hashing.submit(whole.update, data)
                yield bytes(data)
            if hashed is not None:
                hashed.result()
        _check_whole("a file", sha256, whole)

    def fetch(
        self, files: Sequence[tuple[FileEntry, ChunkMap]], locate: Locate, target: Path
    ) -> Path:
        """Write a verified file set to a folder, all of it or nothing.

        Raises:
            InvalidNameError: A path leaves the folder, or two are one file.
            StoreError: The folder is there already with something in it, or cannot be written.
        """
        naming.check_paths(entry.path for entry, _ in files)
        try:
            if target.is_symlink() or (
                target.exists() and (not target.is_dir() or any(target.iterdir()))
            ):
                raise StoreError(f"{target} is already there; choose an empty or new folder.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_folder(target.parent) as folder:
                self._write_files(folder, files, locate)
                for inner, _, _ in os.walk(folder):
                    sync_folder(Path(inner))
                folder.rename(target)
            sync_folder(target.parent)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{target} cannot be written: {explain(error)}.") from error
        return target

    def put_object(self, data: bytes) -> str:
        """Keep a small object by the digest that it returns."""
        name = digest.sha256(data)
        self.backend.put(f"objects/{name}", data, if_absent=True)
        return name

    def get_object(self, name: str) -> bytes:
        """Return a small object, verified.

        Raises:
            DigestMismatchError: It is damaged.
        """
        data = self.backend.get(f"objects/{name}")
        if digest.sha256(data) != name:
            raise DigestMismatchError("a stored object", name, digest.sha256(data))
        return data

    def _write_files(
        self, folder: Path, files: Sequence[tuple[FileEntry, ChunkMap]], locate: Locate
    ) -> None:
        # The chunks of all files are one sequence, so that reading is ahead across files too.
        with ThreadPoolExecutor(2) as pool:
            every = chain.from_iterable(chunks for _, chunks in files)
            pieces = self._chunks(every, locate, pool)
            for entry, chunks in files:
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb", buffering=0) as file:
                    whole = hashlib.sha256()
                    _write_file(file.fileno(), islice(pieces, len(chunks)), whole, pool)
                    _check_whole(f"the file {entry.path!r}", entry.sha256, whole)
                    os.fsync(file.fileno())

    def _chunks(
        self, chunks: Iterable[tuple[str, int]], locate: Locate, pool: Executor
    ) -> Iterator[memoryview]:
        """Yield verified chunks in order, while the next ones are read."""
        ahead: tuple[_Run, Future[list[memoryview]]] | None = None
        for run in _located(chunks, locate):
            current, ahead = ahead, (run, pool.submit(self._read_run, run))
            if current is not None:
                yield from self._taken(*current, locate)
                # Nothing may hold the bytes that were taken while the next are waited for.
                del current
        if ahead is not None:
            yield from self._taken(*ahead, locate)

    def _taken(
        self, run: "_Run", reading: Future[list[memoryview]], locate: Locate
    ) -> Iterator[memoryview]:
        try:
            yield from reading.result()
        except MissingObjectError:
            # The chunks may have moved to another pack since they were looked up.
            again = locate([key for key, _ in run])
            for key, place in run:
                if again.get(key, place) == place:
                    raise
                yield memoryview(self.read_chunk(key, again[key]))

    def _read_run(self, run: "_Run") -> list[memoryview]:
        first, last = run[0][1], run[-1][1]
        length = last.offset + last.stored - first.offset
        data = memoryview(self.backend.get(object_key(first.pack), first.offset, length))
        found = []
        for key, place in run:
            start = place.offset - first.offset
            piece = data[start : start + place.stored]
            _verify(key, place, piece)
            found.append(piece)
        return found


_Run = list[tuple[str, Location]]


# Reading sources


class _Source:
    """Bytes that are offered for storage."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = memoryview(data)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes for a look at the format."""
        return bytes(self._data[offset : offset + length])

    def window(self, offset: int, length: int) -> memoryview:
        """Return room for a window; the one before the last is no longer needed."""
        return self._data[offset : offset + length]

    def fill(self, view: memoryview, offset: int) -> None:
        """Read the bytes at an offset into a part of a window."""

    def check_unchanged(self) -> None:
        """Refuse a source that changed while it was read."""


class _FileSource(_Source):
    """An open file that is offered for storage."""

    def __init__(self, file: int, name: str) -> None:
        self._file = file
        self._name = name
        self._found = os.fstat(file)
        self.size = self._found.st_size
        self._buffers = deque([memoryview(b""), memoryview(b"")])

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self.fill(memoryview(data), offset)
        return bytes(data)

    def window(self, offset: int, length: int) -> memoryview:
        self._buffers.rotate()
        if len(self._buffers[0]) < length:
            self._buffers[0] = memoryview(b"")  # given back before more is taken
            self._buffers[0] = memoryview(bytearray(min(max(length, WINDOW), self.size - offset)))
        return self._buffers[0][:length]

    def fill(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                count = os.preadv(self._file, [view], offset)
            except OSError as error:
                raise SourceError(
                    f"the file {self._name!r} cannot be read: {error.strerror}."
                ) from error
            if count == 0:
                raise SourceError(f"the file {self._name!r} changed while it was read.")
            view, offset = view[count:], offset + count

    def check_unchanged(self) -> None:
        now = os.fstat(self._file)
        if (now.st_size, now.st_mtime_ns) != (self._found.st_size, self._found.st_mtime_ns):
            raise SourceError(f"the file {self._name!r} changed while it was read.")


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[_Source]:
    if isinstance(source, bytes):
        yield _Source(source)
        return
    try:
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        why = "symbolic links are not followed" if source.is_symlink() else error.strerror
        raise SourceError(f"the file {str(source)!r} cannot be read: {why}.") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise SourceError(f"{str(source)!r} is not a plain file.")
        yield _FileSource(file, str(source))
    finally:
        os.close(file)


def _spans(cuts: Iterator[chunking.Cut]) -> Iterator[list[chunking.Cut]]:
    """Yield the cuts of one window after the other."""
    span: list[chunking.Cut] = []
    held = 0
    for cut in cuts:
        if span and held + cut.length > WINDOW:
            yield span
            span, held = [], 0
        span.append(cut)
        held += cut.length
    if span:
        yield span


def _at_once(
    source: _Source, spans: Iterator[list[chunking.Cut]], whole: _Hash
) -> Iterator[list[ChunkData]]:
    """Yield the windows of a small source, hashed here: a thread would cost more."""
    for span in spans:
        view = source.window(span[0].offset, span[-1].offset + span[-1].length - span[0].offset)
        source.fill(view, span[0].offset)
        whole.update(view)
        yield [
            ChunkData(chunk_key(data), data)
            for data in (view[cut.offset - span[0].offset :][: cut.length] for cut in span)
        ]


def _one_ahead(
    source: _Source, spans: Iterator[list[chunking.Cut]], whole: _Hash
) -> Iterator[list[ChunkData]]:
    """Yield windows while the next one is read and hashed.

    There are two windows at most: a buffer is filled again once its chunks were taken and
    the digest of the whole file has passed it.
    """
    with ThreadPoolExecutor(2) as pool:
        hashing = _InOrder(pool)

        def begin(span: list[chunking.Cut]) -> Future[tuple[list[ChunkData], Future[None]]]:
            start = span[0].offset
            view = source.window(start, span[-1].offset + span[-1].length - start)
            return pool.submit(_fill, source, span, view, hashing, whole)

        ahead = begin(next(spans))
        passed: Future[None] | None = None
        while True:
            chunks, passing = ahead.result()
            if passed is not None:
                passed.result()
            following = next(spans, None)
            if following is not None:
                ahead = begin(following)
            yield chunks
            passed = passing
            if following is None:
                passed.result()
                return


def _fill(
    source: _Source,
    span: Sequence[chunking.Cut],
    view: memoryview,
    hashing: "_InOrder",
    whole: _Hash,
) -> tuple[list[ChunkData], Future[None]]:
    """Return the chunks of a window, and what is done when the whole digest has passed it."""
    chunks, base = [], span[0].offset
    passed: Future[None] = Future()
    for cut in span:
        key = blake3()
        stop = cut.offset + cut.length
        for start in range(cut.offset, stop, _SLICE):
            piece = view[start - base : min(start + _SLICE, stop) - base]
            source.fill(piece, start)
            passed = hashing.submit(whole.update, piece)
            key.update(piece)
        chunks.append(ChunkData(key.hexdigest(), view[cut.offset - base : stop - base]))
    return chunks, passed


class _InOrder:
    """Jobs that run one after the other, in a pool that never waits for them."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Future[None], Callable[[memoryview], None], memoryview]] = deque()
        self._running = False

    def submit(self, job: Callable[[memoryview], None], data: memoryview) -> Future[None]:
        done: Future[None] = Future()
        with self._lock:
            self._jobs.append((done, job, data))
            begin, self._running = not self._running, True
        if begin:
            self._pool.submit(self._drain)
        return done

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._running = False
                    return
                done, job, data = self._jobs.popleft()
            try:
                job(data)
            except BaseException as error:  # noqa: BLE001  the one who waits raises it
                done.set_exception(error)
            else:
                done.set_result(None)


# Writing files


def _write_file(file: int, pieces: Iterator[memoryview], whole: _Hash, pool: Executor) -> None:
    hashing = _InOrder(pool)
    hashed: Future[None] | None = None
    written = hinted = 0
    for piece in pieces:
        if hashed is not None:
            hashed.result()
        hashed = hashing.submit(whole.update, piece)
        view = piece
        while view:
            count = os.write(file, view)
            written += count
            view = view[count:]
        if written - hinted >= _WRITEBACK:
            begin_writeback(file, hinted, written - hinted)
            hinted = written
    if hashed is not None:
        hashed.result()


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder that is removed unless it was renamed.

    It is locked meanwhile, so that the next one removes what a killed process left.
    """
    for left in parent.iterdir():
        if _LEFT.fullmatch(left.name) and _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f".fetch-{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        finally:
            os.close(handle)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    try:
        if time.time() - folder.lstat().st_mtime < _LEFT_AFTER:
            return False
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


# Reading chunks


def _located(chunks: Iterable[tuple[str, int]], locate: Locate) -> Iterator[_Run]:
    """Yield runs of neighbours in one pack, each to be read at once."""
    rest = iter(chunks)
    while batch := [key for key, _ in islice(rest, _BATCH)]:
        places = locate(batch)
        run: _Run = []
        for key in batch:
            if key not in places:
                raise MissingObjectError(f"chunk {key}")
            place = places[key]
            if run:
                last = run[-1][1]
                adjacent = place.pack == last.pack and place.offset == last.offset + last.stored
                if not adjacent or place.offset + place.stored - run[0][1].offset > _COALESCE:
                    yield run
                    run = []
            run.append((key, place))
        if run:
            yield run


def _verify(key: str, location: Location, data: bytes | memoryview) -> None:
    if location.codec != RAW or location.base is not None or location.key_id is not None:
        raise StoreError(
            f"chunk {key[:16]} uses the codec {location.codec!r}, unknown here; "
            "use a newer version."
        )
    actual = chunk_key(data)
    if actual != key:
        raise CorruptChunkError(location.pack, key, actual)


def _check_whole(what: str, expected: str, whole: _Hash) -> None:
    if whole.hexdigest() != expected:
        raise DigestMismatchError(what, expected, whole.hexdigest())
