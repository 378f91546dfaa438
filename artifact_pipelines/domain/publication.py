"""The object behind one published artifact: its record, its manifest and its chunk maps."""

from collections.abc import Mapping
from dataclasses import dataclass

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.manifest import Manifest
from artifact_pipelines.domain.record import Record
from artifact_pipelines.errors import InvalidFormatError

FORMAT = "artifact-pipelines/publish/v1"

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
                "chunks": {name: [list(chunk) for chunk in self.chunks[name]] for name in self.chunks},
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Publication":
        """Return the publication that the bytes hold.

        Raises:
            InvalidFormatError: The bytes are not a publish object, or its parts disagree.
        """
        found = digest.parse(data)
        if found.get("format") != FORMAT:
            raise InvalidFormatError(f"a publish object has the format {found.get('format')!r}.")
        try:
            record = Record.decode(found["record"].encode())
            manifest = Manifest.decode(found["manifest"].encode())
            chunks = {
                str(name): tuple((str(key), int(length)) for key, length in chunk_map)
                for name, chunk_map in found["chunks"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidFormatError(f"a publish object is malformed: {error}.") from error
        if record.content != manifest.digest:
            raise InvalidFormatError("a publish object's record cites another manifest.")
        for entry in manifest.files:
            if sum(length for _, length in chunks.get(entry.sha256, ())) != entry.size:
                raise InvalidFormatError(f"the chunk map of {entry.path!r} does not add up to its size.")
        return cls(record, manifest, chunks)

    def keys(self) -> list[str]:
        """Return the keys of every chunk, each once, sorted."""
        return sorted({key for chunk_map in self.chunks.values() for key, _ in chunk_map})
