"""The pack protocol's fourth rule in SQL: chunks move to new packs.

A move is written under a session and decided in one transaction. It is abandoned when one of
the packs it moves from was touched since it was looked at: every claim, publish and move of
others raises a pack's version. It keeps three promises. The base of a difference is never a
difference itself. A chunk that others differ from never becomes one, so that two moves cannot
each make the other's chunk unreadable. Whoever needs a difference is attached to the pack of
its base as well, so that neither goes before the other.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import packs, tables
from artifact_pipelines.catalog.catalog import Transaction, batches
from artifact_pipelines.catalog.packs import Placed
from artifact_pipelines.errors import MoveAbandonedError


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A pack as it was when a move was begun.

    Attributes:
        id: The pack.
        state: Its state.
        version: How often it had been touched.
        size: Its bytes.
        chunks: The rows of its chunks, by key.
        users: The live artifacts that are attached to it.
    """

    id: str
    state: str
    version: int
    size: int
    chunks: Mapping[str, sa.Row[Any]]
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """What one transaction changes.

    Attributes:
        session: The session that wrote the new packs.
        sealed: The new packs with their sizes, durable in the store.
        placed: Where chunks are in them.
        dropped: Chunks that nobody needs and that are not taken along.
        sources: The packs that are moved from, with the versions they had.
        needs: For each live artifact attached to them, what it needs of their chunks and of
            the chunks that differ from these.
    """

    session: str
    sealed: Mapping[str, int]
    placed: Mapping[str, Placed]
    dropped: frozenset[str]
    sources: Mapping[str, int]
    needs: Mapping[str, frozenset[str]]


def survey(conn: Connection, ids: Iterable[str]) -> dict[str, Surveyed]:
    """Return packs with their chunks and their live users, as they are at one time."""
    wanted = sorted(set(ids))
    pack, chunk = tables.pack, tables.chunk
    rows: dict[str, dict[str, sa.Row[Any]]] = {name: {} for name in wanted}
    users: dict[str, list[str]] = {name: [] for name in wanted}
    found: dict[str, sa.Row[Any]] = {}
    for part in batches(wanted):
        found |= {row.id: row for row in conn.execute(sa.select(pack).where(pack.c.id.in_(part)))}
        for row in conn.execute(sa.select(chunk).where(chunk.c.pack.in_(part))):
            rows[row.pack][row.key] = row
        for name, artifact in _attached(conn, part):
            users[name].append(artifact)
    return {
        name: Surveyed(
            name, row.state, row.version, row.size, rows[name], tuple(sorted(users[name]))
        )
        for name, row in sorted(found.items())
    }


def differing_from(conn: Connection, keys: Iterable[str]) -> dict[str, str]:
    """Return the chunks that are stored as differences from some chunks, with their bases."""
    chunk = tables.chunk
    found: dict[str, str] = {}
    for part in batches(sorted(set(keys))):
        statement = sa.select(chunk.c.key, chunk.c.base).where(chunk.c.base.in_(part))
        found |= {row.key: row.base for row in conn.execute(statement)}
    return found


def commit(tx: Transaction, move: Move) -> list[str]:
    """Repoint what moved, attach those who need it, and return the packs that are condemned.

    Raises:
        SessionLostError: The session was fenced off.
        MoveAbandonedError: Something that the move relied on has changed.
    """
    packs.lock_session(tx, move.session)
    bases = {place.base for place in move.placed.values() if place.base is not None}
    near = {row.pack for row in packs.locate(tx.conn, sorted(bases)).values()}
    locked = packs.lock(tx, {*move.sources, *move.sealed, *near})
    _check_packs(tx, move, locked)
    _check_chunks(tx, move, bases, locked)
    touched = {*move.sources, *_base_packs(tx, move, bases)}
    _repoint(tx, move)
    _attach(tx, move)
    for part in batches(sorted(touched - set(move.sealed))):
        tx.conn.execute(
            sa.update(tables.pack)
            .where(tables.pack.c.id.in_(part))
            .values(version=tables.pack.c.version + 1)
        )
    condemned = [pack for pack in sorted(move.sources) if packs.condemn_empty(tx, pack)]
    packs.close(tx, move.session)
    return condemned


def _check_packs(tx: Transaction, move: Move, locked: Mapping[str, sa.Row[Any]]) -> None:
    for pack in move.sealed:
        row = locked.get(pack)
        if row is None or row.state != "writing" or row.session != move.session:
            raise MoveAbandonedError(f"its pack {pack} no longer belongs to its session")
    for pack, version in move.sources.items():
        row = locked.get(pack)
        if row is None or row.state != "live" or row.version != version:
            raise MoveAbandonedError(f"pack {pack} was used by another meanwhile")
    claim = tables.claim
    for part in batches(sorted(move.sources)):
        if tx.conn.execute(sa.select(claim.c.pack).where(claim.c.pack.in_(part))).first():
            raise MoveAbandonedError("a writer relies on one of its packs")
    for part in batches(sorted(move.sources)):
        for _, artifact in _attached(tx.conn, part):
            if artifact not in move.needs:
                raise MoveAbandonedError("another artifact came to need one of its packs")


def _check_chunks(
    tx: Transaction,
    move: Move,
    bases: Collection[str],
    locked: Mapping[str, sa.Row[Any]],
) -> None:
    rows = {
        row.key: row
        for row in tx.lock_rows(tables.chunk, "key", [*move.placed, *move.dropped, *bases])
    }
    for key in (*move.placed, *move.dropped):
        if key not in rows or rows[key].pack not in move.sources:
            raise MoveAbandonedError(f"chunk {key[:16]} has moved meanwhile")
    for base in bases:
        place = move.placed.get(base) or rows.get(base)
        if place is None or place.base is not None:
            raise MoveAbandonedError(f"the base {base[:16]} does not stand for itself")
        if place.pack not in locked or locked[place.pack].state not in {"live", "writing"}:
            raise MoveAbandonedError(f"the base {base[:16]} has moved meanwhile")
    turned = {key for key, place in move.placed.items() if place.base is not None}
    leaning = differing_from(tx.conn, turned | move.dropped)
    if set(leaning) - move.dropped:
        raise MoveAbandonedError("another chunk has come to differ from one of its chunks")


def _base_packs(tx: Transaction, move: Move, bases: Collection[str]) -> set[str]:
    """Return the packs of bases that stay where they are."""
    stay = sorted(base for base in bases if base not in move.placed)
    return {row.pack for row in packs.locate(tx.conn, stay).values()}


def _repoint(tx: Transaction, move: Move) -> None:
    chunk = tables.chunk
    gone = [*move.placed, *move.dropped]
    for part in batches(sorted(gone)):
        tx.conn.execute(sa.delete(chunk).where(chunk.c.key.in_(part)))
    packs.map_chunks(tx, list(move.placed.items()))
    packs.make_live(tx, move.sealed)


def _attach(tx: Transaction, move: Move) -> None:
    """Attach each artifact to what it needs now, and detach it from sources it does not need."""
    chunk, link = tables.chunk, tables.artifact_pack
    # Those whose base has moved need the pack it is in now, wherever they are themselves.
    leaning = differing_from(tx.conn, move.placed)
    bases = {place.base for place in move.placed.values() if place.base is not None}
    home = {key: row.pack for key, row in packs.locate(tx.conn, sorted(bases)).items()}
    left: dict[str, set[str]] = {}
    for part in batches(sorted(move.sources)):
        statement = sa.select(chunk.c.key, chunk.c.pack).where(chunk.c.pack.in_(part))
        for row in tx.conn.execute(statement):
            left.setdefault(row.key, set()).add(row.pack)
    for key, base in differing_from(tx.conn, left).items():
        left.setdefault(key, set()).update(left[base])
    for artifact, needs in sorted(move.needs.items()):
        wanted: set[str] = set()
        for key in needs:
            place = move.placed.get(key)
            if place is not None:
                wanted.add(place.pack)
                if place.base is not None:
                    wanted.add(home[place.base])
            if key in leaning:
                wanted.add(move.placed[leaning[key]].pack)
        packs.attach(tx, artifact, sorted(wanted))
        kept = {pack for key in needs for pack in left.get(key, ())}
        for part in batches(sorted(set(move.sources) - kept)):
            tx.conn.execute(
                sa.delete(link).where(link.c.artifact == artifact, link.c.pack.in_(part))
            )


def _attached(conn: Connection, ids: Collection[str]) -> Iterable[tuple[str, str]]:
    link, artifact = tables.artifact_pack, tables.artifact
    statement = (
        sa.select(link.c.pack, link.c.artifact)
        .join(artifact, artifact.c.id == link.c.artifact)
        .where(link.c.pack.in_(ids), artifact.c.state == "live")
    )
    return [(row.pack, row.artifact) for row in conn.execute(statement)]
