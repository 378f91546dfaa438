"""Where a file is cut, so that what did not change is found again.

A safetensors file is cut at its tensors, by the offsets in its header: a header that
grows moves every tensor, and every tensor's bytes stay one chunk. Any other file is cut
into windows.
"""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MIB = 1024 * 1024
MIN_OWN = 1 * MIB
"""A tensor below this size shares a chunk with its neighbours."""
MAX_CHUNK = 64 * MIB
"""No chunk is larger, so memory stays bounded."""
MAX_HEADER = 100 * 1000 * 1000
"""The largest header that the safetensors format allows."""

_PREFIX = struct.Struct("<Q")

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
    """Yield the cuts of a file: in order, without gaps, none above the largest chunk."""
    spans = _tensor_spans(read, size)
    if spans is None:
        yield from _windows(0, size)
        return
    shared_from = end = 0
    for start, stop in spans:
        if stop - start >= MIN_OWN or start - shared_from >= MIN_OWN:
            yield from _windows(shared_from, start)
            shared_from = start
        if stop - start >= MIN_OWN:
            yield from _windows(start, stop)
            shared_from = stop
        end = stop
    yield from _windows(shared_from, max(end, size))


def _windows(start: int, stop: int) -> Iterator[Cut]:
    for offset in range(start, stop, MAX_CHUNK):
        yield Cut(offset, min(MAX_CHUNK, stop - offset))


def _tensor_spans(read: Read, size: int) -> list[tuple[int, int]] | None:
    """Return the bytes of the header and of each tensor, or None for any other file.

    A header that does not describe exactly the bytes behind it is no header: the file
    is then cut like any other, for it is not the store's business to refuse it.
    """
    if size < _PREFIX.size:
        return None
    length = _PREFIX.unpack(read(0, _PREFIX.size))[0]
    base = _PREFIX.size + length
    if not 0 < length <= min(MAX_HEADER, size - _PREFIX.size) or read(_PREFIX.size, 1) != b"{":
        return None
    try:
        header = json.loads(read(_PREFIX.size, length))
        found = sorted(
            (base + int(tensor["data_offsets"][0]), base + int(tensor["data_offsets"][1]))
            for name, tensor in header.items()
            if name != "__metadata__"
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    spans, position = [(0, base)], base
    for start, stop in found:
        if start != position or stop < start:
            return None
        if stop > start:
            spans.append((start, stop))
        position = stop
    return spans if position == size else None
