"""Where a file is cut, so that what did not change is found again.

A safetensors file is cut at its tensors, by the offsets in its header: a header that
grows moves every tensor, and every tensor's bytes stay one chunk. Any other file is cut
into windows.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

MIB = 1024 * 1024
MIN_OWN = 1 * MIB
"""A tensor below this size shares a chunk with its neighbours."""
MAX_CHUNK = 64 * MIB
"""No chunk is larger, so memory stays bounded."""
MAX_HEADER = 16 * MIB
"""A longer header is not read; the file is cut like any other."""
MAX_TENSORS = 1 << 17

_PREFIX = 8  # bytes that hold the header's length
_OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*(\d{1,18})\s*,\s*(\d{1,18})\s*\]')

Read = Callable[[int, int], bytes]
"""Return bytes of a file: offset, length."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One run of bytes of a file.

    Attributes:
        offset: Where it begins.
        length: How many bytes it has.
    """

    offset: int
    length: int


def cuts(read: Read, size: int) -> Iterator[Cut]:
    """Yield the cuts of a file: in order, without gaps, none above the largest chunk.

    The content says what a file is, not its name. A header that lies costs some
    deduplication and nothing else, since any cuts that cover the file are right.
    """
    start, boundaries = _tensors(read, size)
    if not boundaries:
        yield from _windows(0, size)
        return
    # The header is a small neighbour too. As a chunk of its own it would be the same for all
    # checkpoints of a run, and a few bytes would keep the first one's pack alive.
    yield from _grouped([0, start, *boundaries, size])


def _windows(start: int, stop: int) -> Iterator[Cut]:
    for offset in range(start, stop, MAX_CHUNK):
        yield Cut(offset, min(MAX_CHUNK, stop - offset))


def _grouped(boundaries: Sequence[int]) -> Iterator[Cut]:
    """Yield the cuts between sorted boundaries, small neighbours as one."""
    shared_from = boundaries[0]
    for start, stop in pairwise(boundaries):
        if stop - start >= MIN_OWN:
            yield from _windows(shared_from, start)
            yield from _windows(start, stop)
            shared_from = stop
        elif stop - shared_from >= MIN_OWN:
            yield from _windows(shared_from, stop)
            shared_from = stop
    yield from _windows(shared_from, boundaries[-1])


def _tensors(read: Read, size: int) -> tuple[int, list[int]]:
    """Return where a safetensors file's tensors begin, and where each one begins and ends.

    The header is searched and not parsed, so that a hostile one takes no more memory than
    its own bytes and a limited number of offsets.
    """
    if size <= _PREFIX:
        return 0, []
    length = int.from_bytes(read(0, _PREFIX), "little")
    start = _PREFIX + length
    if length > MAX_HEADER or start >= size or read(_PREFIX, 1) != b"{":
        return 0, []
    offsets = array("Q")
    for found in _OFFSETS.finditer(read(_PREFIX, length)):
        offsets.extend((int(found[1]), int(found[2])))
        if len(offsets) > 2 * MAX_TENSORS:
            return 0, []
    return start, sorted(start + offset for offset in offsets if offset < size - start)
