"""Where an installation keeps its things, read once from the environment at the edges."""

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Self

from artifact_pipelines.errors import ConfigurationError, HomeError

_PREFIX = "ARTIFACT_PIPELINES_"
_HOME_NAME = ".artifact-pipelines"
# A workspace holds projects, so it is asked for first, however far above it is.
_PROJECT_MARKS = (("workspace.yaml",), ("pyproject.toml", ".git"))

EXECUTORS = ("in-process", "multiprocess", "celery", "kubernetes")
"""What may carry the steps of a Dagster run; the first is the default."""

# The first line tells our file from a person's.
_OURS = "# Written by artifact-pipelines. Remove this line to keep your own version.\n"


@dataclass(frozen=True, slots=True)
class Settings:
    """The places and the name under which one process works.

    Attributes:
        home: The folder of everything that is not put elsewhere.
        store_url: The bytes: `file:///path` or `s3://bucket/prefix`.
        replica_url: The copy of the bytes, where one is kept.
        catalog_url: The facts: `sqlite:////path` or `postgresql+psycopg2://…`.
        keys: The folder of signing keys.
        dagster_home: The folder of the embedded Dagster instance.
        actor: The name that the ledger shows, as a pseudonym, beside each change.
        sensor_seconds: How often, at most, Dagster's sensors look at the ledger.
        logs: The form of log lines on standard error, `json` or `text`; none when left out.
        metrics: The folder where processes leave figures for Prometheus, or nothing.
        spans: Whether OpenTelemetry gets spans.
        executor: What carries the steps of a Dagster run.
        training_pod: The template of the pods that train on Kubernetes; training is a process
            of the Dagster run when left out.
    """

    home: Path
    store_url: str
    catalog_url: str = field(repr=False)  # may hold a password
    keys: Path
    dagster_home: Path
    actor: str
    replica_url: str | None = None
    sensor_seconds: int = 10
    logs: str | None = None
    metrics: Path | None = None
    spans: bool = False
    executor: str = "in-process"
    training_pod: Path | None = None

    @property
    def empty(self) -> bool:
        """Whether this is the embedded default and holds nothing yet; looking makes nothing."""
        return (
            self.catalog_url == f"sqlite:///{self.home}/catalog.db"
            and self.store_url == (self.home / "store").as_uri()
            and not (self.home / "catalog.db").exists()
            and not (self.home / "store" / "leaves").exists()
        )

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Self:
        """Return the settings that the environment asks for; an empty variable is an unset one.

        Args:
            environ: The variables; those of the process when left out.
            cwd: The folder that relative paths start from; that of the process when left out.

        Raises:
            ConfigurationError: A variable cannot be used as it stands.
        """
        here = (cwd or Path.cwd()).absolute()
        given = {
            name.removeprefix(_PREFIX): value.strip()
            for name, value in (os.environ if environ is None else environ).items()
            if name.startswith(_PREFIX) and value.strip()
        }

        def path(name: str, default: Path) -> Path:
            return _absolute(given[name], here) if name in given else default

        home = path("HOME", default_home(here))
        if "?" in str(home):
            raise ConfigurationError(
                f"the home {home} has a '?' in its path, which a database URL cannot carry; "
                f"set {_PREFIX}HOME to another folder."
            )
        return cls(
            home=home,
            store_url=given.get("STORE_URL") or (home / "store").as_uri(),
            replica_url=given.get("REPLICA_URL"),
            catalog_url=_catalog_url(
                given.get("CATALOG_URL") or f"sqlite:///{home}/catalog.db", here
            ),
            keys=path("KEYS", home / "keys"),
            dagster_home=path("DAGSTER_HOME", home / "dagster"),
            actor=given.get("ACTOR") or _user(),
            sensor_seconds=_seconds("SENSOR_SECONDS", given.get("SENSOR_SECONDS", "10")),
            logs=given.get("LOG"),
            metrics=_absolute(given["METRICS"], here) if "METRICS" in given else None,
            spans=given.get("SPANS", "off").lower() in {"1", "on", "true", "yes"},
            executor=_one_of("EXECUTOR", given.get("EXECUTOR", EXECUTORS[0]), EXECUTORS),
            training_pod=(
                _absolute(given["TRAINING_POD"], here) if "TRAINING_POD" in given else None
            ),
        )


def default_home(cwd: Path) -> Path:
    """Return the home beside the workspace or project of a folder, or in the folder itself."""
    here = cwd.absolute()
    for marks in _PROJECT_MARKS:
        for folder in (here, *here.parents):
            if any((folder / mark).exists() for mark in marks):
                return folder / _HOME_NAME
    return here / _HOME_NAME


def prepare_dagster_home(settings: Settings, checkout: Path | None = None) -> Path:
    """Return the folder of the embedded Dagster instance, made ready for Dagster's commands.

    Dagster reads `dagster.yaml` from that folder alone, and learns of the folder from a
    `.env` in the directory where a command is started. Files that a person wrote or
    changed are left as they are.

    Args:
        settings: Where the instance lives.
        checkout: The folder where people start Dagster; without it no `.env` is written.

    Raises:
        HomeError: The folder cannot be written.
    """
    folder = settings.dagster_home
    try:
        # The folder above is the home, which holds keys.
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True)
        _place_configuration(folder / "dagster.yaml", checkout)
        if checkout is not None:
            place_environment(checkout)
    except OSError as error:
        raise HomeError(
            f"the Dagster home {folder} cannot be prepared: {error.strerror or error}; "
            f"make it writable, or set {_PREFIX}HOME to another folder."
        ) from error
    return folder


def _place_configuration(target: Path, checkout: Path | None) -> None:
    default = files("artifact_pipelines").joinpath("dagster.yaml").read_bytes()
    source = checkout.absolute() / "dagster.yaml" if checkout is not None else None
    linked = source is not None and source.is_file()
    written_by_a_person = (
        target.exists() and not target.is_symlink() and target.read_bytes() != default
    )
    if written_by_a_person or (target.exists() and not linked):
        return
    staged = target.with_name(f"{target.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)
    if source is not None and linked:
        staged.symlink_to(source)
    else:
        staged.write_bytes(default)
    staged.replace(target)


def place_environment(folder: Path) -> None:
    """Write the `.env` by which Dagster's commands that start in a folder find its home.

    One that a person wrote or changed is left as it is.
    """
    # Dagster lets this file win over the process's variables, so it has to yield to them.
    home = re.sub(r'(["\\])', r"\\\1", str(default_home(folder)))
    text = (
        f"{_OURS}"
        f'{_PREFIX}HOME="${{{_PREFIX}HOME:-{home}}}"\n'
        f'DAGSTER_HOME="${{{_PREFIX}HOME}}/dagster"\n'
    )
    target = folder / ".env"
    if target.exists() and (not wrote_environment(folder) or target.read_text("utf-8") == text):
        return
    staged = target.with_name(f"{target.name}.{os.getpid()}")
    staged.write_text(text, encoding="utf-8")
    staged.replace(target)


def wrote_environment(folder: Path) -> bool:
    """Return whether the `.env` of a folder is ours, and not a person's."""
    return (folder / ".env").read_text(encoding="utf-8").startswith(_OURS)


def _absolute(value: str, cwd: Path) -> Path:
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"the path {value!r} names a user who has no home.") from error
    return Path(os.path.normpath(cwd / path))


def _catalog_url(url: str, cwd: Path) -> str:
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        if rest in {"", "/", "/:memory:"}:
            return url
        path = rest.removeprefix("/")
        name, query, options = path.partition("?")
        return f"sqlite:///{_absolute(name, cwd)}{query}{options}"
    if scheme.startswith("postgresql+") and separator:
        return url
    if scheme in {"postgres", "postgresql"}:
        raise ConfigurationError(
            f"{_PREFIX}CATALOG_URL begins with {scheme}:// and does not name its driver; "
            "write postgresql+psycopg2:// instead."
        )
    raise ConfigurationError(
        f"{_PREFIX}CATALOG_URL is neither sqlite:////path/to/catalog.db "
        "nor postgresql+psycopg2://user@host/database."
    )


def _one_of(name: str, text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise ConfigurationError(f"{_PREFIX}{name} is {text!r}; expected {' or '.join(known)}.")
    return text


def _seconds(name: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ConfigurationError(f"{_PREFIX}{name} is {text!r}; expected whole seconds, from 1.")
    return int(text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        # A container may run under a number that no account has.
        return f"uid-{os.getuid()}"
