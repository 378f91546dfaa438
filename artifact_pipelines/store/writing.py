"""Bytes on their way into a new file, past the page cache where the system lets them.

A pack, or a checkpoint that is brought back, is large and written once. Through the cache each
byte would be copied into a page of its own, which costs more than to hash it, and the pages
would drive out what a trainer on the same machine reads.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from artifact_pipelines.store.chunking import MIB

STAGE = 4 * MIB
"""Bytes that are collected and written at once."""

_ALIGNMENT = 4096  # of memory, offsets and lengths that pass the cache by
_HUGE = 2 * MIB
_DIRECT = getattr(os, "O_DIRECT", 0)


class Stream:
    """Bytes that are appended to an open file, by a thread while the next ones are collected.

    What is shorter than a stage is written at the end, in one call. An error of a write is
    raised by the call that finds it, at the latest by `finish`.
    """

    def __init__(self, file: int) -> None:
        """Append to a new, empty file that is open for writing; whoever opened it closes it."""
        self._file = file
        self._stage, self._filled = memoryview(b""), 0
        self._spare: memoryview | None = None
        self._writing: Future[None] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._direct = False
        self._written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; they may change once this returns."""
        view = memoryview(data).cast("B")
        while view:
            if self._filled == len(self._stage):
                self._next_stage()
            count = min(len(view), len(self._stage) - self._filled)
            self._stage[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]

    def finish(self) -> None:
        """Hand everything to the system; only an fsync makes it durable."""
        self._wait()
        self._leave_direct()
        self._append(self._stage[: self._filled])
        self._filled = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Touch the file no more."""
        self.stop()

    def stop(self) -> None:
        """Wait until nothing is being written any more, whatever comes of it."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _next_stage(self) -> None:
        """Let a full stage be written, and collect in the other one."""
        if self._filled == 0:
            self._stage = room(STAGE, filled=False)
            return
        self._wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1)
            self._enter_direct()
            self._spare = room(STAGE)
        full, self._stage = self._stage, self._spare or room(STAGE)
        self._spare, self._filled = full, 0
        self._writing = self._pool.submit(self._append, full)

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _append(self, view: memoryview) -> None:
        while view:
            try:
                count = os.write(self._file, view)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._leave_direct()  # a disk whose blocks are larger
                continue
            if self._direct and count % _ALIGNMENT:
                self._leave_direct()
            elif not self._direct:
                begin_writeback(self._file, self._written, count)
            self._written += count
            view = view[count:]

    def _enter_direct(self) -> None:
        if _DIRECT:
            # Not every file system can, and one that cannot says so here.
            with contextlib.suppress(OSError):
                flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
                fcntl.fcntl(self._file, fcntl.F_SETFL, flags | _DIRECT)
                self._direct = True

    def _leave_direct(self) -> None:
        if self._direct:
            self._direct = False
            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~_DIRECT)


def room(length: int, *, filled: bool = True) -> memoryview:
    """Return new memory; what is long begins at a page.

    Args:
        length: How many bytes.
        filled: Whether all of them will be used, so that huge pages save time.
    """
    if length < MIB:
        return memoryview(bytearray(length))
    # The system gives huge pages to whole ones only.
    whole = -(-length // _HUGE) * _HUGE
    memory = mmap.mmap(-1, whole, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if filled and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[:length]


def begin_writeback(file: int, start: int, length: int) -> None:
    """Let the kernel begin to store written bytes, so that the fsync finds less to do."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.posix_fadvise(file, start, length, os.POSIX_FADV_DONTNEED)
