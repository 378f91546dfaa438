"""A folder that is written whole or not at all."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path

from artifact_pipelines.errors import StoreError
from artifact_pipelines.store.files import explain, sync_folder
from artifact_pipelines.store.scanning import Hash, InOrder
from artifact_pipelines.store.writing import Stream

_LEFT = re.compile(r"\.fetch-[0-9a-f]{16}")
_LEFT_AFTER = 3600.0  # seconds


def write_file(file: int, pieces: Iterator[memoryview], whole: Hash, pool: Executor) -> None:
    """Write pieces to an open file, each hashed while the next one is waited for."""
    hashing = InOrder(pool)
    hashed: Future[None] | None = None
    with Stream(file) as stream:
        for piece in pieces:
            if hashed is not None:
                hashed.result()
            hashed = hashing.submit(whole.update, piece)
            stream.write(piece)
        stream.finish()
    if hashed is not None:
        hashed.result()


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that becomes the target, durable, unless its filling fails.

    Raises:
        StoreError: The target is there already with something in it, or cannot be written.
    """
    try:
        if target.is_symlink() or (
            target.exists() and (not target.is_dir() or any(target.iterdir()))
        ):
            raise StoreError(f"{target} is already there; choose an empty or new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(target.parent) as folder:
            yield folder
            for inner, _, _ in os.walk(folder):
                sync_folder(Path(inner))
            folder.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{target} cannot be written: {explain(error)}.") from error


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder that is removed unless it was renamed.

    It is locked meanwhile, so that the next one removes what a killed process left.
    """
    for left in parent.iterdir():
        if _LEFT.fullmatch(left.name) and _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f".fetch-{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        finally:
            os.close(handle)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    try:
        if time.time() - folder.lstat().st_mtime < _LEFT_AFTER:
            return False
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
