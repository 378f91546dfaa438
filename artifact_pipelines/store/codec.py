"""How a chunk is stored: raw, or its bytes by significance, perhaps as a difference, compressed.

Numbers of one kind differ little in their high bytes and much in their low ones. A chunk is
therefore taken in blocks of 4 MiB, and each block as `width` planes: plane k holds the bytes
k, k + width, k + 2·width, …. A plane is a frame:

    length   4 bytes, little endian; the highest bit is set when the plane is compressed
    bytes    a Zstandard frame that names its content size, or the plane as it is

What a block has beyond a multiple of the width follows it as it is.

A difference is taken first: chunk and base are read as unsigned little-endian integers of the
width, and what is left is their difference d modulo 2^bits as the zigzag (d << 1) ^ (d >> bits-1),
the shift to the right being that of a signed number. Neighbouring checkpoints differ by little in
either direction, so that its high bytes are mostly zero.

    planes/W       the planes of the bytes themselves
    difference/W   the planes of the difference from a base chunk of the same length
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from artifact_pipelines.errors import CodecError, StoreError
from artifact_pipelines.store.chunking import MAX_CHUNK, MIB
from artifact_pipelines.store.writing import room

RAW: Final = "raw"
BLOCK: Final = 4 * MIB
"""Bytes that are coded at once: a multiple of every width."""

_WIDTHS: Final = (1, 2, 4, 8)
_PLANES: Final = {f"planes/{width}": width for width in _WIDTHS}
_DIFFERENCES: Final = {f"difference/{width}": width for width in _WIDTHS}
_LEVEL: Final = 1  # higher ones cost several times the time for a point of the size
_LENGTH: Final = struct.Struct("<I")
_COMPRESSED: Final = 1 << 31
_SAMPLES: Final = 4
_SAMPLE: Final = 64 * 1024
_QUICK_SAMPLE: Final = 16 * 1024
_CLOSE: Final = 1.1  # samples whose sizes differ by less say nothing for sure
_WORTH: Final = 0.9  # what saves less is not worth the time of a writer who waits

Bytes = bytes | bytearray | memoryview
_Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk as it may be stored.

    Attributes:
        codec: How it is coded.
        data: Its stored bytes.
        differs: Whether a base is needed to read it.
    """

    codec: str
    data: Bytes
    differs: bool = False


def needs_base(codec: str) -> bool:
    """Return whether a chunk of this codec is a difference from another chunk."""
    return codec in _DIFFERENCES


def encode(data: Bytes, base: Bytes | None = None) -> Encoded:
    """Return the smallest form of a chunk, as a difference from the base where that is smallest.

    Which width and form to try is decided by a sample; the raw form is kept unless another
    one is smaller.

    Raises:
        CodecError: The chunk does not come back from the form that was found.
    """
    view = np.frombuffer(data, np.uint8)
    other = None
    if base is not None and len(base) == len(data):
        other = np.frombuffer(base, np.uint8)
    best = Encoded(RAW, data)
    for width, differs in _promising(view, other):
        stored = _encoded(view, other if differs else None, width)
        if len(stored) < len(best.data):
            kind = "difference" if differs else "planes"
            best = Encoded(f"{kind}/{width}", stored, differs)
    return _read_back(best, view, base)


def encode_quickly(data: Bytes) -> Encoded:
    """Return a chunk's planes where a small sample says that they save a tenth, or the raw form.

    Raises:
        CodecError: The chunk does not come back from them.
    """
    view = np.frombuffer(data, np.uint8)
    sample = _sample(view, _QUICK_SAMPLE)
    least, width = min((len(_encoded(sample, None, width)), width) for width in _WIDTHS)
    if least <= len(sample) * _WORTH:
        stored = _encoded(view, None, width)
        if len(stored) <= len(data) * _WORTH:
            return _read_back(Encoded(f"planes/{width}", stored), view)
    return Encoded(RAW, data)


def decode(codec: str, stored: Bytes, length: int, base: Bytes | None = None) -> Bytes:
    """Return a chunk's bytes.

    Args:
        codec: How it is stored.
        stored: Its stored bytes.
        length: Its declared length; nothing longer is ever made.
        base: The bytes of its base, where the codec needs one.

    Raises:
        CodecError: The bytes are not of that codec and length.
        StoreError: The codec is unknown.
    """
    if not 0 <= length <= MAX_CHUNK:
        raise CodecError(f"a chunk of {length} bytes is longer than any chunk.")
    if codec == RAW:
        if len(stored) != length:
            raise CodecError(f"a chunk of {length} bytes is stored as {len(stored)}.")
        return stored
    width = _PLANES.get(codec) or _DIFFERENCES.get(codec)
    if width is None:
        raise StoreError(f"a chunk uses the codec {codec!r}, unknown here; use a newer version.")
    other = None
    if needs_base(codec):
        if base is None or len(base) != length:
            raise CodecError("a difference needs a base of its own length.")
        other = np.frombuffer(base, np.uint8)
    made = room(length)
    out, rest = np.frombuffer(made, np.uint8), memoryview(stored)
    for start in range(0, length, BLOCK):
        rest = _decode_block(rest, out[start : start + BLOCK], width)
        if other is not None:
            _add(out[start : start + BLOCK], other[start : start + BLOCK], width)
    if rest:
        raise CodecError(f"{len(rest)} bytes follow the end of a chunk.")
    return made


def _read_back(found: Encoded, view: _Array, base: Bytes | None = None) -> Encoded:
    """Return a form from which a chunk was read back, since its raw bytes may soon be gone."""
    back = decode(found.codec, found.data, len(view), base if found.differs else None)
    if not np.array_equal(np.frombuffer(back, np.uint8), view):
        raise CodecError(f"a chunk does not come back from the codec {found.codec!r}.")
    return found


def _encoded(view: _Array, other: _Array | None, width: int) -> bytearray:
    out = bytearray()
    compress = zstandard.ZstdCompressor(level=_LEVEL).compress
    for start in range(0, len(view), BLOCK):
        block = view[start : start + BLOCK]
        if other is not None:
            block = _subtract(block, other[start : start + BLOCK], width)
        for plane in _planes(block, width):
            packed = compress(plane.data)
            if len(packed) < len(plane):
                out += _LENGTH.pack(len(packed) | _COMPRESSED) + packed
            else:
                out += _LENGTH.pack(len(plane))
                out += plane.data
        out += block[len(block) // width * width :].tobytes()
    return out


def _decode_block(rest: memoryview, out: _Array, width: int) -> memoryview:
    """Fill a block and return what of the stored bytes follows it."""
    whole = len(out) // width * width
    grid = out[:whole].reshape(-1, width)
    for index in range(width):
        head, rest = rest[: _LENGTH.size], rest[_LENGTH.size :]
        if len(head) < _LENGTH.size:
            raise CodecError("a chunk ends in the middle.")
        (length,) = _LENGTH.unpack(head)
        frame, rest = rest[: length & ~_COMPRESSED], rest[length & ~_COMPRESSED :]
        if len(frame) != length & ~_COMPRESSED:
            raise CodecError("a chunk ends in the middle.")
        plane: Bytes = _decompressed(frame, len(grid)) if length & _COMPRESSED else frame
        if len(plane) != len(grid):
            raise CodecError("a plane is not as long as its block.")
        grid[:, index] = np.frombuffer(plane, np.uint8)
    tail, rest = rest[: len(out) - whole], rest[len(out) - whole :]
    if len(tail) != len(out) - whole:
        raise CodecError("a chunk ends in the middle.")
    out[whole:] = np.frombuffer(tail, np.uint8)
    return rest


def _decompressed(frame: memoryview, length: int) -> bytes:
    """Return a plane; a frame that promises or holds another length is refused unread."""
    try:
        if zstandard.frame_content_size(frame) != length:
            raise CodecError("a compressed plane is not as long as its block.")
        return zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=length, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CodecError(f"a compressed plane cannot be read: {error}.") from error


def _planes(block: _Array, width: int) -> Iterator[_Array]:
    numbers = block[: len(block) // width * width].view(f"<u{width}")
    for index in range(width):
        # A shift runs three times as fast as a copy of every n-th byte.
        yield (numbers >> numbers.dtype.type(8 * index)).astype(np.uint8)


def _subtract(block: _Array, other: _Array, width: int) -> _Array:
    """Return the zigzag of the difference, and the bytes beyond the width as they are."""
    whole = len(block) // width * width
    out = block.copy()
    unsigned, bits = np.dtype(f"<u{width}"), 8 * width
    found = out[:whole].view(unsigned)
    found -= other[:whole].view(unsigned)
    sign = (found.view(f"<i{width}") >> (bits - 1)).view(unsigned)
    np.left_shift(found, 1, out=found)
    np.bitwise_xor(found, sign, out=found)
    return out


def _add(out: _Array, other: _Array, width: int) -> None:
    """Turn zigzags of differences into what they differ from the base by, in place."""
    whole = len(out) // width * width
    unsigned = np.dtype(f"<u{width}")
    found = out[:whole].view(unsigned)
    one = unsigned.type(1)
    sign = np.negative(found & one)
    np.right_shift(found, one, out=found)
    np.bitwise_xor(found, sign, out=found)
    found += other[:whole].view(unsigned)


def _promising(view: _Array, other: _Array | None) -> list[tuple[int, bool]]:
    """Return the width and form of each way that may be the smallest, by a sample."""
    sample = _sample(view, _SAMPLE)
    against = None if other is None else _sample(other, _SAMPLE)
    best = {
        differs: min(
            (len(_encoded(sample, against if differs else None, width)), width) for width in _WIDTHS
        )
        for differs in ((False, True) if other is not None else (False,))
    }
    least = min(size for size, _ in best.values())
    return [(width, differs) for differs, (size, width) in best.items() if size <= least * _CLOSE]


def _sample(whole: _Array, length: int) -> _Array:
    """Return some runs of bytes of a chunk, from places that keep the order of significance."""
    if len(whole) <= _SAMPLES * length:
        return whole
    step = (len(whole) - length) // (_SAMPLES - 1) // 8 * 8
    starts = (step * number for number in range(_SAMPLES))
    return np.concatenate([whole[start : start + length] for start in starts])
