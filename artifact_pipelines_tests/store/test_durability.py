"""What reaches the disk, in which order, and what happens when it does not."""

import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifact_pipelines.errors import HomeError, StoreError
from artifact_pipelines.store.chunking import MIB
from artifact_pipelines.store.files import FileBackend
from artifact_pipelines.store.writing import STAGE, Stream

CALLS = ("open", "write", "fsync", "link", "rename", "mkdir", "unlink")


def place(file: int) -> Path:
    """Return the path of an open file."""
    return Path(f"/proc/self/fd/{file}").readlink()


@pytest.fixture
def backend(tmp_path: Path) -> FileBackend:
    return FileBackend(tmp_path / "store")


class Recorder:
    """The calls that decide what survives a loss of power, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.events: list[tuple[str, str]] = []
        self._root = root
        fsync, link, rename, mkdir = os.fsync, os.link, os.rename, os.mkdir

        def recorded_fsync(file: int) -> None:
            fsync(file)
            self._note("fsync", place(file))

        def recorded_link(source: Path, target: Path, **options: Any) -> None:
            link(source, target, **options)
            self._note("link", target)

        def recorded_rename(source: Path, target: Path) -> None:
            rename(source, target)
            self._note("rename", target)

        def recorded_mkdir(path: Path, mode: int = 0o777) -> None:
            mkdir(path, mode)
            self._note("mkdir", path)

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "link", recorded_link)
        monkeypatch.setattr(os, "rename", recorded_rename)
        monkeypatch.setattr(os, "mkdir", recorded_mkdir)

    def _note(self, call: str, path: Path) -> None:
        name = os.path.relpath(path, self._root)
        self.events.append((call, "tmp/*" if name.startswith("tmp/") else name))


def test_a_new_store_is_durable_with_its_parents(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorder = Recorder(monkeypatch, tmp_path)
    FileBackend(tmp_path / "home" / "store")

    assert recorder.events == [
        ("mkdir", "home"),
        ("fsync", "."),
        ("mkdir", "home/store"),
        ("fsync", "home"),
        ("mkdir", "home/store/tmp"),
        ("fsync", "home/store"),
    ]


@pytest.mark.parametrize("how", ["put", "put_if_absent", "create"])
def test_an_object_is_named_between_two_syncs(
    monkeypatch: pytest.MonkeyPatch, backend: FileBackend, how: str
) -> None:
    recorder = Recorder(monkeypatch, backend.root)
    if how == "create":
        with backend.create("packs/ab/one") as writer:
            writer.write(b"bytes")
            writer.commit()
    else:
        backend.put("packs/ab/one", b"bytes", if_absent=how == "put_if_absent")

    assert recorder.events == [
        ("fsync", "tmp/*"),
        ("mkdir", "packs"),
        ("fsync", "."),
        ("mkdir", "packs/ab"),
        ("fsync", "packs"),
        ("rename" if how == "put" else "link", "packs/ab/one"),
        ("fsync", "packs/ab"),
    ]


def test_a_folder_that_another_made_is_synced_once(
    monkeypatch: pytest.MonkeyPatch, backend: FileBackend
) -> None:
    backend.put("packs/ab/one", b"")
    other = FileBackend(backend.root)
    recorder = Recorder(monkeypatch, backend.root)
    other.put("packs/ab/two", b"")
    first = list(recorder.events)
    recorder.events.clear()
    other.put("packs/ab/three", b"")

    assert ("fsync", ".") in first
    assert ("fsync", "packs") in first
    assert recorder.events == [
        ("fsync", "tmp/*"),
        ("rename", "packs/ab/three"),
        ("fsync", "packs/ab"),
    ]


def test_an_object_that_is_there_already_is_durable_before_it_is_relied_on(
    monkeypatch: pytest.MonkeyPatch, backend: FileBackend
) -> None:
    (backend.root / "objects").mkdir()
    (backend.root / "objects" / "one").write_bytes(b"placed by a writer that died")
    recorder = Recorder(monkeypatch, backend.root)

    assert backend.put("objects/one", b"", if_absent=True) is False
    assert recorder.events[-1] == ("fsync", "objects")
    assert ("fsync", ".") in recorder.events


def test_a_deletion_is_durable(monkeypatch: pytest.MonkeyPatch, backend: FileBackend) -> None:
    backend.put("objects/one", b"")
    recorder = Recorder(monkeypatch, backend.root)
    backend.delete("objects/one")

    assert recorder.events == [("fsync", "objects")]


def test_what_is_stored_is_private(backend: FileBackend) -> None:
    backend.put("objects/one", b"")

    assert (backend.root / "objects" / "one").stat().st_mode & 0o777 == 0o600
    assert (backend.root / "objects").stat().st_mode & 0o777 == 0o700


def failing(
    monkeypatch: pytest.MonkeyPatch, call: str, code: int, when: Callable[[int], bool]
) -> list[int]:
    """Make a system call fail at the times that are chosen; return the list of its times."""
    real, times = getattr(os, call), list[int]()

    def maybe(*args: Any, **options: Any) -> object:
        times.append(len(times))
        if when(times[-1]):
            raise OSError(code, os.strerror(code))
        return real(*args, **options)

    monkeypatch.setattr(os, call, maybe)
    return times


def test_a_failed_fsync_is_final(monkeypatch: pytest.MonkeyPatch, backend: FileBackend) -> None:
    backend.put("before", b"bytes")
    with monkeypatch.context() as broken:
        times = failing(broken, "fsync", errno.EIO, lambda _: True)
        with pytest.raises(StoreError, match=r"objects/one could not be stored"):
            backend.put("objects/one", b"bytes")

        assert len(times) == 1
    with pytest.raises(StoreError, match=r"takes no more writes.*start the process again"):
        backend.put("objects/two", b"bytes")
    with pytest.raises(StoreError, match="takes no more writes"):
        backend.create("objects/two")

    assert list(backend.keys()) == ["before"]
    assert backend.get("before") == b"bytes"
    assert list((backend.root / "tmp").iterdir()) == []


def test_a_failed_fsync_of_a_folder_is_final(
    monkeypatch: pytest.MonkeyPatch, backend: FileBackend
) -> None:
    backend.put("objects/before", b"")
    with monkeypatch.context() as broken:
        failing(broken, "fsync", errno.EIO, lambda time: time == 1)
        with pytest.raises(StoreError, match=r"objects/one could not be stored"):
            backend.put("objects/one", b"bytes", if_absent=True)
    with pytest.raises(StoreError, match="takes no more writes"):
        backend.put("objects/one", b"bytes", if_absent=True)


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_names_the_object(
    monkeypatch: pytest.MonkeyPatch, backend: FileBackend, call: str, code: int
) -> None:
    with monkeypatch.context() as full:
        failing(full, call, code, lambda _: True)
        with pytest.raises(StoreError) as raised:
            backend.put("objects/one", b"bytes")

    expected = f"the object {backend.root}/objects/one could not be stored: the disk is full"
    assert str(raised.value).startswith(expected)
    assert list((backend.root / "tmp").iterdir()) == []
    assert backend.put("objects/one", b"bytes") is True


def test_a_writer_on_a_full_disk_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, backend: FileBackend
) -> None:
    writer = backend.create("packs/ab/one")
    writer.write(b"fits")
    with monkeypatch.context() as full:
        failing(full, "write", errno.ENOSPC, lambda _: True)
        # One stage is collected while the one before it is written.
        with pytest.raises(StoreError, match="packs/ab/one could not be stored: the disk is full"):
            writer.write(bytes(3 * STAGE))

    assert list((backend.root / "tmp").iterdir()) == []
    with pytest.raises(StoreError, match="closed"):
        writer.commit()


def test_short_writes_are_continued(monkeypatch: pytest.MonkeyPatch, backend: FileBackend) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    backend.put("one", b"ten bytes!")

    assert backend.get("one") == b"ten bytes!"


def test_what_fails_while_more_is_collected_fails_the_object(
    monkeypatch: pytest.MonkeyPatch, backend: FileBackend
) -> None:
    writer = backend.create("packs/ab/one")
    with monkeypatch.context() as full:
        failing(full, "write", errno.ENOSPC, (1).__eq__)
        writer.write(bytes(2 * STAGE + 1))
        with pytest.raises(StoreError, match="the disk is full"):
            writer.commit()

    assert list((backend.root / "tmp").iterdir()) == []
    assert list(backend.keys()) == []


class Disk:
    """A file whose writes are noted, and may be cut short or refused past the page cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.direct: list[tuple[int, bool]] = []
        self.most = 1 << 30
        self.refuses = False
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)
        write = os.write

        def noted(file: int, data: memoryview) -> int:
            direct = bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT)
            if direct and self.refuses:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self.direct.append((len(data), direct))
            return write(file, data[: self.most])

        monkeypatch.setattr(os, "write", noted)

    def take(self, data: bytes, step: int) -> bytes:
        """Write bytes by steps, and return what the file holds."""
        with Stream(self.file) as stream:
            for start in range(0, len(data), step):
                stream.write(data[start : start + step])
            stream.finish()
        return os.pread(self.file, len(data) + 1, 0)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Disk]:
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("this system writes everything through the page cache")
    found = Disk(monkeypatch, tmp_path / "file")
    yield found
    os.close(found.file)


DATA = random.Random(7).randbytes(2 * STAGE + 12345)


def test_what_is_long_passes_the_page_cache_but_for_its_end(disk: Disk) -> None:
    assert disk.take(DATA, MIB + 1) == DATA
    if disk.direct[0] == (STAGE, False):
        pytest.skip("this file system writes everything through the page cache")
    assert disk.direct == [(STAGE, True), (STAGE, True), (12345, False)]


def test_what_is_short_takes_one_write(disk: Disk) -> None:
    assert disk.take(DATA[:5000], 100) == DATA[:5000]
    assert disk.direct == [(5000, False)]


@pytest.mark.parametrize("most", [STAGE // 2, STAGE - 1, 1_000_003])
def test_a_write_that_is_cut_short_is_continued(disk: Disk, most: int) -> None:
    disk.most = most

    assert disk.take(DATA, STAGE) == DATA


def test_a_disk_that_wants_the_page_cache_gets_it(disk: Disk) -> None:
    disk.refuses = True

    assert disk.take(DATA, STAGE) == DATA
    assert disk.direct == [(STAGE, False), (STAGE, False), (12345, False)]


def test_short_reads_are_continued(monkeypatch: pytest.MonkeyPatch, backend: FileBackend) -> None:
    backend.put("one", b"ten bytes!")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, start: pread(file, min(length, 3), start))

    assert backend.get("one") == b"ten bytes!"
    assert backend.get("one", 2, 7) == b"n bytes"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_store_that_cannot_be_written_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: FileBackend, code: int
) -> None:
    def is_creation(flags: int) -> bool:
        return bool(flags & os.O_CREAT)

    real = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if is_creation(flags):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StoreError, match="may not be written; check the permissions"):
        backend.put("one", b"")
    failing(monkeypatch, "mkdir", code, lambda _: True)
    with pytest.raises(HomeError, match="may not be written; check the permissions"):
        FileBackend(tmp_path / "other")


def test_a_damaged_disk_is_said_when_reading(
    monkeypatch: pytest.MonkeyPatch, backend: FileBackend
) -> None:
    backend.put("one", b"bytes")
    failing(monkeypatch, "pread", errno.EIO, lambda _: True)
    with pytest.raises(StoreError, match="'one' cannot be read: Input/output error"):
        backend.get("one")


@pytest.mark.parametrize("how", ["put", "put_if_absent", "create"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", CALLS)
def test_any_failing_call_leaves_the_old_state_or_the_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, code: int, how: str
) -> None:
    """Each call of its kind fails once, until a put needs no more of them."""
    for number in range(20):
        backend = FileBackend(tmp_path / str(number))
        backend.put("kept", b"kept")
        if how == "put":
            backend.put("folder/one", b"old")
        acknowledged = False
        with monkeypatch.context() as broken:
            times = failing(broken, call, code, number.__eq__)
            try:
                if how == "create":
                    with backend.create("folder/one") as writer:
                        writer.write(b"new")
                        writer.commit()
                else:
                    backend.put("folder/one", b"new", if_absent=how == "put_if_absent")
                acknowledged = True
            except StoreError:
                pass
        found = {key: backend.get(key) for key in list(backend.keys())}

        assert found.pop("kept") == b"kept"
        new, old = {"folder/one": b"new"}, {"folder/one": b"old"} if how == "put" else {}
        assert found == new if acknowledged else found in (new, old)
        if len(times) <= number:
            assert acknowledged
            return
    pytest.fail("a put makes more calls than were made to fail")


def test_a_sweep_removes_what_a_dead_writer_left(backend: FileBackend) -> None:
    dead, living = backend.create("one"), backend.create("two")
    dead.write(b"bytes")
    # As the end of its process would.
    os.close(dead._file)  # type: ignore[attr-defined]

    assert backend.sweep_temporaries(3600) == 0
    assert backend.sweep_temporaries(0) == 1
    living.commit()
    assert list(backend.keys()) == ["two"]


def test_a_sweep_before_the_lock_takes_nothing_from_a_writer(
    backend: FileBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    swept: list[int] = []

    def late(file: int, operation: int) -> None:
        if not swept:
            swept.append(0)
            swept[0] = backend.sweep_temporaries(0)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with backend.create("one") as writer:
        writer.write(b"bytes")
        writer.commit()

    assert swept == [1]
    assert backend.get("one") == b"bytes"
