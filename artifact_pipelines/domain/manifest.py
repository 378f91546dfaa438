"""The files of an artifact; the digest of the list is the artifact's content digest."""

from dataclasses import dataclass

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.errors import InvalidFormatError

FORMAT = "artifact-pipelines/manifest/v1"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact.

    Attributes:
        path: Its relative POSIX path.
        size: Its length in bytes.
        sha256: The SHA-256 of its bytes.
        media_type: Its media type.
    """

    path: str
    size: int
    sha256: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of an artifact, ordered by path."""

    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        """Put the files in order and refuse paths that cannot be kept."""
        naming.check_paths(entry.path for entry in self.files)
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda entry: entry.path)))

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(entry.size for entry in self.files)

    @property
    def digest(self) -> str:
        """The content digest: the SHA-256 of the manifest's bytes."""
        return digest.sha256(self.encode())

    def encode(self) -> bytes:
        """Return the bytes of the manifest."""
        return digest.canonical(
            {
                "format": FORMAT,
                "files": [
                    {
                        "path": entry.path,
                        "size": entry.size,
                        "sha256": entry.sha256,
                        "media_type": entry.media_type,
                    }
                    for entry in self.files
                ],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Return the manifest that the bytes hold.

        Raises:
            InvalidFormatError: The bytes are no manifest of this format.
        """
        found = digest.parse(data)
        if found.get("format") != FORMAT:
            raise InvalidFormatError(f"a manifest has the format {found.get('format')!r}.")
        try:
            manifest = cls(
                tuple(
                    FileEntry(item["path"], item["size"], item["sha256"], item["media_type"])
                    for item in found["files"]
                )
            )
        except (KeyError, TypeError) as error:
            raise InvalidFormatError(f"a manifest is malformed: {error}.") from error
        if manifest.encode() != data:
            raise InvalidFormatError("a manifest is not in canonical form.")
        return manifest
