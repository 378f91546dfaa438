"""The store: files in, verified files out, by way of chunks in packs."""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.manifest import FileEntry
from artifact_pipelines.errors import (
    CorruptChunkError,
    DigestMismatchError,
    MissingObjectError,
    SourceError,
    StoreError,
)
from artifact_pipelines.store import chunking
from artifact_pipelines.store.backend import Backend, sync_folder
from artifact_pipelines.store.pack import Location, PackWriter, chunk_key, object_key

WINDOW = 64 * chunking.MIB
"""A window holds chunks of at most this many bytes together."""

_COALESCE = 8 * chunking.MIB
_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".md": "text/markdown",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".onnx": "application/onnx",
    ".parquet": "application/vnd.apache.parquet",
    ".safetensors": "application/vnd.safetensors",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}

ChunkMap = Sequence[tuple[str, int]]
Locate = Callable[[Sequence[str]], Mapping[str, Location]]


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def media_type(path: str) -> str:
    """Return the media type that a file's name suggests."""
    return _MEDIA_TYPES.get(Path(path).suffix.lower(), "application/octet-stream")


@dataclass(frozen=True, slots=True)
class ChunkData:
    """A chunk with its bytes.

    Attributes:
        key: The BLAKE3 of its bytes.
        data: The bytes.
    """

    key: str
    data: bytes


@dataclass(slots=True)
class Scan:
    """One pass over a file that is offered for storage.

    Iterate `windows` to the end; then the whole file's digest, size and chunk map are known.

    Attributes:
        path: The path that the file will have in its artifact.
        chunk_map: The chunks so far: key and length.
        size: The bytes so far.
        sha256: The SHA-256 of the file, once every window was taken.
    """

    path: str
    source: Path | bytes
    chunk_map: list[tuple[str, int]] = field(default_factory=list)
    size: int = 0
    sha256: str = ""

    def entry(self) -> FileEntry:
        """Return the file as its manifest lists it."""
        return FileEntry(self.path, self.size, self.sha256, media_type(self.path))

    def windows(self) -> Iterator[list[ChunkData]]:
        """Yield the file's chunks, at most one window of bytes at a time.

        Raises:
            SourceError: The source is no readable plain file, or changed meanwhile.
        """
        whole = hashlib.sha256()
        with ThreadPoolExecutor(1) as hasher:
            pending = None
            for chunks in self._read():
                joined = [chunk.data for chunk in chunks]
                if pending is not None:
                    pending.result()
                # Both digests release the interpreter, so one pass costs the slower one.
                pending = hasher.submit(_update, whole, joined)
                self.chunk_map += [(chunk.key, len(chunk.data)) for chunk in chunks]
                self.size += sum(len(chunk.data) for chunk in chunks)
                yield chunks
            if pending is not None:
                pending.result()
        self.sha256 = whole.hexdigest()

    def _read(self) -> Iterator[list[ChunkData]]:
        if isinstance(self.source, bytes):
            data = self.source
            yield from _grouped(lambda start, length: data[start : start + length], len(data))
            return
        try:
            file = os.open(self.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError(
                f"the file {str(self.source)!r} cannot be read: {error.strerror}; symbolic links "
                "are not followed."
            ) from error
        try:
            before = os.fstat(file)
            if not stat.S_ISREG(before.st_mode):
                raise SourceError(f"{str(self.source)!r} is not a plain file.")
            yield from _grouped(lambda start, length: _pread(file, start, length), before.st_size)
            after = os.fstat(file)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise SourceError(f"the file {str(self.source)!r} changed while it was read.")
        finally:
            os.close(file)


class Store:
    """Chunks, files and small objects on one backend."""

    def __init__(self, backend: Backend) -> None:
        """Use a backend."""
        self.backend = backend

    def open_pack(self, pack: str) -> PackWriter:
        """Return the writer of a new pack."""
        return PackWriter(self.backend, pack)

    def read_chunk(self, key: str, location: Location) -> bytes:
        """Return a chunk's bytes, verified.

        Raises:
            CorruptChunkError: They are not the chunk.
            MissingObjectError: Its pack is not there.
        """
        data = self.backend.get(object_key(location.pack), location.offset, location.stored)
        return _verified(key, location, data)

    def read_file(self, chunks: ChunkMap, locate: Locate, sha256: str) -> Iterator[bytes]:
        """Yield the bytes of a file, each chunk verified, and the whole at the end.

        Raises:
            CorruptChunkError: A chunk is damaged.
            MissingObjectError: A chunk is not to be found.
            DigestMismatchError: The chunks are sound, but are not this file.
        """
        whole = hashlib.sha256()
        with ThreadPoolExecutor(1) as hasher:
            pending = None
            for data in self._chunks(chunks, locate):
                if pending is not None:
                    pending.result()
                pending = hasher.submit(whole.update, data)
                yield data
            if pending is not None:
                pending.result()
        if whole.hexdigest() != sha256:
            raise DigestMismatchError("a file", sha256, whole.hexdigest())

    def fetch(
        self, files: Sequence[tuple[FileEntry, ChunkMap]], locate: Locate, target: Path
    ) -> Path:
        """Write a verified file set to a folder, all of it or nothing.

        Raises:
            StoreError: The folder is there already with something in it, or cannot be written.
        """
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
        if target.is_symlink() or taken:
            raise StoreError(f"{target} is already there; choose an empty or new folder.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}"
            temporary.mkdir(mode=0o700)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror}.") from error
        try:
            for entry, chunks in files:
                pieces = self.read_file(chunks, locate, entry.sha256)
                self._write_file(temporary / entry.path, pieces)
            for folder, _, _ in os.walk(temporary):
                sync_folder(Path(folder))
            temporary.chmod(0o755)
            temporary.rename(target)
            sync_folder(target.parent)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{target} cannot be written: {error.strerror}.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def put_object(self, data: bytes) -> str:
        """Keep a small object by the digest that it returns."""
        name = digest.sha256(data)
        self.backend.put(f"objects/{name}", data, if_absent=True)
        return name

    def get_object(self, name: str) -> bytes:
        """Return a small object, verified.

        Raises:
            DigestMismatchError: It is damaged.
        """
        data = self.backend.get(f"objects/{name}")
        if digest.sha256(data) != name:
            raise DigestMismatchError("a stored object", name, digest.sha256(data))
        return data

    def _chunks(self, chunks: ChunkMap, locate: Locate) -> Iterator[bytes]:
        found = locate([key for key, _ in chunks])
        for key, _ in chunks:
            if key not in found:
                raise MissingObjectError(f"chunk {key}")
        for run in _runs([(key, found[key]) for key, _ in chunks]):
            first, last = run[0][1], run[-1][1]
            length = last.offset + last.stored - first.offset
            try:
                data = memoryview(self.backend.get(object_key(first.pack), first.offset, length))
            except MissingObjectError:
                # The chunks may have moved to another pack since they were looked up.
                again = locate([key for key, _ in run])
                for key, place in run:
                    if again.get(key, place) == place:
                        raise
                    yield self.read_chunk(key, again[key])
                continue
            for key, place in run:
                start = place.offset - first.offset
                yield _verified(key, place, bytes(data[start : start + place.stored]))

    @staticmethod
    def _write_file(path: Path, pieces: Iterator[bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
            os.fsync(file.fileno())


def _verified(key: str, location: Location, data: bytes) -> bytes:
    if location.codec != "raw":
        raise StoreError(f"chunk {key[:16]} uses the codec {location.codec!r}, unknown here.")
    actual = chunk_key(data)
    if actual != key:
        raise CorruptChunkError(location.pack, key, actual)
    return data


def _runs(places: Sequence[tuple[str, Location]]) -> Iterator[list[tuple[str, Location]]]:
    """Yield neighbours in one pack together, so that they are read at once."""
    run: list[tuple[str, Location]] = []
    for key, place in places:
        if run:
            last = run[-1][1]
            adjacent = place.pack == last.pack and place.offset == last.offset + last.stored
            if not adjacent or place.offset + place.stored - run[0][1].offset > _COALESCE:
                yield run
                run = []
        run.append((key, place))
    if run:
        yield run


def _grouped(read: chunking.Read, size: int) -> Iterator[list[ChunkData]]:
    group: list[ChunkData] = []
    held = 0
    for cut in chunking.cuts(read, size):
        if group and held + cut.length > WINDOW:
            yield group
            group, held = [], 0
        data = read(cut.offset, cut.length)
        group.append(ChunkData(chunk_key(data), data))
        held += cut.length
    if group:
        yield group


def _pread(file: int, start: int, length: int) -> bytes:
    data = os.pread(file, length, start)
    pieces, missing = [data], length - len(data)
    while missing and (data := os.pread(file, missing, start + length - missing)):
        pieces.append(data)
        missing -= len(data)
    if missing:
        raise SourceError("a file became shorter while it was read.")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _update(whole: _Hash, pieces: list[bytes]) -> None:
    for piece in pieces:
        whole.update(piece)
