"""Manifests: the files of an artifact, and the content digest that stands for them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.errors import InvalidFormatError

FORMAT: Final = "artifact-pipelines/manifest/v1"
TRAINING_ONLY: Final = "optimizer."
"""How the names of the files begin that only training needs, and that slimming removes."""

_MEDIA_TYPE: Final = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
)
_FILE_FIELDS: Final = frozenset({"path", "size", "sha256", "media_type"})


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an artifact.

    Attributes:
        path: The path below the artifact's root.
        size: The number of bytes.
        sha256: The digest of the whole file.
        media_type: The type of the content, as `type/subtype` in lowercase.
    """

    path: str
    size: int
    sha256: str
    media_type: str = "application/octet-stream"

    def __post_init__(self) -> None:
        """Refuse what a manifest may not hold."""
        if type(self.size) is not int or not 0 <= self.size <= digest.MAX_INTEGER:
            raise InvalidFormatError(f"file {self.path!r} has no valid size: {self.size!r}.")
        digest.check_sha256(self.sha256, f"the digest of file {self.path!r}")
        if not naming.matches(_MEDIA_TYPE, self.media_type):
            raise InvalidFormatError(
                f"file {self.path!r} has no valid media type: {self.media_type!r}."
            )


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of an artifact, by path.

    Attributes:
        files: The files in the order of their paths' code points.
    """

    files: tuple[FileEntry, ...]
    _encoded: bytes = field(init=False, repr=False)

    def __init__(self, files: Iterable[FileEntry], *, stored: bytes | None = None) -> None:
        """Put the files in order.

        Raises:
            InvalidNameError: If the paths cannot exist side by side.
        """
        ordered = tuple(sorted(files, key=lambda entry: entry.path))
        naming.check_paths(entry.path for entry in ordered)
        object.__setattr__(self, "files", ordered)
        object.__setattr__(self, "_encoded", stored or digest.canonical(_document(ordered)))

    def encode(self) -> bytes:
        """Return the bytes behind the content digest."""
        return self._encoded

    @property
    def digest(self) -> str:
        """Return the content digest."""
        return digest.sha256(self._encoded)

    @property
    def size(self) -> int:
        """Return the number of bytes of all files."""
        return sum(entry.size for entry in self.files)

    @property
    def training(self) -> int:
        """Return the number of bytes that only training needs."""
        return sum(entry.size for entry in self.files if entry.path.startswith(TRAINING_ONLY))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the manifest that bytes hold, with these bytes behind its digest.

        Raises:
            InvalidFormatError: If they are no manifest.
            InvalidNameError: If the paths cannot exist side by side.
        """
        document = digest.parse(data)
        if document.get("format") != FORMAT or set(document) != {"format", "files"}:
            raise InvalidFormatError(f"a manifest must be of format {FORMAT!r}.")
        listed = document["files"]
        if not isinstance(listed, list):
            raise InvalidFormatError("a manifest must list its files.")
        manifest = cls((_entry(item) for item in listed), stored=data)
        if [entry.path for entry in manifest.files] != [item["path"] for item in listed]:
            raise InvalidFormatError("a manifest must list its files in the order of their paths.")
        return manifest


def _document(files: tuple[FileEntry, ...]) -> dict[str, Any]:
    """Return the JSON form of a manifest."""
    return {
        "format": FORMAT,
        "files": [
            {
                "path": entry.path,
                "size": entry.size,
                "sha256": entry.sha256,
                "media_type": entry.media_type,
            }
            for entry in files
        ],
    }


def _entry(item: object) -> FileEntry:
    """Return the file that a manifest's item describes."""
    if not isinstance(item, dict) or item.keys() != _FILE_FIELDS:
        raise InvalidFormatError("a file in a manifest must have path, size, sha256, media_type.")
    if not isinstance(item["path"], str):
        raise InvalidFormatError("a file in a manifest must have a text as its path.")
    return FileEntry(**item)
