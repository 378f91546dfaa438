"""What a registry leaves behind when disks, processes and names are against it."""

import errno
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.errors import ArtifactError, InvalidNameError, SourceError, StoreError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.store import fetching, writing
from artifact_pipelines_tests import building, faults
from artifact_pipelines_tests.building import PROJECT

MODEL = "model.safetensors"
SIZE = 300_000  # bytes of a checkpoint that has to be written in more than one call


@pytest.fixture(autouse=True)
def _short_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written goes out in several calls, those of a thread among them."""
    monkeypatch.setattr(writing, "STAGE", 65_536)


def begun(home: Path) -> Artifact:
    """Return a run with one checkpoint."""
    with open_registry(home, actor="tester") as registry:
        run = registry.start_run(PROJECT, "run-1")
        save(registry, run, 1)
        return run


def save(registry: Registry, run: Artifact, step: int) -> Artifact:
    """Publish the checkpoint of a step."""
    return registry.publish_checkpoint(run, {MODEL: building.tensors(step, SIZE)}, step=step)


def steps(registry: Registry) -> set[int | None]:
    """Return the steps that are registered, the last of them read back."""
    found = registry.checkpoints(PROJECT, "run-1")
    assert registry.verify(found[-1].reference).ok
    return {checkpoint.step for checkpoint in found}


def expire_sessions(registry: Registry) -> None:
    """Let the lease of every writer run out."""
    registry.catalog.write(lambda tx: tx.conn.exec_driver_sql("update session set lease_until = 0"))


def all_stored_is_needed(registry: Registry) -> bool:
    """Return whether the store holds no pack or publish object that nothing cites."""
    backend = registry.store.backend
    packs = {key.rpartition("/")[2] for key in backend.keys("packs/")}
    needed, artifacts = registry.catalog.read(
        lambda conn: (
            set(conn.exec_driver_sql("select pack from artifact_pack").scalars()),
            conn.exec_driver_sql("select count(*) from artifact").scalar_one(),
        )
    )
    return packs <= needed and len(list(backend.keys("publish/"))) == artifacts


def check_nothing_is_left(home: Path) -> None:
    """Fail unless prune finds all that is not needed."""
    with open_registry(home, actor="tester") as registry:
        expire_sessions(registry)
        for _ in range(2):
            assert registry.prune(grace=0).disagreements == ()
        for checkpoint in registry.checkpoints(PROJECT, "run-1"):
            assert registry.verify(checkpoint.reference).ok
        assert all_stored_is_needed(registry)
        assert registry.verify_ledger().problems == ()
    assert list((home / "store" / "tmp").iterdir()) == []


def test_an_ingest_that_is_killed_at_any_call_leaves_old_or_new(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = begun(home)
    expected: set[int | None] = {1}
    for number in itertools.count():
        step = number + 2
        with open_registry(home, actor="tester") as registry:

            def ingest(registry: Registry = registry, step: int = step, at: int = number) -> None:
                with faults.at_call(at, faults.die):
                    save(registry, run, step)

            finished = faults.in_child(ingest)
        with open_registry(home, actor="tester") as registry:
            registry.export_leaves()
            there = steps(registry)
        assert there in (expected, expected | {step})
        expected = there
        if finished:
            assert step in there
            break

    assert number > 10
    check_nothing_is_left(home)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_call_that_fails_in_an_ingest_leaves_old_or_new(tmp_path: Path, code: int) -> None:
    """Each call of an ingest fails once, until an ingest makes no more of them."""
    home = tmp_path / "home"
    run = begun(home)
    expected: set[int | None] = {1}
    acknowledged = False
    for number in itertools.count():
        step = number + 2
        acknowledged = False
        with (
            open_registry(home, actor="tester") as registry,
            faults.at_call(number, faults.failing(code)) as made,
        ):
            try:
                save(registry, run, step)
                acknowledged = True
            except ArtifactError as error:
                assert str(error)  # noqa: PT017  any other error would be none of ours
        with open_registry(home, actor="tester") as registry:
            registry.export_leaves()
            there = steps(registry)
        assert there in (expected, expected | {step})
        assert not acknowledged or step in there
        expected = there
        if len(made) <= number:
            break

    assert acknowledged
    check_nothing_is_left(home)


def test_after_a_failed_fsync_nothing_is_written_until_the_process_starts_again(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    run = begun(home)
    with open_registry(home, actor="tester") as registry:
        with (
            faults.at_call(0, faults.failing(errno.EIO), ["fsync"]) as tried,
            pytest.raises(StoreError, match="could not be stored"),
        ):
            save(registry, run, 2)

        # It is not tried again, since the kernel may have dropped what it could not write.
        assert tried == ["fsync"]
        with faults.at_call(-1, faults.die, ["fsync"]) as later:
            with pytest.raises(StoreError, match="takes no more writes"):
                save(registry, run, 3)
            assert later == []
        assert steps(registry) == {1}
    with open_registry(home, actor="tester") as registry:
        save(registry, run, 2)

        assert steps(registry) == {1, 2}


def test_writes_that_are_cut_short_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    run = begun(home)
    write = os.write
    with open_registry(home, actor="tester") as registry:
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: 1 + len(data) // 3]))
        saved = save(registry, run, 2)
        target = registry.fetch(saved.reference, tmp_path / "fetched")

        assert (target / MODEL).read_bytes() == building.tensors(2, SIZE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S607


def test_a_full_disk_is_said_and_costs_only_what_did_not_fit(
    small_disk: Path, tmp_path: Path
) -> None:
    """The catalog is elsewhere; the store of a registry is on the disk that fills up."""
    store = (small_disk / "store").as_uri()
    with open_registry(tmp_path / "home", store_url=store, actor="tester") as registry:
        run = registry.start_run(PROJECT, "run-1")
        saved, said = {save(registry, run, 1).step}, ""
        for step in itertools.count(2):
            try:
                saved.add(save(registry, run, step).step)
            except StoreError as error:
                said = str(error)
                break

        assert "the disk is full; free some space and try again" in said
        assert len(saved) > 3
        assert steps(registry) == saved
        with pytest.raises(StoreError, match="disk is full"):
            registry.fetch("digits/run-1@1", small_disk / "fetched")
        assert not (small_disk / "fetched").exists()
        subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)  # noqa: S607
        saved.add(save(registry, run, step).step)
        assert steps(registry) == saved


def test_a_fetch_that_is_killed_at_any_call_leaves_nothing_or_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    begun(home)
    target, number = out, 0
    with open_registry(home, actor="tester") as registry:
        for number in itertools.count():
            target = out / str(number)

            def fetch(target: Path = target, at: int = number) -> None:
                with faults.at_call(at, faults.die):
                    registry.fetch("digits/run-1@1", target)

            finished = faults.in_child(fetch)
            if target.exists():
                assert [file.name for file in target.iterdir()] == [MODEL]
                assert (target / MODEL).read_bytes() == building.tensors(1, SIZE)
            if finished:
                break
        assert target.exists()
        assert number > 4
        later = time.time() + 2 * fetching._LEFT_AFTER
        monkeypatch.setattr(time, "time", lambda: later)
        registry.fetch("digits/run-1@1", out / "last")

    assert [found.name for found in out.iterdir() if found.name.startswith(".")] == []


@pytest.mark.parametrize(
    "names",
    [
        ["../outside"],
        ["/etc/passwd"],
        ["inner/../../outside"],
        ["back\\slash"],
        ["nul\0"],
        ["Model.bin", "model.bin"],
        ["stra\N{LATIN SMALL LETTER SHARP S}e", "STRASSE"],
        ["e\N{COMBINING ACUTE ACCENT}.bin"],
        ["a", "a/b"],
    ],
)
def test_names_that_a_disk_could_confuse_are_refused(tmp_path: Path, names: list[str]) -> None:
    home = tmp_path / "home"
    run = begun(home)
    with open_registry(home, actor="tester") as registry:
        before = list(registry.store.backend.keys())
        with pytest.raises(InvalidNameError):
            registry.publish_checkpoint(run, dict.fromkeys(names, b"bytes"), step=2)

        assert list(registry.store.backend.keys()) == before
        assert steps(registry) == {1}


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    home, source = tmp_path / "home", tmp_path / "source"
    run = begun(home)
    match kind:
        case "link":
            source.symlink_to(home / "keys" / "owner.key")
        case "dangling":
            source.symlink_to(tmp_path / "nowhere")
        case "folder":
            source.mkdir()
        case _:
            os.mkfifo(source)
    with open_registry(home, actor="tester") as registry:
        with pytest.raises(SourceError):
            registry.publish_checkpoint(run, {MODEL: source}, step=2)

        assert steps(registry) == {1}
    check_nothing_is_left(home)


def test_32_processes_that_save_the_same_bytes_keep_one_copy(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run = begun(home)
    gate, opened = os.pipe()
    children = []
    for _ in range(32):
        child = os.fork()
        if child == 0:
            try:
                os.close(opened)
                with open_registry(home, actor="tester") as registry:
                    os.read(gate, 1)  # ends when the parent closes its side
                    save(registry, run, 2)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    os.close(gate)
    os.close(opened)
    ended = [os.waitpid(child, 0)[1] for child in children]

    assert ended == [0] * 32
    check_nothing_is_left(home)
    with open_registry(home, actor="tester") as registry:
        assert steps(registry) == {1, 2}
        backend = registry.store.backend
        stored = sum(backend.size(pack) or 0 for pack in backend.keys("packs/"))
        # Two steps, and the little that prune keeps to watch itself.
        assert stored < 2.1 * len(building.tensors(2, SIZE))
