"""An opened registry: its catalog, store, keys and actor, and how a leaf leaves it."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction, database_file
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.errors import BehindError, HomeError, LedgerError
from artifact_pipelines.registry.keys import LOG, OWNER, SERVICE, KeyFolder
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.encryption import Keyring
from artifact_pipelines.store.files import check_file_system
from artifact_pipelines.store.opening import open_backend
from artifact_pipelines.store.store import Store

_PSEUDONYM = 32
STEPS = "steps"
"""Where Dagster's steps leave in the store what they hand on; prune sweeps it."""
SERVICE_ROLES = ("gate", "operator")


def leaf_key(seq: int) -> str:
    """Return the store key of an exported leaf."""
    return f"leaves/{seq:016d}"


class Opened:
    """A registry that is open in this process.

    Attributes:
        catalog: The facts.
        store: The bytes.
        keys: The signing keys at hand.
        keyring: The data keys of what is encrypted.
        who: The name of whoever acts.
    """

    def __init__(self, catalog: Catalog, backend: Backend, keys: KeyFolder, who: str) -> None:
        """Open a registry over its parts, making a new ledger when there is none.

        Raises:
            BehindError: The store has leaves that the catalog lacks.
        """
        self.catalog = catalog
        self.keyring = Keyring(backend, keys.scopes)
        self.store = Store(backend, self.keyring)
        self.keys = keys
        self.who = who
        self._actor: str | None = None
        self._begin()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the catalog's connections."""
        self.close()

    def close(self) -> None:
        """Close the catalog's connections."""
        self.catalog.close()

    @property
    def origin(self) -> str:
        """The name of this registry's log."""
        return str(self.catalog.read(ledger.head).origin)

    @property
    def actor(self) -> str:
        """The pseudonym of whoever acts; the name behind it can be erased."""
        if self._actor is None:
            self._actor = self._find_actor(self.who) or self._enter_actor(self.who)
        return self._actor

    def append(self, action: str, subject: str, body: Mapping[str, Any]) -> Leaf:
        """Append a leaf in a transaction of its own, and export it."""
        leaf = self.catalog.write(
            ledger.append, action=action, subject=subject, body=body, actor=self.actor
        )
        self.export_leaves()
        return leaf

    def export_leaves(self) -> int:
        """Write the leaves that the store lacks to the store, and return how many they were.

        Whoever comes next exports what a dead writer left.

        Raises:
            LedgerError: The store holds another leaf of the same number: the log has forked.
        """
        head = self.catalog.read(ledger.head)
        rows = self.catalog.read(ledger.leaves, head.exported, head.size)
        for row in rows:
            data = digest.canonical(
                {
                    "envelope": bytes(row.envelope).decode(),
                    "body": None if row.body is None else bytes(row.body).decode(),
                }
            )
            key = leaf_key(row.seq)
            if self.store.backend.put(key, data, if_absent=True):
                continue
            there = digest.parse(self.store.backend.get(key))
            if there["envelope"] != bytes(row.envelope).decode():
                raise LedgerError(
                    f"leaf {row.seq} in the store is another one than in the catalog: the log has "
                    "forked; restore the newer of the two before anything else is written."
                )
        if rows:
            # Whoever finds it undone exports the same leaves again.
            self.catalog.write_soon(ledger.mark_exported, head.size)
        return len(rows)

    def publication_of(self, artifact: str, session: str) -> Publication:
        """Return the publish object of an artifact, checked against its id.

        Raises:
            LedgerError: The object is of another artifact.
        """
        found = Publication.decode(self.store.backend.get(Publication.key(artifact, session)))
        if found.record.id != artifact:
            raise LedgerError(f"the publish object of {artifact[:16]} holds another record.")
        return found

    def _begin(self) -> None:
        if not self.catalog.read(has_ledger):
            if next(self.store.backend.keys("leaves/"), None) is not None:
                raise BehindError(
                    f"the catalog {self._place} is empty, but the store {self.store.backend.url} "
                    "has a ledger; run: artifact-pipelines catalog rebuild"
                )
            self._found()
        self._check_ahead()

    def _check_ahead(self) -> None:
        size = self.catalog.read(ledger.head).size
        while self.store.backend.size(leaf_key(size)) is not None:
            newer = self.catalog.read(ledger.head).size
            if newer == size:
                raise BehindError(
                    f"the catalog {self._place} ends at leaf {size - 1}, but the store goes on: it "
                    "is older than the store; run: artifact-pipelines catalog rebuild"
                )
            size = newer
        memory = self.keys.recall()
        if memory is not None and memory["size"] > size:
            raise BehindError(
                f"the catalog {self._place} has {size} leaves, but its signer has signed "
                f"{memory['size']}: it is older than it was; bring the newer catalog or store back."
            )

    def _found(self) -> None:
        """Make the ledger, with the owner's, the log's and the service's keys."""
        owner, log, service = (self.keys.create(name) for name in (OWNER, LOG, SERVICE))
        origin = f"artifact-pipelines/{secrets.token_hex(8)}"
        registration = owner.sign_statement(
            {
                "type": "key",
                "origin": origin,
                "name": SERVICE,
                "public": service.public.hex,
                "roles": list(SERVICE_ROLES),
            }
        )

        def change(tx: Transaction) -> None:
            if not ledger.create(tx, origin):
                return
            ledger.append(
                tx,
                action="log_create",
                subject=origin,
                body={
                    "origin": origin,
                    "log_key": log.public.hex,
                    "owner": {"name": OWNER, "public": owner.public.hex},
                },
                actor=actor,
            )
            ledger.append(
                tx,
                action="key_register",
                subject=SERVICE,
                body=registration.as_body(),
                actor=actor,
            )

        actor = self.actor
        self.catalog.write(change)
        self.export_leaves()

    def _find_actor(self, name: str) -> str | None:
        actor = tables.actor
        statement = sa.select(actor.c.id).where(actor.c.name == name)
        return self.catalog.read(lambda conn: conn.execute(statement).scalar())

    def _enter_actor(self, name: str) -> str:
        sealed = digest.seal({"name": name})
        pseudonym = digest.sha256(sealed)[:_PSEUDONYM]
        # The object first: a pseudonym in the ledger can then always be resolved.
        self.store.backend.put(f"actors/{pseudonym}", sealed)

        def change(tx: Transaction) -> None:
            actor = tables.actor
            there = sa.select(actor.c.id).where(actor.c.name == name)
            if tx.conn.execute(there).first() is None:
                tx.conn.execute(sa.insert(actor).values(id=pseudonym, name=name))

        self.catalog.write(change)
        return self._find_actor(name) or pseudonym

    @property
    def _place(self) -> str:
        return self.catalog.url.render_as_string(hide_password=True)


def default_catalog_url(home: Path) -> str:
    """Return where the catalog of a home is when nothing else is said."""
    return f"sqlite:///{home / 'catalog.db'}"


def parts(
    home: Path, store_url: str | None, catalog_url: str | None, keys: Path | None
) -> tuple[Catalog, Backend, KeyFolder]:
    """Return the catalog, backend and keys of a home, made where they are not there yet.

    Raises:
        HomeError: The home cannot be written, or it or the catalog's file is on a network
            file system.
    """
    home = home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = home / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HomeError(
            f"the home {home} cannot be written: {error.strerror}; free some space, check the "
            "permissions, or set ARTIFACT_PIPELINES_HOME to another folder."
        ) from error
    check_file_system(home)
    backend = open_backend(store_url or (home / "store").as_uri())
    catalog_url = catalog_url or default_catalog_url(home)
    file = database_file(catalog_url)
    if file is not None:
        check_file_system(file.parent)
    catalog = Catalog(catalog_url)
    return catalog, backend, KeyFolder(keys or home / "keys")


def has_ledger(conn: sa.Connection) -> bool:
    """Return whether a catalog has a ledger yet."""
    return conn.execute(sa.select(tables.ledger_head.c.id)).first() is not None
