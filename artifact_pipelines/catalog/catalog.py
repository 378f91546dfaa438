"""The database of facts: how it is opened, read and written.

There is one way to write, `Catalog.write`: it takes the write lock first on SQLite and
row locks on Postgres, and runs the change again when the database asks for it. Nothing
else may write, because SQLAlchemy drops `FOR UPDATE` on SQLite without a word.
"""

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from artifact_pipelines.catalog import tables
from artifact_pipelines.errors import CatalogError

P = ParamSpec("P")
T = TypeVar("T")

REVISION = "0001"
"""The newest migration; a catalog at another revision is migrated when it is opened."""

_BUSY_SECONDS = 30.0
_TRIES = 12
_COUNTED_ROWS = 400  # of each index: enough for a plan, and no work on a large table
_SERIALIZATION_FAILURE = "40001"
_DEADLOCK = "40P01"


class Transaction:
    """One change of the catalog, seen whole or not at all.

    Attributes:
        conn: The connection; it holds the write lock on SQLite.
    """

    def __init__(self, conn: Connection) -> None:
        """Begin with nothing locked but what the database locks by itself."""
        self.conn = conn

    def now(self) -> float:
        """Return the time in seconds since 1970, by the database's clock.

        The clock never runs behind the newest leaf, so that leaf times do not go back.
        """
        return now(self.conn)

    def lock_rows(self, table: sa.Table, column: str, values: list[str]) -> list[Any]:
        """Return the rows whose column is among the values, locked in the order of their keys."""
        if not values:
            return []
        found: list[Any] = []
        for part in batches(sorted(set(values))):
            statement = (
                sa.select(table)
                .where(table.c[column].in_(part))
                .order_by(table.c[column])
                .with_for_update()
            )
            found.extend(self.conn.execute(statement))
        return found


def database_file(url: str | sa.URL) -> Path | None:
    """Return the file of a SQLite database, or None for one in memory or on a server."""
    found = sa.make_url(url)
    if found.get_backend_name() != "sqlite" or found.database in {None, "", ":memory:"}:
        return None
    return Path(str(found.database)).absolute()


def batches(values: list[T], size: int = 500) -> list[list[T]]:
    """Return the values cut into lists short enough for one statement."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def now(conn: Connection) -> float:
    """Return the database's time in seconds since 1970, never before the newest leaf's."""
    head = tables.ledger_head
    mark = sa.select(head.c.time).where(head.c.id == 1).scalar_subquery()
    found, floor = conn.execute(sa.select(clock(conn), mark)).one()
    return max(float(found), float(floor or 0.0))


def clock(conn: Connection) -> sa.ColumnElement[Any]:
    """Return the database's own clock in seconds since 1970, as a column."""
    return clock_of(conn.dialect.name)


def clock_of(dialect: str) -> sa.ColumnElement[Any]:
    """Return the clock of a kind of database in seconds since 1970, as a column."""
    if dialect == "sqlite":
        return sa.literal_column("(julianday('now') - 2440587.5) * 86400.0").label("clock")
    return sa.literal_column("extract(epoch from clock_timestamp())").label("clock")


class Catalog:
    """A catalog on SQLite or Postgres."""

    def __init__(self, url: str) -> None:
        """Open the catalog at a database URL, making or migrating its tables.

        Raises:
            CatalogError: The URL names no driver, or the database cannot be opened.
        """
        self.url = sa.make_url(url)
        if self.url.drivername in {"postgres", "postgresql"}:
            raise CatalogError(
                f"the catalog URL {self._place} does not name its driver; "
                "write postgresql+psycopg2:// instead."
            )
        self._engine: Engine | None = None
        self._pid = os.getpid()
        self._wrote = False
        self._lock = threading.Lock()
        try:
            self._migrate()
        except (OperationalError, sa.exc.DatabaseError) as error:
            remedy = "is the server running, and is the address right?"
            if self.url.get_backend_name() == "sqlite":
                remedy = "if it is damaged, run: artifact-pipelines catalog rebuild"
            raise CatalogError(
                f"the catalog {self._place} cannot be opened: {_cause(error)}; {remedy}"
            ) from error

    @property
    def engine(self) -> Engine:
        """The engine; a forked child leaves its parent's connections alone and opens its own."""
        with self._lock:
            if self._engine is None:
                self._engine = _engine(self.url)
            elif self._pid != os.getpid():
                self._engine.dispose(close=False)
            self._pid = os.getpid()
            return self._engine

    def close(self) -> None:
        """Close every connection of this process; what it wrote is counted into the statistics.

        Postgres counts by itself; SQLite has to be asked, and plans badly without.
        """
        if self._engine is not None and self._pid == os.getpid():
            if self._wrote and self.url.get_backend_name() == "sqlite":
                with contextlib.suppress(OperationalError):
                    self.write(_count)
            self._engine.dispose()
            self._engine = None

    def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what a query finds in one consistent view.

        Raises:
            CatalogError: The database cannot be reached.
        """
        try:
            with self.engine.connect() as conn, conn.begin():
                return query(conn, *args, **kwargs)
        except OperationalError as error:
            raise CatalogError(
                f"the catalog {self._place} cannot be read: {_cause(error)}."
            ) from error

    def write(
        self, change: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a change and commit it, again from its start when the database asks for that.

        The change may run more than once, so it must do nothing outside the transaction.
        """
        return self._write({"catalog_write": True}, change, *args, **kwargs)

    def write_soon(
        self, change: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a change as `write` does, without waiting until it is on the disk.

        The next `write` takes it along. A loss of power before that undoes it, never one of those
        before it: enough for what is checked again before anything comes of it.
        """
        return self._write({"catalog_write": True, "catalog_soon": True}, change, *args, **kwargs)

    def _write(
        self,
        options: dict[str, bool],
        change: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        for left in reversed(range(_TRIES)):
            try:
                with (
                    self.engine.connect().execution_options(**options) as conn,
                    conn.begin(),
                ):
                    self._wrote = True
                    return change(Transaction(conn), *args, **kwargs)
            except DBAPIError as error:
                if not left or not _retryable(error):
                    if isinstance(error, OperationalError):
                        raise CatalogError(
                            f"the catalog refused a change: {_cause(error)}."
                        ) from error
                    raise
                time.sleep(random.uniform(0.0, 0.02 * (_TRIES - left)))  # noqa: S311  jitter, no secret
        raise AssertionError  # the last round returns or raises

    @property
    def _place(self) -> str:
        return self.url.render_as_string(hide_password=True)

    def _migrate(self) -> None:
        file = database_file(self.url)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        with self.engine.connect() as conn:
            found = _revision(conn)
        if found == REVISION:
            return
        # Alembic costs a quarter of a second to import; only a stale catalog pays it.
        from alembic.util import CommandError  # noqa: PLC0415

        from artifact_pipelines.catalog.migrations import migrate  # noqa: PLC0415

        try:
            self.write(lambda tx: migrate(tx.conn, REVISION))
        except CommandError as error:
            raise CatalogError(
                f"the catalog {self._place} says that its schema is {found!r}, which this release "
                "does not know: install the release that wrote it, or run: artifact-pipelines "
                "catalog rebuild"
            ) from error


def _revision(conn: Connection) -> str | None:
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    return conn.execute(sa.text("select version_num from alembic_version")).scalar()


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        engine = sa.create_engine(url, pool_pre_ping=True)

        @sa.event.listens_for(engine, "begin")
        def _begin_there(conn: Connection) -> None:
            if conn.get_execution_options().get("catalog_soon", False):
                conn.exec_driver_sql("SET LOCAL synchronous_commit TO off")

        return engine
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGIN is DEFERRED and comes too late; ours is below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        options = conn.get_execution_options()
        writes = options.get("catalog_write", False)
        wanted = "NORMAL" if options.get("catalog_soon", False) else "FULL"
        if writes and conn.info.get("synchronous", "FULL") != wanted:
            conn.exec_driver_sql(f"PRAGMA synchronous = {wanted}")
            conn.info["synchronous"] = wanted
        conn.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _count(tx: Transaction) -> None:
    """Have SQLite count its rows again when the ledger is twice as long as it last was."""
    size = tx.conn.execute(sa.select(tables.ledger_head.c.size)).scalar() or 0
    counted = 0
    if sa.inspect(tx.conn).has_table("sqlite_stat1"):
        found = "select stat from sqlite_stat1 where tbl = 'leaf' limit 1"
        stat = tx.conn.exec_driver_sql(found).scalar()
        counted = int(str(stat).split()[0]) if stat else 0
    if size > 2 * counted:
        tx.conn.exec_driver_sql(f"pragma analysis_limit = {_COUNTED_ROWS}")
        tx.conn.exec_driver_sql("analyze")


def _retryable(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    if code in {_SERIALIZATION_FAILURE, _DEADLOCK}:
        return True
    return "database is locked" in str(error.orig)


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")
