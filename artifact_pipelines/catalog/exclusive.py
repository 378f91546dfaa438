"""Work that one process at a time may do, on every machine that shares the catalog.

The lock goes with the process that holds it: nothing expires, and nothing is left behind.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from artifact_pipelines.catalog.catalog import Catalog, database_file


@contextmanager
def exclusively(catalog: Catalog, name: str) -> Iterator[bool]:
    """Yield whether the work of a name is this caller's alone, and keep it so meanwhile."""
    digest = hashlib.sha256(name.encode()).digest()
    file = database_file(catalog.url)
    if file is not None:
        with _file_lock(file.with_name(f"{file.name}.locks"), digest.hex()[:32]) as mine:
            yield mine
    elif catalog.url.get_backend_name() == "postgresql":
        with _server_lock(catalog, int.from_bytes(digest[:8], signed=True)) as mine:
            yield mine
    else:
        # A database in memory belongs to its process.
        yield True


@contextmanager
def _file_lock(folder: Path, name: str) -> Iterator[bool]:
    folder.mkdir(exist_ok=True)
    place = folder / name
    while True:
        with place.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not _is_at(file.fileno(), place):
                continue  # whoever held it has removed the file meanwhile
            try:
                yield True
            finally:
                place.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _server_lock(catalog: Catalog, key: int) -> Iterator[bool]:
    # A connection of its own: the lock ends with it, however the process ends.
    with catalog.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        mine = bool(conn.execute(sa.select(sa.func.pg_try_advisory_lock(key))).scalar())
        try:
            yield mine
        finally:
            if mine:
                conn.execute(sa.select(sa.func.pg_advisory_unlock(key)))
