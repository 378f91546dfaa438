"""The object behind one published artifact: its record, its manifest and its chunk maps."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Self

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.manifest import Manifest
from artifact_pipelines.domain.record import Record
from artifact_pipelines.errors import InvalidFormatError

FORMAT: Final = "artifact-pipelines/publish/v1"

_FIELDS: Final = frozenset({"format", "record", "manifest", "chunks"})
_PAIR: Final = 2

ChunkMap = tuple[tuple[str, int], ...]
"""The chunks of one file in order: key and length in bytes."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What the store keeps about an artifact beside its bytes.

    Attributes:
        record: What the artifact is and what it was made from.
        manifest: Its files.
        chunks: The chunk map of every file, by the SHA-256 of the file.
    """

    record: Record
    manifest: Manifest
    chunks: Mapping[str, ChunkMap]

    @staticmethod
    def key(artifact: str, session: str) -> str:
        """Return the store key of the object that a session writes for an artifact.

        A session writes under its own name, which is never used again, so an object
        that nobody cites can be swept without a race against its next writer.
        """
        return f"publish/{artifact}/{session}"

    def encode(self) -> bytes:
        """Return the bytes of the object."""
        return digest.canonical(
            {
                "format": FORMAT,
                "record": self.record.encode().decode(),
                "manifest": self.manifest.encode().decode(),
                "chunks": {
                    name: [list(chunk) for chunk in chunk_map]
                    for name, chunk_map in self.chunks.items()
                },
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the publication that the bytes hold.

        Raises:
            InvalidFormatError: The bytes are not a publish object, or its parts disagree.
        """
        found = digest.parse(data)
        if found.get("format") != FORMAT or found.keys() != _FIELDS:
            raise InvalidFormatError(f"a publish object must be of format {FORMAT!r}.")
        record = Record.decode(_text(found["record"]))
        manifest = Manifest.decode(_text(found["manifest"]))
        if record.content != manifest.digest:
            raise InvalidFormatError("a publish object's record cites another manifest.")
        maps = found["chunks"]
        files = {entry.sha256 for entry in manifest.files}
        if not isinstance(maps, dict) or maps.keys() != files:
            raise InvalidFormatError("a publish object must map the chunks of each of its files.")
        chunks = {name: _chunk_map(chunk_map) for name, chunk_map in maps.items()}
        for entry in manifest.files:
            if sum(length for _, length in chunks[entry.sha256]) != entry.size:
                raise InvalidFormatError(
                    f"the chunk map of {entry.path!r} does not add up to its size."
                )
        return cls(record, manifest, chunks)

    def keys(self, without: Collection[str] = ()) -> list[str]:
        """Return the keys of the chunks of every file but some paths, each once, sorted."""
        kept = {entry.sha256 for entry in self.manifest.files if entry.path not in without}
        return sorted({key for name in kept for key, _ in self.chunks[name]})


def _text(value: object) -> bytes:
    """Return the bytes of a document inside the object."""
    if not isinstance(value, str):
        raise InvalidFormatError("a publish object must hold its record and manifest as text.")
    return value.encode()


def _chunk_map(value: object) -> ChunkMap:
    """Return the chunk map of one file."""
    if not isinstance(value, list):
        raise InvalidFormatError("a chunk map must be a list.")
    return tuple(_chunk(item) for item in value)


def _chunk(item: object) -> tuple[str, int]:
    """Return the key and length of one chunk."""
    if not isinstance(item, list) or len(item) != _PAIR:
        raise InvalidFormatError("a chunk in a chunk map must be a key and a length.")
    key, length = item
    if not digest.is_sha256(key) or type(length) is not int or length < 0:
        raise InvalidFormatError("a chunk in a chunk map must be a key and a length.")
    return key, length
