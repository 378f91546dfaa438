"""The pack: one stored object that holds many chunks and says where each one is.

    magic    8 bytes
    chunks   back to back
    footer   UTF-8 JSON: {"format", "pack", "chunks": [[key, offset, stored length,
             length, codec, base key or null, key id or null], …]}
    trailer  BLAKE3 of the footer (32 bytes), its length (8 bytes, little-endian), magic

A pack is written once under a random id that is never used again. Its footer alone
rebuilds the index.
"""

import re
import struct
from dataclasses import dataclass, replace
from typing import Any

from blake3 import blake3

from artifact_pipelines.domain import digest
from artifact_pipelines.errors import (
    CodecError,
    CorruptPackError,
    InvalidFormatError,
    KeyGoneError,
    StoreError,
)
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.codec import RAW, Bytes
from artifact_pipelines.store.encryption import DataKey, Keyring

MAGIC = b"APPACK\x00\x01"
SEALED_MAGIC = b"APPACK\x01\x01"
"""An encrypted pack begins and ends with this one."""
FORMAT = "artifact-pipelines/pack/v1"
MAX_PACK = 256 * 1024 * 1024
"""A session seals a pack at about this size and begins another."""
MAX_CHUNKS = 1 << 18
"""A pack holds no more, so that its footer stays far below what is read."""
MAX_FOOTER = 64 * 1024 * 1024
"""A longer footer is not read."""

_TRAILER = struct.Struct("<32sQ8s")
_CHUNK_KEY = re.compile(r"[0-9a-f]{64}")


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


def chunk_key(data: Bytes, secret: bytes | None = None) -> str:
    """Return the key of a chunk: the BLAKE3 of its bytes, keyed within an encrypted scope."""
    return (blake3(data) if secret is None else blake3(data, key=secret)).hexdigest()


class PackWriter:
    """A pack that is being written; it exists once it is sealed.

    Attributes:
        pack: Its id.
        size: Its bytes so far.
        chunks: Its chunks so far, in their order.
    """

    def __init__(
        self, backend: Backend, pack: str, key: DataKey | None = None, *, cold: bool = False
    ) -> None:
        """Begin a pack under an id that was never used, encrypted where there is a key."""
        self.pack = pack
        self._key = key
        self._magic = MAGIC if key is None else SEALED_MAGIC
        self.size = len(MAGIC)
        self.chunks: dict[str, Location] = {}
        self._writer = backend.create(object_key(pack), cold=cold)
        self._writer.write(self._magic)

    def has_room(self, length: int) -> bool:
        """Return whether a chunk of a length belongs here and not into another pack."""
        return not self.chunks or (self.size + length <= MAX_PACK and len(self.chunks) < MAX_CHUNKS)

    def add(self, key: str, data: Bytes, like: Location | None = None) -> Location:
        """Append a chunk, once.

        Args:
            key: The chunk.
            data: Its bytes as they are stored.
            like: What its length, codec and base are, unless it is stored as it is.

        Raises:
            StoreError: The pack has as many chunks as its footer can list.
        """
        if key in self.chunks:
            return self.chunks[key]
        if len(self.chunks) >= MAX_CHUNKS:
            raise StoreError(f"pack {self.pack} is full: it has {MAX_CHUNKS} chunks.")
        location = like or Location("", 0, 0, len(data))
        if self._key is not None:
            data = self._key.seal(data, self.size)
        location = replace(
            location,
            pack=self.pack,
            offset=self.size,
            stored=len(data),
            key_id=None if self._key is None else self._key.scope,
        )
        self._writer.write(memoryview(data))
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
        if self._key is not None:
            footer = self._key.seal(footer, self.size)
        trailer = _TRAILER.pack(blake3(footer).digest(), len(footer), self._magic)
        self._writer.write(footer + trailer)
        self._writer.commit()
        self.size += len(footer) + len(trailer)
        return self.size

    def abort(self) -> None:
        """Drop the pack unless it was sealed."""
        self._writer.abort()


def read_footer(backend: Backend, pack: str, keyring: Keyring | None = None) -> dict[str, Location]:
    """Return where the chunks of a pack are, by key and in their order.

    Raises:
        MissingObjectError: The store has no such pack.
        KeyGoneError: It is encrypted, and its key is not at hand.
        CorruptPackError: The object is no whole pack of that id.
    """
    key = object_key(pack)
    size = backend.size(key) or 0
    head = backend.get(key, 0, len(MAGIC))
    if size < len(MAGIC) + _TRAILER.size or head not in {MAGIC, SEALED_MAGIC}:
        raise CorruptPackError(pack, "it does not begin like a pack")
    trailer = backend.get(key, size - _TRAILER.size, _TRAILER.size)
    if len(trailer) != _TRAILER.size or not trailer.endswith(head):
        raise CorruptPackError(pack, "it does not end like a pack")
    checksum, length, _ = _TRAILER.unpack(trailer)
    start = size - _TRAILER.size - length
    if start < len(MAGIC) or length > MAX_FOOTER:
        raise CorruptPackError(pack, f"its footer claims {length} bytes")
    footer = backend.get(key, start, length)
    if blake3(footer).digest() != checksum:
        raise CorruptPackError(pack, "its footer does not match its digest")
    if head == SEALED_MAGIC:
        if keyring is None:
            raise KeyGoneError(f"pack {pack} is encrypted, and no keys are at hand.")
        try:
            footer = keyring.of(pack).open(footer, start)
        except CodecError as error:
            raise CorruptPackError(pack, "its footer does not open with its key") from error
    return _decoded(pack, footer, start)


def _decoded(pack: str, footer: bytes, end: int) -> dict[str, Location]:
    """Return what a footer says, when its chunks fill the pack up to the footer."""
    try:
        found = digest.parse(footer)
    except InvalidFormatError as error:
        raise CorruptPackError(pack, "its footer is not the JSON of a footer") from error
    if found.get("format") != FORMAT or found.get("pack") != pack:
        raise CorruptPackError(pack, "its footer is of another pack or format")
    entries = found.get("chunks")
    if not isinstance(entries, list):
        raise CorruptPackError(pack, "its footer lists no chunks")
    chunks: dict[str, Location] = {}
    position = len(MAGIC)
    for entry in entries:
        match entry:
            case [str(key), offset, stored, length, str(codec), base, key_id] if (
                _CHUNK_KEY.fullmatch(key)
                and key not in chunks
                and all(map(_is_count, (offset, stored, length)))
                and all(name is None or isinstance(name, str) for name in (base, key_id))
            ):
                location = Location(pack, offset, stored, length, codec, base, key_id)
            case _:
                raise CorruptPackError(pack, "its footer has a malformed entry")
        if location.offset != position:
            raise CorruptPackError(pack, f"its footer leaves a gap or overlap at {position}")
        position += location.stored
        chunks[key] = location
    if position != end:
        raise CorruptPackError(pack, "its footer does not account for all of its bytes")
    return chunks


def _is_count(value: Any) -> bool:  # noqa: ANN401  a value of a damaged or hostile footer
    return type(value) is int and value >= 0
