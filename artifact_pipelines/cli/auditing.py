"""The commands about proof: the ledger, keys, the catalog, and the state of the installation."""

import contextlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifact_pipelines.cli import shapes
from artifact_pipelines.cli.checking import dagster_checks
from artifact_pipelines.cli.folders import folder_checks
from artifact_pipelines.cli.opening import listing, reading, settings, writing
from artifact_pipelines.cli.output import (
    Json,
    Yes,
    ask,
    moment,
    note,
    say,
    short,
    show_json,
    show_table,
    utc,
)
from artifact_pipelines.errors import (
    ArtifactError,
    CatalogError,
    ConfigurationError,
    LedgerError,
)
from artifact_pipelines.settings import Settings

audit = typer.Typer(help="The ledger: who did what, and whether it is whole.", no_args_is_help=True)
keys = typer.Typer(help="Signing keys.", no_args_is_help=True)
catalog = typer.Typer(help="The database of facts.", no_args_is_help=True)

if TYPE_CHECKING:
    from artifact_pipelines.domain.signing import PublicKey
    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.deciding import RegisteredKey

_SQLITE = "sqlite:///"


@audit.command("log")
def show_log(
    subject: Annotated[str | None, typer.Option("--subject", help="Done to this.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Done by this name.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Such as promote.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Not before, such as 2026-11-23T09:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Not after.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50,
    *,
    as_json: Json = False,
) -> None:
    """Show the newest leaves of the ledger, oldest first."""
    from artifact_pipelines.catalog.fold import ACTIONS

    if action is not None and action not in ACTIONS:
        raise ConfigurationError(
            f"no leaf has the action {action!r}; expected one of {', '.join(sorted(ACTIONS))}."
        )
    with listing() as registry:
        events = (
            []
            if registry is None
            else registry.ledger(
                subject=_about(registry, subject),
                actor=actor,
                action=action,
                since=None if since is None else utc(since),
                until=None if until is None else utc(until),
                limit=limit,
            )
        )
    if as_json:
        show_json({"leaves": [shapes.event(event) for event in events]})
        return
    show_table(
        "Ledger",
        ("#leaf", "=when", "who", "=what", "to"),
        [
            (event.seq, moment(event.time), event.actor, event.action, _subject(event.subject))
            for event in events
        ],
    )


def _about(registry: "Registry", subject: str | None) -> str | None:
    """Return the subject that leaves about a reference have: an id, or the text itself."""
    from artifact_pipelines.errors import InvalidNameError, UnknownArtifactError

    if subject is None:
        return None
    project, marked, stage = subject.partition("@")
    if marked and "/" not in project:
        return f"{project}/{stage}"
    try:
        return registry.find(subject).id
    except (InvalidNameError, UnknownArtifactError):
        return subject


@audit.command("verify")
def verify_audit(*, as_json: Json = False) -> None:
    """Check the whole ledger, and that what each stage serves is proven and undamaged.

    Exits with 1 and names what is wrong. `storage scrub` reads the rest of the bytes.
    """
    with reading() as registry:
        report = registry.verify_ledger()
        problems, served = list(report.problems), []
        for project in registry.projects():
            for stage in sorted(registry.stages(project)):
                name = f"{project}@{stage}"
                try:
                    found = registry.resolve(name)
                    damaged = registry.verify(found.model.id).damaged
                except (ArtifactError, OSError) as error:
                    damaged = (str(error),)
                served.append({"stage": name, "ok": not damaged})
                problems += [f"{name}: {sentence}" for sentence in damaged]
    if as_json:
        show_json(
            {
                "ok": not problems,
                "leaves": report.leaves,
                "root": report.root,
                "signed": report.signed,
                "served": served,
                "redacted": list(report.redacted),
                "problems": problems,
            }
        )
    else:
        for sentence in problems:
            say(f"WRONG {sentence}")
        if not problems:
            say(f"{report.leaves} leaves, {report.signed} signed, root {short(report.root)}.")
            if report.redacted:
                say(f"The bodies of {len(report.redacted)} leaves were erased, as others say.")
            say("Hashes, rules, signatures, export and catalog agree.")
            say(f"{len(served)} stages serve what the log proves, undamaged.")
    if problems:
        raise typer.Exit(1)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="The person or machine.")],
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="approver (the default), gate, operator or owner; repeatable."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a signing key in the key folder and register it."""
    with writing() as registry:
        key = registry.create_key(name, role or ["approver"])
        place = registry.keys.root
    said = f"{key.name} may sign as {', '.join(key.roles)}; the key is in {place}."
    _show_key(key, said, as_json=as_json)


@keys.command("register")
def register_key(
    name: Annotated[str, typer.Argument(help="The person or machine.")],
    public: Annotated[str, typer.Argument(help="The public key, 64 hexadecimal digits.")],
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="approver (the default), gate, operator or owner; repeatable."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Register the public half of a key that is kept elsewhere."""
    given = _public(public)
    with writing() as registry:
        key = registry.register_key(name, given, role or ["approver"])
    _show_key(key, f"{key.name} may sign as {', '.join(key.roles)}.", as_json=as_json)


@keys.command("rotate")
def rotate_key(
    name: Annotated[str, typer.Argument(help="The key's name; log is that of the tree heads.")],
    public: Annotated[
        str | None,
        typer.Option("--public", help="The new public key, where the key is kept elsewhere."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the ledger.")] = "",
    *,
    as_json: Json = False,
) -> None:
    """Put a new key in the place of another; what the former signed stays valid."""
    from artifact_pipelines.registry.deciding import RegisteredKey
    from artifact_pipelines.registry.keys import LOG

    with reading() as registry:
        if name == LOG:
            fresh = registry.rotate_log_key(reason)
            key = RegisteredKey(LOG, fresh.key_id, (LOG,), fresh.hex)
        else:
            given = None if public is None else _public(public)
            key = registry.rotate_key(name, given, reason)
    _show_key(key, f"{name} signs with the key {key.id} from now on.", as_json=as_json)


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the ledger.")],
    *,
    as_json: Json = False,
) -> None:
    """End a key; what it signed before stays valid."""
    with reading() as registry:
        key = registry.revoke_key(name, reason)
    _show_key(key, f"{name} signs nothing any more (leaf {key.revoked}).", as_json=as_json)


def _public(text: str) -> "PublicKey":
    """Return the public key that somebody wrote; one that is none is bad input, not bad proof."""
    from artifact_pipelines.domain.signing import PublicKey

    try:
        return PublicKey.from_hex(text)
    except LedgerError as error:
        raise ConfigurationError(str(error)) from None


def _show_key(key: "RegisteredKey", said: str, *, as_json: bool) -> None:
    if as_json:
        show_json(shapes.key(key))
    else:
        say(said)


@keys.command("list")
def list_keys(*, as_json: Json = False) -> None:
    """List the registered keys, those of the tree heads too, and whether they are at hand here."""
    with listing() as registry:
        found = [] if registry is None else registry.key_list() + registry.log_key_list()
        here = [] if registry is None else registry.keys.names()
    if as_json:
        show_json({"keys": [shapes.key(key) | {"here": key.name in here} for key in found]})
        return
    show_table(
        "Keys",
        ("name", "roles", "key", "here", "#revoked at"),
        [
            (
                key.name,
                ", ".join(key.roles),
                key.id,
                "yes" if key.name in here and key.revoked is None else "no",
                key.revoked,
            )
            for key in found
        ],
    )


@catalog.command("rebuild")
def rebuild_catalog(
    to: Annotated[
        str | None,
        typer.Option("--to", help="An empty database; the catalog's place when left out."),
    ] = None,
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Write the catalog anew from the store alone; the former file is kept beside it."""
    from artifact_pipelines.registry.auditing import rebuild
    from artifact_pipelines.registry.keys import ScopeFolder
    from artifact_pipelines.store.encryption import Keyring
    from artifact_pipelines.store.opening import open_backend

    found = settings()
    backend = open_backend(found.store_url)
    keyring = Keyring(backend, ScopeFolder(found.keys / "scopes"))
    aside = None
    if to is not None:
        leaves, place = rebuild(backend, to, keyring), to
    else:
        if not found.catalog_url.startswith(_SQLITE):
            raise CatalogError(
                "the catalog is on a database server: rebuild into an empty database with "
                "--to URL, and point ARTIFACT_PIPELINES_CATALOG_URL at it."
            )
        current = Path(found.catalog_url.removeprefix(_SQLITE))
        ask(f"replacing {current}, which no other process may be using", yes=yes)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        fresh = current.with_name(f"{current.name}.new-{stamp}")
        try:
            leaves = rebuild(backend, f"{_SQLITE}{fresh}", keyring)
        except BaseException:
            _each(fresh, lambda file: file.unlink())
            raise
        if current.exists():
            aside = current.with_name(f"{current.name}.before-{stamp}")
            _each(current, lambda file: file.rename(_beside(file, current, aside)))
        _each(fresh, lambda file: file.rename(_beside(file, fresh, current)))
        place = str(current)
    if as_json:
        show_json(
            {"leaves": leaves, "catalog": place, "former": None if aside is None else str(aside)}
        )
        return
    say(f"The catalog {place} was rebuilt from {leaves} leaves.")
    if aside is not None:
        note(f"The former one is {aside}.")


def doctor(*, as_json: Json = False) -> None:
    """Check this installation and its home, and say what to do about each fault."""
    found = settings()
    checks = _checks(found)
    ok = all(state != "fail" for _, state, _ in checks)
    if as_json:
        rows = [{"check": name, "state": state, "said": said} for name, state, said in checks]
        show_json({"ok": ok, "home": str(found.home), "checks": rows})
    else:
        show_table("Doctor", ("check", "state", "what was found"), checks)
        say("Everything that is needed is there." if ok else "Something is needed; see above.")
    if not ok:
        raise typer.Exit(2)


def _checks(found: Settings) -> list[tuple[str, str, str]]:
    """Return the name, state and finding of every check."""
    checks = [("python", "ok", sys.version.split()[0])]
    for package, extra in (("dagster", None), ("pandera", None), ("sklearn", "demo")):
        if find_spec(package) is not None:
            checks.append((package, "ok", "installed"))
        elif extra is None:
            checks.append((package, "fail", "missing: reinstall artifact-pipelines."))
        else:
            said = f"missing: pip install 'artifact-pipelines[{extra}]'"
            checks.append((package, "warn", f"{said}, if you want the demo."))
    if found.empty:
        checks.append(("home", "ok", f"{found.home} is empty so far."))
    else:
        checks += _home_checks(found)
    checks += folder_checks(found)
    return [*checks, *dagster_checks(found, Path.cwd())]


def _home_checks(found: Settings) -> list[tuple[str, str, str]]:
    from artifact_pipelines.catalog import ledger
    from artifact_pipelines.registry.examining import examine
    from artifact_pipelines.registry.keys import LOG, OWNER, SERVICE

    try:
        with writing() as registry:
            head = registry.catalog.read(ledger.head)
            around = examine(registry)
            newest = registry.newest_head()
            names = set(registry.keys.names())
            folder = registry.keys.root
            scopes = registry.scopes()
    except (ArtifactError, OSError) as error:
        return [("home", "fail", str(error))]
    checks = [("home", "ok", f"{found.home}: {head.size} leaves."), *around]
    signed = 0 if newest is None else newest[0].size
    waiting = head.size - signed
    checks.append(
        ("signed head", "ok", f"{signed} leaves are signed, {waiting} wait for the next.")
    )
    missing = sorted({OWNER, LOG, SERVICE} - names)
    if missing:
        checks.append(
            ("keys", "warn", f"{', '.join(missing)} not in {folder}: some things are refused.")
        )
    elif folder.stat().st_mode & 0o077:
        checks.append(("keys", "fail", f"others can read {folder}: chmod 700 {folder}"))
    else:
        checks.append(("keys", "ok", f"{len(names)} in {folder}."))
    for scope in scopes:
        state = "ok" if scope.at_hand else "fail" if scope.state == "active" else "warn"
        said = scope.trouble or f"encrypted; its key is in {folder / 'scopes'}."
        checks.append((f"scope {scope.project}", state, said))
    return checks


def _each(database: Path, act: Callable[[Path], object]) -> None:
    """Do something to the files of an SQLite database."""
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            act(database.with_name(database.name + suffix))


def _beside(file: Path, old: Path, new: Path) -> Path:
    return new.with_name(new.name + file.name.removeprefix(old.name))


def _subject(subject: str) -> str:
    return short(subject) if len(subject) == 64 else subject  # noqa: PLR2004  a digest's digits
