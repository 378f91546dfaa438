"""Strays: objects that no row knows, and rows whose bytes are missing, each with what to do."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.registry.opened import STEPS, leaf_key
from artifact_pipelines.registry.reading import Reading
from artifact_pipelines.store.encryption import data_key
from artifact_pipelines.store.pack import object_key

_DIGEST: Final = re.compile(rb"[0-9a-f]{32,64}")
_PRUNE: Final = "prune removes it: artifact-pipelines prune run"
_LEAVE: Final = "it is small and does no harm; leave it"
_BACKUP: Final = (
    "bring the object back from a backup of the store, then: artifact-pipelines audit verify"
)


@dataclass(frozen=True, slots=True)
class Stray:
    """An object that no row knows, or a row whose object is missing.

    Attributes:
        kind: `object` or `row`.
        key: The key of the object in the store.
        size: Its bytes; nothing where it is missing.
        why: What is amiss.
        next: The safe next step.
    """

    kind: str
    key: str
    size: int | None
    why: str
    next: str


@dataclass(frozen=True, slots=True)
class StrayReport:
    """What a look at every object and every row found.

    Attributes:
        objects: How many objects were looked at.
        rows: How many rows that stand for objects were looked at.
        strays: What does not fit.
    """

    objects: int
    rows: int
    strays: tuple[Stray, ...]

    @property
    def ok(self) -> bool:
        """Whether everything fits, or prune will see to it."""
        return all(stray.next in {_PRUNE, _LEAVE} for stray in self.strays)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the catalog knows of objects.

    Attributes:
        packs: The packs and their states.
        sealed: The packs that are encrypted, unless their key was destroyed on purpose.
        publications: What live and forgotten artifacts cite, and whether they are live.
        sessions: The open sessions.
        cited: Every digest and pseudonym that a leaf or an artifact names.
        size: The number of leaves.
        exported: How many of them are known to be in the store.
    """

    packs: dict[str, str]
    sealed: set[str]
    publications: dict[str, bool]
    sessions: set[str]
    cited: set[str]
    size: int
    exported: int


class Straying(Reading):
    """The registry, as far as store and catalog are compared object by object."""

    def strays(self) -> StrayReport:
        """Return the objects that no row knows, and the rows whose objects are missing.

        The objects are listed first: what is written meanwhile is then no stray.
        """
        listed = list(self.store.backend.keys())
        known = self.catalog.read(_known)
        there = set(listed)
        found = [stray for key in listed if (stray := self._object(key, known)) is not None]
        expected = list(_expected(known))
        found += [
            Stray("row", key, None, why, _BACKUP)
            for key, why in expected
            if key not in there and self.store.backend.size(key) is None
        ]
        return StrayReport(len(listed), len(expected), tuple(found))

    def _object(self, key: str, known: _Known) -> Stray | None:
        """Return an object as a stray, or None where a row knows it."""
        folder, _, name = key.partition("/")
        judge = _FOLDERS.get(folder)
        why, then = (
            ("it is none of this registry's", "move it elsewhere")
            if judge is None
            else (judge(name, known) or ("", ""))
        )
        if not why:
            return None
        return Stray("object", key, self.store.backend.size(key), why, then)


Judged = tuple[str, str] | None


def _pack(name: str, known: _Known) -> Judged:
    if name.rpartition("/")[2] in known.packs:
        return None
    return "a writer died after it wrote this pack, and no row knows it", _PRUNE


def _data_key(name: str, known: _Known) -> Judged:
    return None if name in known.packs else ("it is the key of no pack", _LEAVE)


def _publication(name: str, known: _Known) -> Judged:
    session = name.rpartition("/")[2]
    if f"publish/{name}" in known.publications or session in known.sessions:
        return None
    return "a writer died before it published, so no artifact cites it", _PRUNE


def _leaf(name: str, known: _Known) -> Judged:
    if name.isdigit() and int(name) < known.size:
        return None
    return (
        "the store has a leaf that the catalog lacks: the catalog is older",
        "bring the newer catalog back, or: artifact-pipelines catalog rebuild",
    )


def _small(name: str, known: _Known) -> Judged:
    return None if name in known.cited else ("nothing cites it", _LEAVE)


def _head(_name: str, _known: _Known) -> Judged:
    return None


def _step(_name: str, _known: _Known) -> Judged:
    return None  # prune sweeps it in time


_FOLDERS: Final[dict[str, Callable[[str, _Known], Judged]]] = {
    "packs": _pack,
    "datakeys": _data_key,
    "publish": _publication,
    "leaves": _leaf,
    "heads": _head,
    STEPS: _step,
    "objects": _small,
    "annexes": _small,
    "actors": _small,
}


def _expected(known: _Known) -> Iterator[tuple[str, str]]:
    """Yield the objects that must be there, with what a lack of them means."""
    for pack, state in sorted(known.packs.items()):
        if state == "live":
            yield object_key(pack), "the pack of live chunks is missing"
        if pack in known.sealed:
            yield data_key(pack), "the key of an encrypted pack is missing"
    for key, live in sorted(known.publications.items()):
        if live:
            yield key, "the publish object of a live artifact is missing"
    for seq in range(known.exported):
        yield leaf_key(seq), "an exported leaf is missing"


def _known(conn: Connection) -> _Known:
    artifact, pack, leaf = tables.artifact, tables.pack, tables.leaf
    publications: dict[str, bool] = {}
    cited: set[str] = set(conn.execute(sa.select(tables.actor.c.id)).scalars())
    columns = (artifact.c.id, artifact.c.object, artifact.c.state, artifact.c.annex)
    for row in conn.execute(sa.select(*columns)):
        publications[Publication.key(row.id, row.object)] = row.state == "live"
        if row.annex is not None:
            cited.add(row.annex)
    rows: Iterator[Any] = conn.execute(sa.select(leaf.c.actor, leaf.c.subject, leaf.c.body))
    for row in rows:
        cited |= {row.actor, row.subject}
        cited.update(found.decode() for found in _DIGEST.findall(bytes(row.body or b"")))
    head = ledger.head(conn)
    scope, chunk = tables.scope, tables.chunk
    sealed = (
        sa.select(chunk.c.pack)
        .join(scope, scope.c.id == chunk.c.key_id)
        .where(scope.c.state == "active")
        .distinct()
    )
    return _Known(
        {row.id: row.state for row in conn.execute(sa.select(pack.c.id, pack.c.state))},
        set(conn.execute(sealed).scalars()),
        publications,
        set(conn.execute(sa.select(tables.session.c.id)).scalars()),
        cited,
        int(head.size),
        int(head.exported),
    )
