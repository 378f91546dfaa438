"""Where a file is cut, so that what did not change is found again.

A file of tensors is cut at its tensors, wherever they stand: a safetensors file by the
offsets in its header, a zip archive, as `torch.save` and `numpy.savez` write it, by its
members. Nothing is unpickled or decompressed. Any other file is cut where its content says
so, hence bytes that were inserted move no cut but those beside them.
"""

import re
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MIB = 1024 * 1024
MIN_OWN = 1 * MIB
"""A tensor below this size shares a chunk with its neighbours."""
MAX_CHUNK = 16 * MIB
"""No chunk is larger, so memory stays bounded."""
MAX_HEADER = 16 * MIB
"""A longer header is not read; the file is cut like any other."""
MAX_TENSORS = 1 << 17
MIN_CONTENT = MIB // 4
"""A chunk that is cut by content is no smaller, so that a chunk map stays short."""
MAX_CONTENT = 2 * MIB
"""A chunk that is cut by content is no larger."""

_PREFIX = 8  # bytes that hold the header's length
_OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*(\d{1,18})\s*,\s*(\d{1,18})\s*\]')

# A cut by content comes after eight bytes whose product with an odd number is small. That is
# FastCDC with another hash: numpy takes it at twice the speed of the sums of a gear table.
_HASHED = 8
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_LIMIT = np.uint64(1 << (64 - 18))  # one place in 256 KiB
_BLOCK = 128 * 1024

# Of a zip archive: the record at its end, the two of its 64-bit form, an entry of its
# directory, and what stands before a member's data.
_END = struct.Struct("<4s4H2IH")
_END_SIGNATURE = b"PK\5\6"
_LOCATOR = struct.Struct("<4sIQI")
_LOCATOR_SIGNATURE = b"PK\6\7"
_END64 = struct.Struct("<4sQ2H2I4Q")
_END64_SIGNATURE = b"PK\6\6"
_ENTRY = struct.Struct("<4s6H3I5H2I")
_ENTRY_SIGNATURE = b"PK\1\2"
_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_SIGNATURE = b"PK\3\4"
_WIDE = 0xFFFFFFFF  # the number is in the 64-bit form
_WIDE_FIELD = 1
_MAX_COMMENT = 0xFFFF

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
    boundaries = boundaries or _members(read, size)
    if not boundaries:
        yield from _by_content(read, size)
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


def _members(read: Read, size: int) -> list[int]:
    """Return where the large members of a zip archive begin and end.

    The directory is walked and no name in it is kept. A lie in it moves a cut.
    """
    if size < _END.size or read(0, 4) != _LOCAL_SIGNATURE:
        return []
    place = _directory(read, size)
    if place is None:
        return []
    directory, position = read(*place), 0
    boundaries = array("Q")
    while position + _ENTRY.size <= len(directory):
        entry = _ENTRY.unpack_from(directory, position)
        if entry[0] != _ENTRY_SIGNATURE or len(boundaries) > 2 * MAX_TENSORS:
            break
        name, extra, comment = entry[10:13]
        fields = position + _ENTRY.size + name
        length, plain, offset = entry[8], entry[9], entry[16]
        if _WIDE in {length, plain, offset}:
            length, offset = _wide(directory[fields : fields + extra], length, plain, offset)
        position = fields + extra + comment
        if MIN_OWN <= length <= size and offset + _LOCAL.size <= size:
            before = _LOCAL.unpack(read(offset, _LOCAL.size))
            start = offset + _LOCAL.size + before[9] + before[10]
            if before[0] == _LOCAL_SIGNATURE and start + length <= size:
                boundaries.extend((start, start + length))
    return sorted(boundaries)


def _directory(read: Read, size: int) -> tuple[int, int] | None:
    """Return where a zip archive's directory is and its length, if both can be."""
    tail = min(size, _END.size + _MAX_COMMENT)
    found = read(size - tail, tail)
    at = found.rfind(_END_SIGNATURE)
    if at < 0 or at + _END.size > tail:
        return None
    end = _END.unpack_from(found, at)
    length, start = end[5], end[6]
    if at >= _LOCATOR.size and found.startswith(_LOCATOR_SIGNATURE, at - _LOCATOR.size):
        record = _LOCATOR.unpack_from(found, at - _LOCATOR.size)[2]
        if record + _END64.size > size:
            return None
        wide = _END64.unpack(read(record, _END64.size))
        if wide[0] != _END64_SIGNATURE:
            return None
        length, start = wide[8], wide[9]
    return (start, length) if length <= MAX_HEADER and start + length <= size else None


def _wide(fields: bytes, length: int, plain: int, offset: int) -> tuple[int, int]:
    """Return a member's stored length and place, taken from its 64-bit form."""
    position = 0
    while position + 4 <= len(fields):
        kind, held = struct.unpack_from("<2H", fields, position)
        position += 4
        if kind == _WIDE_FIELD:
            values = array("Q", fields[position : position + held // 8 * 8])
            values.reverse()
            # They stand in this order, and only those that do not fit the short form.
            if plain == _WIDE and values:
                values.pop()
            if length == _WIDE and values:
                length = values.pop()
            if offset == _WIDE and values:
                offset = values.pop()
            break
        position += held
    return length, offset


def _by_content(read: Read, size: int) -> Iterator[Cut]:
    position = 0
    while position < size:
        stop = min(position + MAX_CONTENT, size)
        cut = stop
        start = position + MIN_CONTENT - _HASHED
        while start + _HASHED < stop:
            block = read(start, min(_BLOCK + _HASHED - 1, stop - start))
            found = _first(block)
            if found is not None:
                cut = start + found + _HASHED
                break
            start += _BLOCK
        yield Cut(position, cut - position)
        position = cut


def _first(block: bytes) -> int | None:
    """Return the first place in a block that is followed by eight bytes to cut after."""
    first = None
    for shift in range(min(_HASHED, len(block) - _HASHED + 1)):
        words = np.frombuffer(block, "<u8", (len(block) - shift) // _HASHED, shift)
        hits = words * _FACTOR < _LIMIT
        at = int(hits.argmax())
        if hits[at] and (first is None or at * _HASHED + shift < first):
            first = at * _HASHED + shift
    return first
