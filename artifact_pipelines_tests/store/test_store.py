"""Files go in and come out the same, verified, in bounded memory."""

import errno
import hashlib
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from artifact_pipelines.domain.manifest import FileEntry
from artifact_pipelines.errors import (
    CorruptChunkError,
    DigestMismatchError,
    InvalidNameError,
    MissingObjectError,
    SourceError,
    StoreError,
)
from artifact_pipelines.store import chunking, codec, files, scanning, writing
from artifact_pipelines.store import store as storing
from artifact_pipelines.store.chunking import MIB
from artifact_pipelines.store.files import FileBackend
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines.store.pack import Location, chunk_key, object_key, read_footer
from artifact_pipelines.store.scanning import ChunkData, Scan, media_type
from artifact_pipelines.store.store import Store
from artifact_pipelines.store.writing import STAGE

PACK = "ab" * 16

Placed = tuple[FileEntry, list[tuple[str, int]]]


@contextmanager
def lowered(window: int = 1024) -> Iterator[None]:
    """Change the sizes so that a few bytes fill a window."""
    with (
        mock.patch.multiple(scanning, WINDOW=window, _SLICE=window // 4),
        mock.patch.multiple(storing, _COALESCE=window // 2, _BATCH=7),
        mock.patch.object(writing, "STAGE", max(window // 4, 4096)),
    ):
        yield


def lowered_cuts(window: int = 1024) -> AbstractContextManager[object]:
    """Return a patch under which a few bytes are a large tensor."""
    return mock.patch.multiple(
        chunking,
        MIN_OWN=window // 16,
        MAX_CHUNK=window,
        MIN_CONTENT=window,
        MAX_CONTENT=window,
    )


class Shelf:
    """A store with one pack for each file set, and the places of its chunks."""

    def __init__(self, backend: FileBackend | MemoryBackend) -> None:
        self.store = Store(backend)
        self.backend = backend
        self.places: dict[str, Location] = {}
        self.asked: list[int] = []

    def keep(self, files: Mapping[str, Path | bytes], pack: str = PACK) -> list[Placed]:
        """Store files as the registry does."""
        writer = self.store.open_pack(pack)
        placed: list[Placed] = []
        for path, source in files.items():
            scan = Scan(path, source)
            for window in scan.windows():
                for chunk in window:
                    if chunk.key not in self.places:
                        self.places[chunk.key] = writer.add(chunk.key, chunk.data)
            placed.append((scan.entry(), scan.chunk_map))
        writer.seal()
        return placed

    def locate(self, keys: Sequence[str]) -> dict[str, Location]:
        """Return where chunks are."""
        self.asked.append(len(keys))
        return {key: self.places[key] for key in keys if key in self.places}

    def read(self, placed: Placed) -> bytes:
        """Return a file."""
        entry, chunks = placed
        return b"".join(self.store.read_file(chunks, self.locate, entry.sha256))

    def damage(self, pack: str = PACK, offset: int = 8) -> None:
        """Flip a bit."""
        data = bytearray(self.backend.get(object_key(pack)))
        data[offset] ^= 1
        self.backend.put(object_key(pack), bytes(data))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(MemoryBackend())


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Scanning


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1023, 1024, 1025, 4096, 5000, 20_000])
@pytest.mark.parametrize("kind", ["file", "bytes"])
def test_a_scan_takes_both_digests_in_one_pass(tmp_path: Path, kind: str, size: int) -> None:
    data = noise(size)
    (tmp_path / "file").write_bytes(data)
    scan = Scan("file.bin", data if kind == "bytes" else tmp_path / "file")
    seen = []
    with lowered(), lowered_cuts():
        for window in scan.windows():
            assert sum(len(chunk.data) for chunk in window) <= 1024
            seen += [(chunk.key, bytes(chunk.data)) for chunk in window]

    assert b"".join(piece for _, piece in seen) == data
    assert [(chunk_key(piece), len(piece)) for _, piece in seen] == scan.chunk_map
    assert [key for key, _ in seen] == [key for key, _ in scan.chunk_map]
    assert scan.entry() == FileEntry(
        "file.bin", size, hashlib.sha256(data).hexdigest(), "application/octet-stream"
    )


def test_a_scan_cuts_at_tensors(tmp_path: Path) -> None:
    large = {name: np.full(2 * MIB, number, np.uint8) for number, name in enumerate("abc")}
    (tmp_path / "model").write_bytes(save(large))
    scan = Scan("model.safetensors", tmp_path / "model")
    list(scan.windows())

    assert [length for _, length in scan.chunk_map][1:] == [2 * MIB] * 3
    assert scan.entry().media_type == "application/vnd.safetensors"


def test_a_scan_may_be_repeated() -> None:
    scan = Scan("file", b"some bytes")
    first = [list(scan.windows()) and scan.entry() for _ in range(2)]

    assert first[0] == first[1]
    assert len(scan.chunk_map) == 1


def test_scans_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    sources = {}
    for number in range(8):
        sources[number] = tmp_path / str(number)
        sources[number].write_bytes(noise(30_000, number))

    def scanned(number: int) -> str:
        scan = Scan("file", sources[number])
        list(scan.windows())
        return scan.sha256

    with lowered(), lowered_cuts(), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(scanned, sources))

    assert found == [hashlib.sha256(noise(30_000, number)).hexdigest() for number in sources]


def refused(source: Path, match: str) -> None:
    """Fail unless a source is refused in words."""
    with pytest.raises(SourceError, match=match):
        list(Scan("file", source).windows())


def test_a_source_that_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")

    refused(tmp_path / "none", "No such file")
    refused(tmp_path, "is not a plain file")
    refused(tmp_path / "pipe", "is not a plain file")
    refused(tmp_path / "link", "symbolic links are not followed")
    refused(Path("/dev/zero"), "is not a plain file")


def test_a_source_that_cannot_be_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "file").write_bytes(b"bytes")
    monkeypatch.setattr(os, "preadv", broken)

    refused(tmp_path / "file", "cannot be read: Input/output error")


def grow(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def shrink(file: Path) -> None:
    os.truncate(file, 100)


def rewrite(file: Path) -> None:
    file.write_bytes(noise(file.stat().st_size, 9))


@pytest.mark.parametrize("change", [grow, shrink, rewrite])
@pytest.mark.parametrize("size", [200, 20_000])
def test_a_source_that_changes_is_refused(
    tmp_path: Path, change: Callable[[Path], None], size: int
) -> None:
    source = tmp_path / "file"
    source.write_bytes(noise(size))
    os.utime(source, (1, 1))
    windows = Scan("file", source).windows()
    with lowered(), lowered_cuts():
        next(windows)
        change(source)
        with pytest.raises(SourceError, match="changed while it was read"):
            list(windows)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_scan_that_is_left_early_closes_its_file(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(noise(20_000))
    before = open_files()
    with lowered(), lowered_cuts():
        windows: Iterator[list[ChunkData]] = Scan("file", source).windows()
        next(windows)

        assert open_files() == before + 1
        windows.close()  # type: ignore[attr-defined]
    assert open_files() == before


# Reading


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.one_of(
            st.binary(max_size=300),
            st.integers(0, 5000).map(noise),
            st.integers(0, 5000).map(bytes),
        ),
        max_size=6,
    )
)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    shelf = Shelf(MemoryBackend())
    target = tmp_path_factory.mktemp("fetched")
    with lowered(), lowered_cuts():
        placed = shelf.keep(files)
        read = {item[0].path: shelf.read(item) for item in placed}
        shelf.store.fetch(placed, shelf.locate, target / "set")

    assert read == files
    assert tree(target / "set") == files
    assert [path.name for path in target.iterdir()] == ["set"]


def test_neighbours_are_read_at_once() -> None:
    class Counting(MemoryBackend):
        reads = 0

        def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            self.reads += 1
            return super().get(key, start, length)

    backend = Counting()
    shelf = Shelf(backend)
    with lowered(), lowered_cuts(64):
        (placed,) = shelf.keep({"file": noise(4096)})

        assert shelf.read(placed) == noise(4096)
    assert len(placed[1]) == 64
    # Seven chunks are looked up at once; then eight of them would be half a window.
    assert backend.reads == 10
    assert max(shelf.asked) == 7


def test_chunks_in_another_order_are_read_in_the_file_s_order(shelf: Shelf) -> None:
    with lowered(), lowered_cuts(64):
        shelf.keep({"file": noise(640)})
        chunks = [(key, place.stored) for key, place in reversed(shelf.places.items())]
        expected = b"".join(noise(640)[start : start + 64] for start in range(576, -1, -64))
        entry = FileEntry("file", 640, hashlib.sha256(expected).hexdigest())

        assert shelf.read((entry, chunks)) == expected


def test_a_damaged_chunk_is_named(shelf: Shelf) -> None:
    (placed,) = shelf.keep({"file": b"some bytes"})
    shelf.damage()
    with pytest.raises(CorruptChunkError) as raised:
        shelf.read(placed)

    assert (raised.value.pack, raised.value.key) == (PACK, placed[1][0][0])


def test_nothing_of_a_damaged_chunk_is_handed_over(shelf: Shelf) -> None:
    with lowered(), lowered_cuts(64):
        (placed,) = shelf.keep({"file": noise(256)})
        shelf.damage(offset=8 + 64 * 3)
        seen: list[bytes] = []
        with pytest.raises(CorruptChunkError):
            seen.extend(shelf.store.read_file(placed[1], shelf.locate, placed[0].sha256))

    assert b"".join(seen) == noise(256)[: sum(map(len, seen))]


def test_sound_chunks_that_are_another_file_are_refused(shelf: Shelf) -> None:
    one, two = shelf.keep({"one": b"first", "two": b"second"})
    with pytest.raises(DigestMismatchError):
        shelf.read((one[0], two[1]))
    with pytest.raises(DigestMismatchError):
        shelf.read((one[0], []))


def test_a_chunk_that_nobody_knows_is_missing(shelf: Shelf) -> None:
    (placed,) = shelf.keep({"file": b"some bytes"})
    shelf.places.clear()
    with pytest.raises(MissingObjectError, match=f"chunk {placed[1][0][0]}"):
        shelf.read(placed)


def test_a_pack_that_was_moved_is_looked_up_again(shelf: Shelf) -> None:
    with lowered(), lowered_cuts(64):
        (placed,) = shelf.keep({"file": noise(640)})
        before = dict(shelf.places)
        shelf.backend.put("packs/cd/" + "cd" * 16, shelf.backend.get(object_key(PACK)))
        shelf.backend.delete(object_key(PACK))
        moved = {key: replace(place, pack="cd" * 16) for key, place in before.items()}
        stale = iter([before, moved] * 10)

        def locate(keys: Sequence[str]) -> dict[str, Location]:
            known = next(stale) if len(keys) > 3 else moved
            return {key: known[key] for key in keys}

        chunks = placed[1]
        data = b"".join(shelf.store.read_file(chunks, locate, placed[0].sha256))

    assert data == noise(640)


def coded(shelf: Shelf, seed: int = 1) -> list[Placed]:
    """Keep two files that differ a little, the second as a difference from the first."""
    base = np.random.default_rng(seed).integers(0, 1 << 20, 4_000, "<u4")
    files = {"base": base.tobytes(), "near": (base + 3).tobytes()}
    writer = shelf.store.open_pack(PACK)
    placed: list[Placed] = []
    for path, data in files.items():
        scan = Scan(path, data)
        ((chunk,),) = scan.windows()
        found = codec.encode(chunk.data, files["base"] if path == "near" else None)
        like = Location("", 0, 0, len(data), found.codec, None)
        if found.differs:
            like = replace(like, base=placed[0][1][0][0])
        shelf.places[chunk.key] = writer.add(chunk.key, found.data, like)
        placed.append((scan.entry(), scan.chunk_map))
    writer.seal()
    assert [codec.needs_base(place.codec) for place in shelf.places.values()] == [False, True]
    return placed


def test_coded_chunks_are_read_and_fetched_like_others(shelf: Shelf, tmp_path: Path) -> None:
    placed = coded(shelf)
    expected = {entry.path: shelf.read((entry, chunks)) for entry, chunks in placed}
    shelf.store.fetch(placed, shelf.locate, tmp_path / "out")

    assert tree(tmp_path / "out") == expected
    assert hashlib.sha256(expected["near"]).hexdigest() == placed[1][0].sha256
    assert read_footer(shelf.backend, PACK) == shelf.places


def test_a_damaged_base_is_named_and_not_what_differs_from_it(shelf: Shelf) -> None:
    base, near = coded(shelf)
    shelf.damage(offset=20)
    with pytest.raises(CorruptChunkError) as raised:
        shelf.read(near)

    assert raised.value.key == base[1][0][0]


def test_a_difference_whose_base_is_gone_is_missing(shelf: Shelf) -> None:
    base, near = coded(shelf)
    del shelf.places[base[1][0][0]]
    with pytest.raises(MissingObjectError, match=f"chunk {base[1][0][0]}"):
        shelf.read(near)


def test_a_difference_from_a_difference_is_refused(shelf: Shelf) -> None:
    base, near = coded(shelf)
    key = base[1][0][0]
    shelf.places[key] = replace(shelf.places[key], codec="difference/4", base=near[1][0][0])
    with pytest.raises(CorruptChunkError, match="its base is a difference itself"):
        shelf.read(near)


def test_a_declared_length_beyond_any_chunk_is_damage(shelf: Shelf) -> None:
    base, _ = coded(shelf)
    key = base[1][0][0]
    shelf.places[key] = replace(shelf.places[key], length=1 << 40)
    with pytest.raises(CorruptChunkError, match="longer than any chunk"):
        shelf.read(base)


@given(st.integers(0, 700), st.integers(0, 700))
def test_a_range_is_read_from_the_chunks_that_hold_it(offset: int, length: int) -> None:
    shelf = Shelf(MemoryBackend())
    with lowered(), lowered_cuts(64):
        ((_, chunks),) = shelf.keep({"file": noise(640)})
        shelf.asked.clear()
        found = b"".join(shelf.store.read_range(chunks, shelf.locate, offset, length))

    assert found == noise(640)[offset : offset + length]
    assert sum(shelf.asked) <= length // 64 + 2


def test_a_pack_that_is_gone_is_missing(shelf: Shelf) -> None:
    (placed,) = shelf.keep({"file": b"some bytes"})
    shelf.backend.delete(object_key(PACK))
    with pytest.raises(MissingObjectError, match=PACK):
        shelf.read(placed)


@pytest.mark.parametrize("changes", [{"codec": "zstd"}, {"base": "00" * 32}])
def test_an_encoding_of_a_later_version_is_said(shelf: Shelf, changes: dict[str, Any]) -> None:
    (placed,) = shelf.keep({"file": b"some bytes"})
    key = placed[1][0][0]
    shelf.places[key] = replace(shelf.places[key], **changes)
    with pytest.raises(StoreError, match="use a newer version"):
        shelf.read(placed)
    with pytest.raises(StoreError, match="use a newer version"):
        shelf.store.read_chunk(key, shelf.places[key])


@pytest.mark.parametrize("changes", [{"stored": 1 << 50}, {"offset": 1 << 50}, {"stored": 3}])
def test_a_wrong_place_is_damage_and_allocates_nothing(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    shelf = Shelf(FileBackend(tmp_path / "store"))
    (placed,) = shelf.keep({"file": b"some bytes"})
    key = placed[1][0][0]
    shelf.places[key] = replace(shelf.places[key], **changes)
    with pytest.raises(CorruptChunkError):
        shelf.read(placed)


# Fetching


def test_a_file_set_is_fetched_with_its_folders(shelf: Shelf, tmp_path: Path) -> None:
    files = {"model.safetensors": noise(100), "deep/er/state.json": b"{}", "empty": b""}
    placed = shelf.keep(files)

    assert shelf.store.fetch(placed, shelf.locate, tmp_path / "new" / "set") == tmp_path / "new/set"
    assert tree(tmp_path / "new" / "set") == files


def test_an_empty_folder_may_be_the_target(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    shelf.store.fetch(shelf.keep({"file": b"1"}), shelf.locate, tmp_path / "set")

    assert tree(tmp_path) == {"set/file": b"1"}


def test_an_empty_file_set_is_an_empty_folder(shelf: Shelf, tmp_path: Path) -> None:
    shelf.store.fetch([], shelf.locate, tmp_path / "set")

    assert list((tmp_path / "set").iterdir()) == []


def test_what_is_at_the_target_is_left_alone(shelf: Shelf, tmp_path: Path) -> None:
    placed = shelf.keep({"file": b"new"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for name in ("full", "file", "link", "dangling"):
        with pytest.raises(StoreError, match="is already there; choose an empty or new folder"):
            shelf.store.fetch(placed, shelf.locate, tmp_path / name)

    assert tree(tmp_path) == {"full/file": b"old", "file": b"old"}


def test_a_target_below_a_file_is_said(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        shelf.store.fetch(shelf.keep({"a": b"1"}), shelf.locate, tmp_path / "file" / "set")


@pytest.mark.parametrize("path", ["../out", "/absolute", "a/../../out", "a\\b", "a\0"])
def test_a_path_that_leaves_the_folder_is_refused(shelf: Shelf, tmp_path: Path, path: str) -> None:
    ((entry, chunks),) = shelf.keep({"file": b"bytes"})
    with pytest.raises(InvalidNameError):
        shelf.store.fetch([(replace(entry, path=path), chunks)], shelf.locate, tmp_path / "set")

    assert tree(tmp_path) == {}


def test_paths_that_are_one_file_elsewhere_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    placed = shelf.keep({"file": b"1", "FILE": b"2"})
    with pytest.raises(InvalidNameError):
        shelf.store.fetch(placed, shelf.locate, tmp_path / "set")


def damaged(shelf: Shelf, placed: list[Placed]) -> list[Placed]:
    last = shelf.places[placed[-1][1][-1][0]]
    shelf.damage(offset=last.offset)
    return placed


def swapped(_: Shelf, placed: list[Placed]) -> list[Placed]:
    return [(placed[0][0], placed[1][1]), (placed[1][0], placed[0][1])]


def forgotten(shelf: Shelf, placed: list[Placed]) -> list[Placed]:
    del shelf.places[placed[-1][1][-1][0]]
    return placed


@pytest.mark.parametrize("spoil", [damaged, swapped, forgotten])
def test_a_file_set_is_fetched_whole_or_not_at_all(
    shelf: Shelf, tmp_path: Path, spoil: Callable[[Shelf, list[Placed]], list[Placed]]
) -> None:
    placed = spoil(shelf, shelf.keep({"one": noise(500), "two": noise(500, 1)}))
    with pytest.raises((DigestMismatchError, MissingObjectError)):
        shelf.store.fetch(placed, shelf.locate, tmp_path / "set")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir"])
def test_a_disk_that_fills_up_leaves_no_file_set(
    monkeypatch: pytest.MonkeyPatch, shelf: Shelf, tmp_path: Path, call: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    placed = shelf.keep({"one": noise(500)})
    with monkeypatch.context() as broken:
        broken.setattr(os, call, full)
        with pytest.raises(StoreError, match=r"set cannot be written: the disk is full; free some"):
            shelf.store.fetch(placed, shelf.locate, tmp_path / "set")

    assert list(tmp_path.iterdir()) == []


def test_a_file_set_is_durable_before_it_is_named(
    monkeypatch: pytest.MonkeyPatch, shelf: Shelf, tmp_path: Path
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(file: int) -> None:
        fsync(file)
        path = Path(f"/proc/self/fd/{file}").readlink().relative_to(tmp_path)
        events.append("/".join(part for part in path.parts if not part.startswith(".fetch")) or ".")

    def recorded_rename(source: Path, target: Path) -> None:
        rename(source, target)
        events.append("rename")

    placed = shelf.keep({"one": b"1", "deep/two": b"2"})
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    shelf.store.fetch(placed, shelf.locate, tmp_path / "set")

    assert events == ["one", "deep/two", ".", "deep", "rename", "."]


def test_what_a_killed_fetch_left_is_removed_by_the_next(shelf: Shelf, tmp_path: Path) -> None:
    left, fresh, other = (
        tmp_path / name for name in (f".fetch-{'0' * 16}", f".fetch-{'1' * 16}", ".git")
    )
    for folder in (left, fresh, other):
        folder.mkdir()
        (folder / "file").write_bytes(b"")
    os.utime(left, (1, 1))
    os.utime(other, (1, 1))
    shelf.store.fetch(shelf.keep({"file": b"1"}), shelf.locate, tmp_path / "set")

    assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, ".git", "set"]


def test_a_fetch_that_lasts_is_not_removed(shelf: Shelf, tmp_path: Path) -> None:
    placed = shelf.keep({"file": b"1"})

    def locate(keys: Sequence[str]) -> dict[str, Location]:
        (running,) = tmp_path.glob(".fetch-*")
        os.utime(running, (1, 1))
        shelf.store.fetch([], shelf.locate, tmp_path / "other")
        return shelf.locate(keys)

    shelf.store.fetch(placed, locate, tmp_path / "set")

    assert tree(tmp_path) == {"set/file": b"1"}


# Memory


def peak(work: Callable[[], object]) -> int:
    """Return the bytes that were held at once while something ran."""

    def counted(length: int, *, filled: bool = True) -> memoryview:
        del filled
        return memoryview(bytearray(length))  # what is mapped, tracemalloc does not see

    tracemalloc.start()
    try:
        with (
            mock.patch.object(codec, "room", counted),
            mock.patch.object(files, "room", counted),
            mock.patch.object(scanning, "room", counted),
            mock.patch.object(writing, "room", counted),
        ):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_bounded_while_a_large_file_is_stored(tmp_path: Path) -> None:
    """A sparse file of 512 MiB is read whole; its chunks are all the same and stored once."""
    source = tmp_path / "large"
    source.touch()
    os.truncate(source, 1 << 29)
    shelf = Shelf(FileBackend(tmp_path / "store"))

    assert peak(lambda: shelf.keep({"large": source})) < 2 * scanning.WINDOW + 2 * STAGE + 4 * MIB
    assert len(shelf.places) == 1


@pytest.mark.parametrize("chunk", [MIB, MIB // 16])
def test_memory_stays_bounded_whatever_is_done(tmp_path: Path, chunk: int) -> None:
    (tmp_path / "large").write_bytes(noise(24 * MIB))
    shelf = Shelf(FileBackend(tmp_path / "store"))
    placed: list[Placed] = []
    with lowered(MIB), lowered_cuts(chunk):
        stored = peak(lambda: placed.extend(shelf.keep({"large": tmp_path / "large"})))
        read = peak(
            lambda: sum(
                map(len, shelf.store.read_file(placed[0][1], shelf.locate, placed[0][0].sha256))
            )
        )
        fetched = peak(lambda: shelf.store.fetch(placed, shelf.locate, tmp_path / "set"))

    assert max(stored, read, fetched) < 4 * MIB
    assert (tmp_path / "set" / "large").read_bytes() == noise(24 * MIB)


# Small objects and names


def test_a_small_object_is_kept_by_its_digest(shelf: Shelf) -> None:
    name = shelf.store.put_object(b"policy")

    assert name == hashlib.sha256(b"policy").hexdigest() == shelf.store.put_object(b"policy")
    assert shelf.store.get_object(name) == b"policy"
    assert list(shelf.backend.keys()) == [f"objects/{name}"]


def test_a_damaged_small_object_is_refused(shelf: Shelf) -> None:
    name = shelf.store.put_object(b"policy")
    shelf.backend.put(f"objects/{name}", b"police")
    with pytest.raises(DigestMismatchError, match="a stored object is damaged"):
        shelf.store.get_object(name)


@pytest.mark.parametrize(
    "path, expected",
    [
        ("model.safetensors", "application/vnd.safetensors"),
        ("deep/state.JSON", "application/json"),
        ("data.parquet", "application/vnd.apache.parquet"),
        ("notes.txt", "text/plain"),
        ("arrays.npz", "application/x-npz"),
        ("model.onnx", "application/onnx"),
        ("weights.bin", "application/octet-stream"),
        ("Makefile", "application/octet-stream"),
        (".json", "application/octet-stream"),
    ],
)
def test_a_media_type_is_guessed_by_the_name(path: str, expected: str) -> None:
    assert media_type(path) == expected
