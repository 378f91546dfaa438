"""The pack: one stored object that holds many chunks and says where each one is.

    magic    8 bytes
    chunks   back to back
    footer   UTF-8 JSON: {"format", "pack", "chunks": [[key, offset, stored length,
             length, codec, base key or null, key id or null], …]}
    trailer  BLAKE3 of the footer (32 bytes), its length (8 bytes, little-endian), magic

A pack is written once under a random id that is never used again. Its footer alone
rebuilds the index.
"""

import struct
from dataclasses import dataclass

from blake3 import blake3

from artifact_pipelines.domain import digest
from artifact_pipelines.errors import InvalidFormatError
from artifact_pipelines.store.backend import Backend

MAGIC = b"APPACK\x00\x01"
FORMAT = "artifact-pipelines/pack/v1"
MAX_PACK = 256 * 1024 * 1024
"""A session seals a pack at about this size and begins another."""
RAW = "raw"

_TRAILER = struct.Struct("<32sQ8s")
_ENTRY_FIELDS = 7


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk is.

    Attributes:
        pack: The pack.
        offset: Where its stored bytes begin in the pack.
        stored: How many there are.
        length: How many bytes the chunk has once decoded.
        codec: How it is encoded.
        base: The chunk that it is a difference from.
        key_id: The key that it is encrypted with.
    """

    pack: str
    offset: int
    stored: int
    length: int
    codec: str = RAW
    base: str | None = None
    key_id: str | None = None


def object_key(pack: str) -> str:
    """Return the store key of a pack."""
    return f"packs/{pack[:2]}/{pack}"


def chunk_key(data: bytes | memoryview) -> str:
    """Return the key of a chunk: the BLAKE3 of its bytes."""
    return blake3(data).hexdigest()


class PackWriter:
    """A pack that is being written."""

    def __init__(self, backend: Backend, pack: str) -> None:
        """Begin a pack under an id that was never used."""
        self.pack = pack
        self.size = len(MAGIC)
        self.chunks: dict[str, Location] = {}
        self._writer = backend.create(object_key(pack))
        self._writer.write(MAGIC)

    def add(self, key: str, data: bytes | memoryview) -> Location:
        """Append a chunk, once."""
        if key in self.chunks:
            return self.chunks[key]
        location = Location(self.pack, self.size, len(data), len(data))
        self._writer.write(data)
        self.size += len(data)
        self.chunks[key] = location
        return location

    def seal(self) -> int:
        """Write the footer, make the pack durable and return its size in bytes."""
        footer = digest.canonical(
            {
                "format": FORMAT,
                "pack": self.pack,
                "chunks": [
                    [key, at.offset, at.stored, at.length, at.codec, at.base, at.key_id]
                    for key, at in self.chunks.items()
                ],
            }
        )
        trailer = _TRAILER.pack(blake3(footer).digest(), len(footer), MAGIC)
        self._writer.write(footer + trailer)
        self._writer.commit()
        self.size += len(footer) + len(trailer)
        return self.size

    def abort(self) -> None:
        """Drop the pack unless it was sealed."""
        self._writer.abort()


def read_footer(backend: Backend, pack: str) -> dict[str, Location]:
    """Return where the chunks of a pack are, by key.

    Raises:
        MissingObjectError: The store has no such pack.
        InvalidFormatError: The object is no whole pack of that id.
    """
    key = object_key(pack)
    size = backend.size(key)
    trailer = backend.get(key, max((size or 0) - _TRAILER.size, 0))
    whole = size is not None and size >= len(MAGIC) + _TRAILER.size
    if size is None or not whole or backend.get(key, 0, len(MAGIC)) != MAGIC:
        raise InvalidFormatError(f"pack {pack} does not begin like a pack.")
    checksum, length, magic = _TRAILER.unpack(trailer)
    start = size - _TRAILER.size - length
    if magic != MAGIC or start < len(MAGIC):
        raise InvalidFormatError(f"pack {pack} does not end like a pack.")
    footer = backend.get(key, start, length)
    if blake3(footer).digest() != checksum:
        raise InvalidFormatError(f"the footer of pack {pack} is damaged.")
    found = digest.parse(footer)
    if found.get("format") != FORMAT or found.get("pack") != pack:
        raise InvalidFormatError(f"the footer of pack {pack} is of another pack or format.")
    chunks = {}
    for entry in found["chunks"]:
        if len(entry) != _ENTRY_FIELDS:
            raise InvalidFormatError(f"the footer of pack {pack} has a malformed entry.")
        name, offset, stored, raw, codec, base, key_id = entry
        if offset < len(MAGIC) or stored < 0 or offset + stored > start:
            raise InvalidFormatError(f"the footer of pack {pack} points outside the pack.")
        chunks[str(name)] = Location(pack, offset, stored, raw, codec, base, key_id)
    return chunks
