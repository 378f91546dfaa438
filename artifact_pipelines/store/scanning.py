"""One pass over a file that is offered for storage: its chunks and its digest."""

import contextlib
import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from blake3 import blake3

from artifact_pipelines.domain.manifest import FileEntry
from artifact_pipelines.errors import SourceError
from artifact_pipelines.store import chunking
from artifact_pipelines.store.pack import chunk_key
from artifact_pipelines.store.writing import room

WINDOW = 16 * chunking.MIB
"""A window holds chunks of at most this many bytes together."""

_SLICE = 4 * chunking.MIB  # bytes that are read, and hashed while they are in the cache

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


class Hash(Protocol):
    """A digest that is being taken."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of the bytes so far."""
        ...


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


class Buffers:
    """The two windows and the threads that files scanned one after the other share.

    New memory costs as much as a copy, so that each file would pay for it again; and the
    digest of one file is finished while the next one is read.
    """

    def __init__(self) -> None:
        """Begin with no memory, and no thread."""
        self._windows = deque([_Window(), _Window()])
        self.pool = ThreadPoolExecutor(3)  # one fills; two files may be hashed

    def take(self, length: int, left: int) -> memoryview:
        """Return room for a window of a file that has some bytes left, once it is free."""
        self._windows.rotate()
        window = self._windows[0]
        window.passed.result()
        if len(window.memory) < length:
            window.memory = memoryview(b"")  # given back before more is taken
            window.memory = room(min(max(length, WINDOW), left))
        return window.memory[:length]

    def keep_until(self, passed: "Future[None]") -> None:
        """Give nobody the room that was taken last before a digest has passed it."""
        self._windows[0].passed = passed

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the threads."""
        self.pool.shutdown()


def _done() -> "Future[None]":
    done: Future[None] = Future()
    done.set_result(None)
    return done


@dataclass(slots=True)
class _Window:
    """Memory, and what is done once a digest has passed what is in it."""

    memory: memoryview = field(default_factory=lambda: memoryview(b""))
    passed: "Future[None]" = field(default_factory=_done)


@dataclass(slots=True)
class Scan:
    """One pass over a file that is offered for storage.

    Iterate `windows` to the end; then the whole file's digest, size and chunk map are known.

    Attributes:
        path: The path that the file will have in its artifact.
        source: Where its bytes are.
        secret: The key of its chunk keys, within an encrypted scope.
        buffers: The memory to read it into, shared with no scan that goes on meanwhile.
        chunk_map: The chunks so far: key and length.
        size: The bytes so far.
    """

    path: str
    source: Path | bytes
    secret: bytes | None = None
    buffers: Buffers = field(default_factory=Buffers)
    chunk_map: list[tuple[str, int]] = field(default_factory=list)
    size: int = 0
    _whole: Hash = field(default_factory=hashlib.sha256)
    _passed: "Future[None]" = field(default_factory=_done)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, once every window was taken."""
        self._passed.result()
        return self._whole.hexdigest()

    def entry(self) -> FileEntry:
        """Return the file as its manifest lists it."""
        return FileEntry(self.path, self.size, self.sha256, media_type(self.path))

    def windows(self) -> Iterator[list[ChunkData]]:
        """Yield the file's chunks, at most one window of bytes at a time.

        Raises:
            SourceError: The source is no readable plain file, or changed meanwhile.
        """
        self.chunk_map, self.size, self._whole = [], 0, hashlib.sha256()
        with _opened(self.source, self.buffers) as source:
            spans = _spans(chunking.cuts(source.read, source.size))
            hashed = self._at_once if source.size <= _SLICE else self._one_ahead
            for chunks in hashed(source, spans):
                self.chunk_map += [(chunk.key, len(chunk.data)) for chunk in chunks]
                self.size += sum(len(chunk.data) for chunk in chunks)
                yield chunks
            source.check_unchanged()

    def _at_once(
        self, source: "_Source", spans: Iterator[list[chunking.Cut]]
    ) -> Iterator[list[ChunkData]]:
        """Yield the windows of a small source, hashed here: a thread would cost more."""
        for span in spans:
            view = source.window(span[0].offset, span[-1].offset + span[-1].length - span[0].offset)
            source.fill(view, span[0].offset)
            self._whole.update(view)
            yield [
                ChunkData(chunk_key(data, self.secret), data)
                for data in (view[cut.offset - span[0].offset :][: cut.length] for cut in span)
            ]

    def _one_ahead(
        self, source: "_Source", spans: Iterator[list[chunking.Cut]]
    ) -> Iterator[list[ChunkData]]:
        """Yield windows while the next one is read and hashed."""
        pool = self.buffers.pool
        hashing = InOrder(pool)

        def begin(span: list[chunking.Cut]) -> Future[tuple[list[ChunkData], Future[None]]]:
            start = span[0].offset
            view = source.window(start, span[-1].offset + span[-1].length - start)
            return pool.submit(_fill, source, span, view, hashing, self._whole, self.secret)

        ahead: Future[tuple[list[ChunkData], Future[None]]] | None = begin(next(spans))
        try:
            while ahead is not None:
                chunks, self._passed = ahead.result()
                self.buffers.keep_until(self._passed)
                following = next(spans, None)
                ahead = None if following is None else begin(following)
                yield chunks
        finally:
            if ahead is not None:
                wait([ahead])  # it reads a file that is closed next


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

    def __init__(self, file: int, name: str, buffers: Buffers) -> None:
        self._file = file
        self._name = name
        self._found = os.fstat(file)
        self.size = self._found.st_size
        self._buffers = buffers

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self.fill(memoryview(data), offset)
        return bytes(data)

    def window(self, offset: int, length: int) -> memoryview:
        return self._buffers.take(length, self.size - offset)

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
def _opened(source: Path | bytes, buffers: Buffers) -> Iterator[_Source]:
    if not isinstance(source, Path):
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
        yield _FileSource(file, str(source), buffers)
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


def _fill(
    source: _Source,
    span: Sequence[chunking.Cut],
    view: memoryview,
    hashing: "InOrder",
    whole: Hash,
    secret: bytes | None,
) -> tuple[list[ChunkData], Future[None]]:
    """Return the chunks of a window, and what is done when the whole digest has passed it."""
    chunks, base = [], span[0].offset
    passed: Future[None] = Future()
    for cut in span:
        key = blake3() if secret is None else blake3(key=secret)
        stop = cut.offset + cut.length
        for start in range(cut.offset, stop, _SLICE):
            piece = view[start - base : min(start + _SLICE, stop) - base]
            source.fill(piece, start)
            passed = hashing.submit(whole.update, piece)
            key.update(piece)
        chunks.append(ChunkData(key.hexdigest(), view[cut.offset - base : stop - base]))
    return chunks, passed


class InOrder:
    """Jobs that run one after the other, in a pool that never waits for them."""

    def __init__(self, pool: Executor) -> None:
        """Begin with no job."""
        self._pool = pool
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Future[None], Callable[[memoryview], None], memoryview]] = deque()
        self._running = False

    def submit(self, job: Callable[[memoryview], None], data: memoryview) -> Future[None]:
        """Return what is done once a job has had its bytes."""
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
