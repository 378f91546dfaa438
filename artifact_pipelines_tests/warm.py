"""A catalog in memory that a process uses for one test after another.

A new engine compiles every statement again, which takes most of the time of a short test. So
there is one engine, whose database is set back to what it held when it was kept.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, cast

import sqlalchemy as sa

from artifact_pipelines.catalog import catalog as catalog_module
from artifact_pipelines.catalog import migrations
from artifact_pipelines.catalog.catalog import Catalog


class WarmCatalog(Catalog):
    """A catalog on an engine that stays when it is closed."""

    def __init__(self, engine: sa.Engine) -> None:
        """Begin with whatever the engine's database holds."""
        self.url, self._engine, self._pid = engine.url, engine, os.getpid()
        self._wrote, self._lock = False, threading.Lock()

    def close(self) -> None:
        """Leave the engine to the next test."""


class Warm:
    """One database in memory with the tables of a catalog.

    Attributes:
        engine: Its engine.
        kept: What it is set back to.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """Make the tables; the database reads a clock of the test where one is given."""
        self.engine = catalog_module._engine(sa.make_url("sqlite://"))
        self.kept = b""

        @sa.event.listens_for(self.engine, "connect")
        def _connect(connection: sqlite3.Connection, _record: object) -> None:
            if clock is not None:
                connection.create_function(
                    "julianday", 1, lambda _: clock() / 86_400.0 + 2_440_587.5
                )

        with self.engine.begin() as conn:
            migrations.migrate(conn, catalog_module.REVISION)

    def keep(self) -> None:
        """Keep what the database holds now."""
        self.kept = self._raw().serialize()

    def reset(self) -> None:
        """Set the database back to what was kept."""
        self._raw().deserialize(self.kept)

    def _raw(self) -> sqlite3.Connection:
        with self.engine.connect() as conn:
            found: Any = conn.connection.dbapi_connection
            return cast("sqlite3.Connection", found)
