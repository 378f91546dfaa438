"""One tensor of an artifact: only the chunks that hold it are read."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.manifest import FileEntry
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.errors import (
    DigestMismatchError,
    InvalidFormatError,
    StoreError,
    UnknownArtifactError,
)
from artifact_pipelines.registry.reading import Artifact, Reading
from artifact_pipelines.store.fetching import new_folder

_PREFIX: Final = 8  # bytes that hold the header's length
_MAX_HEADER: Final = 100 * 1000 * 1000  # as the format has it
_SUFFIX: Final = ".safetensors"
_FILE: Final = "tensors.safetensors"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is in an artifact.

    Attributes:
        name: Its name.
        path: The file that holds it.
        dtype: Its type, as safetensors names it: `F32`, `BF16`, ….
        shape: Its shape.
        offset: Where its bytes begin in the file.
        size: How many bytes it has.
    """

    name: str
    path: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that was read.

    Attributes:
        place: Where it was.
        data: Its bytes, little endian, the last axis running fastest.
    """

    place: Place
    data: bytes


class Tensors(Reading):
    """The registry, as far as single tensors are read."""

    def tensors(self, reference: str, path: str | None = None) -> list[Place]:
        """Return the tensors in the safetensors files of an artifact, or in one of them.

        Raises:
            GoneError: The bytes that were asked for were removed on purpose.
        """
        artifact = self.find(reference)
        with self._reading(artifact) as publication:
            return self._places(artifact, publication, path)

    def read_tensor(self, reference: str, name: str, path: str | None = None) -> Tensor:
        """Return one tensor of an artifact, each chunk that holds it verified.

        Raises:
            UnknownArtifactError: There is no such tensor, or several files have one.
        """
        artifact = self.find(reference)
        with self._reading(artifact) as publication:
            place = _named(artifact, self._places(artifact, publication, path), name)
            return Tensor(place, b"".join(self._bytes(publication, place)))

    def fetch_tensors(self, reference: str, names: Sequence[str], to: Path) -> Path:
        """Write some tensors to the file `tensors.safetensors` in a new folder, all or nothing."""
        artifact = self.find(reference)
        with self._reading(artifact) as publication:
            there = self._places(artifact, publication, None)
            places = [_named(artifact, there, name) for name in dict.fromkeys(names)]
            try:
                with new_folder(to) as folder, (folder / _FILE).open("xb") as file:
                    file.write(_header(places))
                    for place in places:
                        for data in self._bytes(publication, place):
                            file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                if isinstance(error, StoreError):
                    raise
                raise StoreError(f"{to} cannot be written: {error.strerror}.") from error
        return to

    def _places(
        self, artifact: Artifact, publication: Publication, path: str | None
    ) -> list[Place]:
        self._check_object(artifact)
        chosen = self._chosen(artifact, publication, None if path is None else [path])
        return [
            place
            for entry in chosen
            if path is not None or entry.path.endswith(_SUFFIX)
            for place in self._header(publication, entry)
        ]

    def _header(self, publication: Publication, entry: FileEntry) -> list[Place]:
        def read(offset: int, length: int) -> bytes:
            chunks = publication.chunks[entry.sha256]
            return b"".join(self.store.read_range(chunks, self.locate, offset, length))

        length = int.from_bytes(read(0, _PREFIX), "little")
        if not 0 < length <= min(_MAX_HEADER, entry.size - _PREFIX):
            raise InvalidFormatError(f"the file {entry.path!r} is no safetensors file.")
        return _parsed(entry, read(_PREFIX, length), _PREFIX + length)

    def _bytes(self, publication: Publication, place: Place) -> Iterator[bytes]:
        entry = next(one for one in publication.manifest.files if one.path == place.path)
        chunks = publication.chunks[entry.sha256]
        return self.store.read_range(chunks, self.locate, place.offset, place.size)

    def _check_object(self, artifact: Artifact) -> None:
        """Hold the publish object against its leaf: no digest of a whole file is taken here.

        Raises:
            DigestMismatchError: Its chunk maps are not those that were published.
        """
        leaf = tables.leaf
        statement = sa.select(leaf.c.body).where(leaf.c.seq == artifact.seq)
        body = self.catalog.read(lambda conn: conn.execute(statement).scalar())
        said = {} if body is None else digest.parse(bytes(body))
        expected = said.get("object_sha256")
        key = Publication.key(artifact.id, artifact.session)
        actual = digest.sha256(self.store.backend.get(key))
        if expected is not None and actual != expected:
            raise DigestMismatchError(
                f"the publish object of {artifact.reference}", expected, actual
            )


def _parsed(entry: FileEntry, header: bytes, start: int) -> list[Place]:
    """Return the tensors that a safetensors header lists, each inside of its file."""
    try:
        found = json.loads(header)
        found.pop("__metadata__", None)
        return [_place(entry, start, name, said) for name, said in found.items()]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, InvalidFormatError):
            raise
        raise InvalidFormatError(
            f"the header of {entry.path!r} is no safetensors header."
        ) from error


def _place(entry: FileEntry, start: int, name: str, said: dict[str, Any]) -> Place:
    first, last = said["data_offsets"]
    dtype, shape = said["dtype"], tuple(said["shape"])
    whole = all(type(number) is int and number >= 0 for number in (first, last, *shape))
    if not whole or not isinstance(dtype, str) or not first <= last <= entry.size - start:
        raise InvalidFormatError(f"the tensor {name!r} of {entry.path!r} is not in its file.")
    if (math.prod(shape) == 0) != (first == last):
        raise InvalidFormatError(f"the tensor {name!r} of {entry.path!r} has another shape.")
    return Place(name, entry.path, dtype, shape, start + first, last - first)


def _named(artifact: Artifact, places: list[Place], name: str) -> Place:
    found = [place for place in places if place.name == name]
    if not found:
        near = ", ".join(sorted(place.name for place in places)[:5]) or "none"
        raise UnknownArtifactError(
            f"{artifact.reference} has no tensor {name!r}; it has {len(places)}, such as {near}."
        )
    if len(found) > 1:
        files = ", ".join(sorted(place.path for place in found))
        raise UnknownArtifactError(
            f"{artifact.reference} has a tensor {name!r} in each of {files}; name one of them."
        )
    return found[0]


def _header(places: Sequence[Place]) -> bytes:
    """Return the beginning of a safetensors file of some tensors."""
    said: dict[str, Any] = {}
    position = 0
    for place in places:
        said[place.name] = {
            "dtype": place.dtype,
            "shape": list(place.shape),
            "data_offsets": [position, position + place.size],
        }
        position += place.size
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PREFIX)
    return len(text).to_bytes(_PREFIX, "little") + text
