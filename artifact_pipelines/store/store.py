"""The store: files in, verified files out, by way of chunks in packs."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.manifest import FileEntry
from artifact_pipelines.errors import (
    CodecError,
    CorruptChunkError,
    DigestMismatchError,
    KeyGoneError,
    MissingObjectError,
    StoreError,
)
from artifact_pipelines.store import codec
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.chunking import MIB
from artifact_pipelines.store.encryption import Keyring, data_key
from artifact_pipelines.store.fetching import new_folder, write_file
from artifact_pipelines.store.pack import (
    Location,
    PackWriter,
    chunk_key,
    object_key,
    read_footer,
)
from artifact_pipelines.store.scanning import Hash, InOrder

_COALESCE = 16 * MIB  # bytes of neighbouring chunks that are read at once
_BATCH = 512  # chunks that are looked up at once
_LOOKS = 4  # how often a chunk is looked for that moves while it is read

ChunkMap = Sequence[tuple[str, int]]
Locate = Callable[[Sequence[str]], Mapping[str, Location]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk that is to be read, and where it and its base are."""

    key: str
    place: Location
    base: Location | None


_Run = list[_Piece]


class Store:
    """Chunks, files and small objects on one backend."""

    def __init__(self, backend: Backend, keyring: Keyring | None = None) -> None:
        """Use a backend, and the keys of what is encrypted on it."""
        self.backend = backend
        self.keyring = keyring

    def open_pack(self, pack: str, scope: str | None = None, *, cold: bool = False) -> PackWriter:
        """Return the writer of a new pack, encrypted within a scope, perhaps of the cold tier."""
        key = None if scope is None else self._keys.create(pack, scope)
        return PackWriter(self.backend, pack, key, cold=cold)

    def delete_pack(self, pack: str) -> bool:
        """Delete a pack and its data key, and return whether there was a pack."""
        there = self.backend.delete(object_key(pack))
        self.backend.delete(data_key(pack))
        return there

    def read_footer(self, pack: str) -> dict[str, Location]:
        """Return where the chunks of a pack are, by key and in their order."""
        return read_footer(self.backend, pack, self.keyring)

    def chunk_key(self, data: codec.Bytes, scope: str | None) -> str:
        """Return the key of a chunk within a scope, or outside of any."""
        return chunk_key(data, None if scope is None else self._keys.chunk_secret(scope))

    def read_chunk(self, key: str, location: Location, base: Location | None = None) -> codec.Bytes:
        """Return a chunk's bytes, verified.

        Args:
            key: The chunk.
            location: Where it is.
            base: Where the chunk is that it is a difference from, if it is one.

        Raises:
            CorruptChunkError: It, or its base, is damaged.
            MissingObjectError: A pack or the base is not there.
        """
        stored = self.backend.read(object_key(location.pack), location.offset, location.stored)
        return self._decoded(_Piece(key, location, base), stored)

    def stored_bytes(self, location: Location) -> bytes:
        """Return the bytes of a chunk as they are coded, decrypted and otherwise unverified."""
        data = self.backend.get(object_key(location.pack), location.offset, location.stored)
        if location.key_id is not None:
            data = self._keys.of(location.pack).open(data, location.offset)
        return data

    @property
    def _keys(self) -> Keyring:
        if self.keyring is None:
            raise KeyGoneError("something here is encrypted, and no keys are at hand.")
        return self.keyring

    def read_chunks(self, keys: Sequence[str], locate: Locate) -> Iterator[codec.Bytes]:
        """Yield chunks in order, each one verified, while the next ones are read."""
        with ThreadPoolExecutor(1) as pool:
            yield from self._chunks(keys, locate, pool)

    def read_file(self, chunks: ChunkMap, locate: Locate, sha256: str) -> Iterator[bytes]:
        """Yield the bytes of a file, each chunk verified, and the whole at the end.

        Raises:
            CorruptChunkError: A chunk is damaged.
            MissingObjectError: A chunk is not to be found.
            DigestMismatchError: The chunks are sound, but are not this file.
        """
        whole = hashlib.sha256()
        with ThreadPoolExecutor(2) as pool:
            hashing = InOrder(pool)
            hashed: Future[None] | None = None
            for data in self._chunks((key for key, _ in chunks), locate, pool):
                if hashed is not None:
                    hashed.result()
                hashed = hashing.submit(whole.update, data)
                yield bytes(data)
            if hashed is not None:
                hashed.result()
        _check_whole("a file", sha256, whole)

    def read_range(
        self, chunks: ChunkMap, locate: Locate, offset: int, length: int
    ) -> Iterator[bytes]:
        """Yield a range of a file's bytes from the chunks that hold it, each one verified."""
        wanted: list[tuple[str, int, int]] = []
        start = 0
        for key, size in chunks:
            first, last = max(offset - start, 0), min(offset + length - start, size)
            if first < last:
                wanted.append((key, first, last))
            start += size
        found = self.read_chunks([key for key, _, _ in wanted], locate)
        for (_, first, last), data in zip(wanted, found, strict=True):
            yield bytes(memoryview(data)[first:last])

    def fetch(
        self, files: Sequence[tuple[FileEntry, ChunkMap]], locate: Locate, target: Path
    ) -> Path:
        """Write a verified file set to a folder, all of it or nothing.

        Raises:
            InvalidNameError: A path leaves the folder, or two are one file.
            StoreError: The folder is there already with something in it, or cannot be written.
        """
        naming.check_paths(entry.path for entry, _ in files)
        with new_folder(target) as folder:
            self._write_files(folder, files, locate)
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

    def _write_files(
        self, folder: Path, files: Sequence[tuple[FileEntry, ChunkMap]], locate: Locate
    ) -> None:
        # The chunks of all files are one sequence, so that reading is ahead across files too.
        with ThreadPoolExecutor(2) as pool:
            every = (key for key, _ in chain.from_iterable(chunks for _, chunks in files))
            pieces = self._chunks(every, locate, pool)
            for entry, chunks in files:
                path = folder / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb", buffering=0) as file:
                    whole = hashlib.sha256()
                    write_file(file.fileno(), islice(pieces, len(chunks)), whole, pool)
                    _check_whole(f"the file {entry.path!r}", entry.sha256, whole)
                    os.fsync(file.fileno())

    def _chunks(self, keys: Iterable[str], locate: Locate, pool: Executor) -> Iterator[memoryview]:
        """Yield verified chunks in order, while the next ones are read."""
        ahead: tuple[_Run, Future[list[memoryview]]] | None = None
        for run in _located(keys, locate):
            current, ahead = ahead, (run, pool.submit(self._read_run, run))
            if current is not None:
                yield from self._taken(*current, locate)
                # Nothing may hold the bytes that were taken while the next are waited for.
                del current
        if ahead is not None:
            yield from self._taken(*ahead, locate)

    def _taken(
        self, run: _Run, reading: Future[list[memoryview]], locate: Locate
    ) -> Iterator[memoryview]:
        try:
            yield from reading.result()
        except MissingObjectError:
            for piece in run:
                yield self._sought(piece, locate)

    def _sought(self, piece: _Piece, locate: Locate) -> memoryview:
        """Return a chunk that may have moved to another pack since it was looked up."""
        for left in reversed(range(_LOOKS)):
            (found,) = _pieces([piece.key], locate)
            try:
                return memoryview(self.read_chunk(found.key, found.place, found.base))
            except MissingObjectError:
                if not left or (found.place, found.base) == (piece.place, piece.base):
                    raise
            piece = found
        raise AssertionError  # the last look returns or raises

    def _read_run(self, run: _Run) -> list[memoryview]:
        first, last = run[0].place, run[-1].place
        length = last.offset + last.stored - first.offset
        data = self.backend.read(object_key(first.pack), first.offset, length)
        found = []
        for piece in run:
            start = piece.place.offset - first.offset
            found.append(self._decoded(piece, data[start : start + piece.place.stored]))
        return found

    def _decoded(self, piece: _Piece, stored: memoryview) -> memoryview:
        """Return the bytes behind the stored ones, verified."""
        place, base = piece.place, None
        if (place.base is not None) != codec.needs_base(place.codec):
            raise StoreError(
                f"chunk {piece.key[:16]} is stored as {place.codec!r} in a way unknown here; "
                "use a newer version."
            )
        if codec.needs_base(place.codec):
            if piece.base is None:
                raise MissingObjectError(f"chunk {place.base}")
            if codec.needs_base(piece.base.codec):
                raise CorruptChunkError(
                    place.pack, piece.key, "", "its base is a difference itself."
                )
            base = self.read_chunk(str(place.base), piece.base)
        try:
            if place.key_id is not None:
                stored = memoryview(self._keys.of(place.pack).open(stored, place.offset))
            data = memoryview(codec.decode(place.codec, stored, place.length, base))
        except CodecError as error:
            raise CorruptChunkError(place.pack, piece.key, "", str(error)) from error
        actual = self.chunk_key(data, place.key_id)
        if actual != piece.key:
            raise CorruptChunkError(place.pack, piece.key, actual)
        return data


def _located(keys: Iterable[str], locate: Locate) -> Iterator[_Run]:
    """Yield runs of neighbours in one pack, each to be read at once."""
    rest = iter(keys)
    while batch := list(islice(rest, _BATCH)):
        run: _Run = []
        held = 0
        for piece in _pieces(batch, locate):
            place = piece.place
            if run:
                last = run[-1].place
                adjacent = place.pack == last.pack and place.offset == last.offset + last.stored
                # Stored bytes may be few for much that is decoded.
                if not adjacent or held + max(place.stored, place.length) > _COALESCE:
                    yield run
                    run, held = [], 0
            run.append(piece)
            held += max(place.stored, place.length)
        if run:
            yield run


def _pieces(keys: Sequence[str], locate: Locate) -> list[_Piece]:
    """Return where chunks and their bases are.

    Raises:
        MissingObjectError: One is not to be found.
    """
    places = locate(keys)
    for key in keys:
        if key not in places:
            raise MissingObjectError(f"chunk {key}")
    bases = sorted({place.base for place in places.values() if place.base is not None})
    found = locate(bases) if bases else {}
    return [
        _Piece(key, place, None if place.base is None else found.get(place.base))
        for key, place in ((key, places[key]) for key in keys)
    ]


def _check_whole(what: str, expected: str, whole: Hash) -> None:
    if whole.hexdigest() != expected:
        raise DigestMismatchError(what, expected, whole.hexdigest())
