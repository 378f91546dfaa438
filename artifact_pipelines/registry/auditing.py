"""Whether everything is still what it was said to be: ledger, catalog and bytes."""

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import fold, ledger, tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction
from artifact_pipelines.domain import digest, governance, merkle
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.signing import open_head
from artifact_pipelines.errors import ArtifactError, CatalogError, LedgerError
from artifact_pipelines.registry import rebuilding
from artifact_pipelines.registry.keys import LOG
from artifact_pipelines.registry.opened import leaf_key
from artifact_pipelines.registry.pruning import Pruning
from artifact_pipelines.registry.scopes import Encrypting
from artifact_pipelines.registry.scrubbing import Scrubbing
from artifact_pipelines.registry.weighing import Weighing
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.encryption import Keyring
from artifact_pipelines.store.store import Store

_NOT_FOLDED = {
    *(table.name for table in tables.LOCAL),
    "ledger_head",
    "chunk",
    "pack",
    "artifact_pack",
}


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What verifying the ledger found.

    Attributes:
        leaves: How many leaves it has.
        root: The root over them, in hexadecimal.
        signed: How many of them the newest signed head covers.
        problems: What is wrong, one sentence each.
        redacted: The leaves whose bodies were erased, which a leaf each says.
    """

    leaves: int
    root: str
    signed: int
    problems: tuple[str, ...]
    redacted: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Event:
    """One leaf of the ledger, for people and sensors.

    Attributes:
        seq: Its number.
        time: When.
        actor: Who, by name where the name is still known.
        action: What was done.
        subject: What it was done to.
        project: The project, or nothing.
        body: What was said, or nothing where it was erased.
    """

    seq: int
    time: str
    actor: str
    action: str
    subject: str
    project: str | None
    body: dict[str, Any] | None


class Auditing(Pruning, Scrubbing, Weighing, Encrypting):
    """The registry, as far as it is checked and reported on."""

    def events(self, after: int = -1, limit: int = 1000) -> list[Event]:
        """Return the leaves after a number, in commit order."""
        return self._events([tables.leaf.c.seq > after], limit)

    def ledger(
        self,
        *,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        since: str | None = None,
        until: str | None = None,
        limit: int = 50,
    ) -> list[Event]:
        """Return the newest leaves that match, oldest first.

        Args:
            subject: What they are about, exactly.
            actor: The name or pseudonym of whoever did it.
            action: What was done.
            since: The earliest time, as the ledger writes it.
            until: The latest time.
            limit: How many at most.
        """
        leaf = tables.leaf
        where = []
        if since is not None:
            where.append(leaf.c.time >= since)
        if until is not None:
            where.append(leaf.c.time <= until)
        if subject is not None:
            where.append(leaf.c.subject == subject)
        if action is not None:
            where.append(leaf.c.action == action)
        if actor is not None:
            name = sa.select(tables.actor.c.id).where(tables.actor.c.name == actor)
            where.append(sa.or_(leaf.c.actor.in_(name), leaf.c.actor == actor))
        return self._events(where, limit, newest=True)

    def verify_ledger(self) -> LedgerReport:
        """Check the whole ledger against its hashes, rules, signatures, export and tables."""
        problems: list[str] = []
        head = self.catalog.read(ledger.head)
        rows = self.catalog.read(ledger.leaves, 0, head.size)
        hashes, state = [], governance.begin()
        for number, row in enumerate(rows):
            hashes.append(merkle.leaf_hash(_raw(row.envelope)))
            problems += _leaf_problems(self.store, number, row, state)
        root = merkle.root(hashes)
        erased = {row.subject for row in rows if row.action == "erase"}
        redacted = tuple(row.seq for row in rows if row.body is None)
        for seq in redacted:
            if f"leaf/{seq}" not in erased:
                problems.append(f"the body of leaf {seq} was removed, and no leaf says so.")
        if len(rows) != head.size:
            problems.append(f"the ledger has {len(rows)} leaves of {head.size}.")
        signed = 0
        heads = tables.tree_head
        roots = _roots(hashes)
        for row in self.catalog.read(
            lambda conn: list(conn.execute(sa.select(heads).order_by(heads.c.size)))
        ):
            try:
                found = open_head(row.note, LOG, self.log_key(row.size))
            except LedgerError as error:
                problems.append(str(error))
                continue
            signed = max(signed, found.size)
            if roots.get(found.size) != found.root:
                problems.append(
                    f"the log was changed below its signed head of {found.size} leaves."
                )
        memory = self.keys.recall()
        if memory is not None and memory["size"] > len(rows):
            problems.append(
                f"its signer has signed {memory['size']} leaves, but {len(rows)} are left."
            )
        if not problems:
            problems += self._table_problems()
        return LedgerReport(len(rows), root.hex(), signed, tuple(problems), redacted)

    def rebuild(self, catalog_url: str) -> int:
        """Write a new catalog from the store alone and return the number of leaves.

        Raises:
            CatalogError: There is a ledger in that catalog already.
        """
        return rebuild(self.store.backend, catalog_url, self.store.keyring)

    def mark_reported(self, instance: str, topic: str, seq: int) -> None:
        """Remember how far an instance has been told about a topic."""

        def change(tx: Transaction) -> None:
            table = tables.reported
            here = (table.c.instance == instance) & (table.c.topic == topic)
            tx.conn.execute(sa.delete(table).where(here, table.c.seq <= seq))
            if tx.conn.execute(sa.select(table.c.seq).where(here)).first() is None:
                tx.conn.execute(sa.insert(table).values(instance=instance, topic=topic, seq=seq))

        self.catalog.write(change)

    def reported(self, instance: str, topic: str) -> int | None:
        """Return how far an instance has been told about a topic, or None."""
        table = tables.reported
        statement = sa.select(table.c.seq).where(
            table.c.instance == instance, table.c.topic == topic
        )
        return self.catalog.read(lambda conn: conn.execute(statement).scalar())

    def attempts(self, subject: str) -> int:
        """Return the number of the attempt at a subject, counted from 1."""
        table = tables.attempt
        statement = sa.select(table.c.count).where(table.c.subject == subject)
        return self.catalog.read(lambda conn: conn.execute(statement).scalar()) or 1

    def count_attempt(self, subject: str, failed: int) -> int:
        """Return the number of the attempt after one that failed; told twice, it counts once."""

        def change(tx: Transaction) -> int:
            table = tables.attempt
            here = table.c.subject == subject
            current = tx.conn.execute(sa.select(table.c.count).where(here)).scalar() or 1
            tx.conn.execute(sa.delete(table).where(here))
            count = max(current, failed + 1)
            tx.conn.execute(sa.insert(table).values(subject=subject, count=count))
            return count

        return self.catalog.write(change)

    def _events(self, where: list[Any], limit: int, *, newest: bool = False) -> list[Event]:
        leaf, actor = tables.leaf, tables.actor
        order = leaf.c.seq.desc() if newest else leaf.c.seq
        statement = (
            sa.select(leaf, actor.c.name)
            .outerjoin(actor, actor.c.id == leaf.c.actor)
            .where(*where)
            .order_by(order)
            .limit(limit)
        )
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        found = [
            Event(
                row.seq,
                row.time,
                row.name or row.actor,
                row.action,
                row.subject,
                row.project,
                _said(row.body),
            )
            for row in rows
        ]
        return sorted(found, key=lambda event: event.seq)

    def _table_problems(self) -> list[str]:
        """Return where the catalog's tables are not what the exported leaves make of them."""
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{Path(folder) / 'rebuilt.db'}"
            try:
                rebuild(self.store.backend, url, self.store.keyring)
            except (ArtifactError, OSError) as error:
                return [f"the catalog cannot be rebuilt from the store: {error}"]
            other = Catalog(url)
            try:
                mine, theirs = self.catalog.read(facts), other.read(facts)
            finally:
                other.close()
        problems = []
        for name in sorted(mine):
            differing = set(mine[name]) ^ set(theirs[name])
            if differing:
                one = next(iter(sorted(differing, key=str)))
                problems.append(
                    f"the table {name} was changed outside the ledger: {len(differing)} rows, "
                    f"such as {str(one)[:100]}"
                )
        return problems


def rebuild(backend: Backend, catalog_url: str, keyring: Keyring | None = None) -> int:
    """Write a new catalog from a store alone and return the number of leaves."""
    catalog = Catalog(catalog_url)
    try:
        if catalog.read(lambda conn: conn.execute(sa.select(tables.ledger_head.c.id)).first()):
            raise CatalogError(f"{catalog_url} holds a ledger already; choose an empty database.")
        return catalog.write(_rebuild, backend, keyring)
    finally:
        catalog.close()


def facts(conn: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of every table that the ledger determines, to compare catalogs by."""
    found = {}
    for table in tables.metadata.sorted_tables:
        if table.name in _NOT_FOLDED:
            continue
        rows = conn.execute(sa.select(table))
        found[table.name] = sorted((tuple(row) for row in rows), key=str)
    return found


def _rebuild(tx: Transaction, backend: Backend, keyring: Keyring | None) -> int:
    for key in backend.keys("actors/"):
        name = digest.parse(backend.get(key))["name"]
        tx.conn.execute(sa.insert(tables.actor).values(id=key.rpartition("/")[2], name=name))
    publications: dict[str, Publication] = {}
    size = 0
    while backend.size(leaf_key(size)) is not None:
        _replay(tx, backend, size, publications)
        size += 1
    if size == 0:
        raise CatalogError(f"the store {backend.url} has no ledger to rebuild from.")
    signed = max((int(key.rpartition("/")[2]) for key in backend.keys("heads/")), default=0)
    if signed > size:
        # Whoever appended now would take numbers that the signer has vouched for.
        raise LedgerError(
            f"the store {backend.url} holds the leaves up to {size - 1}, but a signed head of "
            f"{signed}: leaves are lost; bring them back from a copy of the store first."
        )
    ledger.mark_exported(tx, size)
    rebuilding.map_packs(tx, backend, publications, keyring)
    for key in backend.keys("heads/"):
        stored = digest.parse(backend.get(key))
        tx.conn.execute(
            sa.insert(tables.tree_head).values(
                size=int(key.rpartition("/")[2]), note=stored["note"], pointers=stored["pointers"]
            )
        )
    return size


def _replay(
    tx: Transaction, backend: Backend, number: int, publications: dict[str, Publication]
) -> None:
    """Bring a new catalog to the state after an exported leaf, and note what is published."""
    stored = digest.parse(backend.get(leaf_key(number)))
    envelope = stored["envelope"].encode()
    body = None if stored["body"] is None else stored["body"].encode()
    leaf = Leaf.decode(envelope)
    if body is not None and digest.sha256(body) != leaf.body:
        raise LedgerError(f"the body of leaf {number} in the store was changed.")
    said = {} if body is None else digest.parse(body)
    if number == 0:
        ledger.create(tx, said["origin"])
    at = datetime.fromisoformat(leaf.time).timestamp()
    ledger.insert(tx, ledger.lock(tx), envelope, body, at)
    publication = None
    if leaf.action == "publish":
        data = backend.get(Publication.key(leaf.subject, said["object"]))
        if digest.sha256(data) != said["object_sha256"]:
            raise LedgerError(f"the publish object of {leaf.subject[:16]} was changed.")
        publication = Publication.decode(data)
        publications[leaf.subject] = publication
    elif leaf.action == "forget":
        publications.pop(leaf.subject, None)
    if body is not None:
        fold.apply(tx, leaf, said, publication)


def _roots(hashes: list[bytes]) -> dict[int, bytes]:
    """Return the root of the log at each size."""
    peaks: list[bytes] = []
    roots = {0: merkle.root_of_peaks(peaks)}
    for size, hashed in enumerate(hashes):
        peaks = merkle.append(peaks, size, hashed)
        roots[size + 1] = merkle.root_of_peaks(peaks)
    return roots


def _raw(stored: bytes | str) -> bytes:
    """Return stored bytes, also where somebody has put a text in their place."""
    return stored.encode() if isinstance(stored, str) else bytes(stored)


def _leaf_problems(
    store: Store, number: int, row: sa.Row[Any], state: governance.State
) -> list[str]:
    problems = []
    try:
        leaf = Leaf.decode(bytes(row.envelope))
        if leaf.seq != number:
            problems.append(f"leaf {leaf.seq} stands where leaf {number} should.")
        if bytes(row.hash) != merkle.leaf_hash(bytes(row.envelope)):
            problems.append(f"the envelope of leaf {number} was changed.")
        stored = digest.parse(store.backend.get(leaf_key(number)))
        if stored["envelope"].encode() != bytes(row.envelope):
            problems.append(f"leaf {number} in the catalog differs from the store's.")
        if row.body is not None and digest.sha256(bytes(row.body)) != leaf.body:
            problems.append(f"the body of leaf {number} was changed.")
        body = None if row.body is None else digest.parse(bytes(row.body))
        governance.replay(state, leaf, body, store.get_object)
    except (ArtifactError, OSError, KeyError) as error:
        said = str(error)
        problems.append(said if f"leaf {number}" in said else f"leaf {number}: {said}")
    except TypeError:
        # SQLite keeps a text where bytes were, once somebody has edited them as text.
        problems.append(f"leaf {number} in the catalog holds text in place of its bytes.")
    return problems


def _said(body: bytes | None) -> dict[str, Any] | None:
    if body is None:
        return None
    found = digest.parse(bytes(body))
    found.pop("salt", None)
    if isinstance(found.get("statement"), str):
        return {**digest.parse(found["statement"].encode()), "signed_by": found["key"]}
    return found
