"""The pack protocol in SQL: sessions, claims, publish and prune.

A pack goes `writing → live → condemned → deleting → gone`; a claim brings a condemned
pack back. Safety rests on row locks and on ids that are never used twice, not on clocks:
an expired session is gone, and a writer whose session is gone cannot publish.
Locks are taken in one order: session, packs by id, chunks by key, ledger head.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import Transaction, batches
from artifact_pipelines.errors import SessionLostError


class Placed(Protocol):
    """Where a chunk is; the store's `Location` is one."""

    @property
    def pack(self) -> str:
        """The pack that holds the chunk."""
        ...

    @property
    def offset(self) -> int:
        """Where its stored bytes begin."""
        ...

    @property
    def stored(self) -> int:
        """The number of its stored bytes."""
        ...

    @property
    def length(self) -> int:
        """The number of its bytes once decoded."""
        ...

    @property
    def codec(self) -> str:
        """How it is encoded."""
        ...

    @property
    def base(self) -> str | None:
        """The chunk that it is a difference from."""
        ...

    @property
    def key_id(self) -> str | None:
        """The key that it is encrypted with."""
        ...


@dataclass(frozen=True, slots=True)
class Doomed:
    """A pack that may be deleted from the store now.

    Attributes:
        id: The pack.
        size: Its bytes.
    """

    id: str
    size: int


def begin(tx: Transaction, session: str, lease: float) -> None:
    """Open a session under a lease in seconds."""
    tx.conn.execute(sa.insert(tables.session).values(id=session, lease_until=tx.now() + lease))


def renew(tx: Transaction, session: str, lease: float) -> None:
    """Extend a session's lease.

    Raises:
        SessionLostError: The session has expired and been removed.
    """
    lock_session(tx, session)
    tx.conn.execute(
        sa.update(tables.session)
        .where(tables.session.c.id == session)
        .values(lease_until=tx.now() + lease)
    )


def end(tx: Transaction, session: str) -> None:
    """Remove a session that publishes nothing more; its unpublished packs are condemned."""
    if tx.lock_rows(tables.session, "id", [session]):
        _remove_session(tx, session)


def open_pack(tx: Transaction, session: str, pack: str) -> None:
    """Enter a pack that a session is about to write."""
    lock_session(tx, session)
    tx.conn.execute(
        sa.insert(tables.pack).values(id=pack, state="writing", session=session, version=0, size=0)
    )


def look(conn: Connection, keys: Sequence[str]) -> tuple[set[str], set[str]]:
    """Return the whole ones among some chunks, and the packs that they are read from.

    Nothing is claimed: this tells a writer who has claimed those packs before that it need not
    do so again, and one that knows of none that there is nothing to claim.
    """
    rows = _chunk_rows(conn, keys)
    bases = _bases(conn, rows)
    hurt = damaged(conn, [*rows, *bases]) if rows else {}
    whole = {
        key: row
        for key, row in rows.items()
        if key not in hurt and row.base not in hurt and (row.base is None or row.base in bases)
    }
    return set(whole), _packs_behind(conn, whole)


def claim(tx: Transaction, session: str, keys: Sequence[str]) -> dict[str, sa.Row[Any]]:
    """Return where the known ones among some chunks are, safe from prune for this session.

    A chunk in a pack that is being deleted counts as absent, and so do one that a scrub found
    damaged and one that differs from either.
    """
    lock_session(tx, session)
    packs = lock(tx, _packs_behind(tx.conn, _chunk_rows(tx.conn, keys)))
    safe = {name for name, row in packs.items() if row.state in {"live", "condemned"}}
    # A move may have repointed a chunk between the look and the lock.
    rows = _chunk_rows(tx.conn, keys)
    bases = _bases(tx.conn, rows)
    rows = {
        key: row
        for key, row in rows.items()
        if row.pack in safe
        and (row.base is None or (row.base in bases and bases[row.base].pack in safe))
    }
    # Whoever has the bytes of a damaged chunk writes them again, and so heals it.
    hurt = damaged(tx.conn, [*rows, *bases])
    rows = {key: row for key, row in rows.items() if key not in hurt and row.base not in hurt}
    wanted = sorted(_packs_behind(tx.conn, rows))
    _revive(tx, wanted)
    _insert_ignore(tx, tables.claim, [{"session": session, "pack": pack} for pack in wanted])
    return rows


def seal(
    tx: Transaction,
    session: str,
    sealed: Mapping[str, int],
    placed: Sequence[tuple[str, Placed]],
    keys: Iterable[str],
) -> list[str]:
    """Make a session's packs live, map their chunks, and return every pack behind the keys.

    This is the part of a publish that comes before its leaf; both are one transaction.

    Args:
        tx: The publishing transaction.
        session: The session.
        sealed: Its own packs with their sizes, already durable in the store.
        placed: The chunks in them.
        keys: The chunks that the artifact needs.

    Raises:
        SessionLostError: The session was fenced off.
    """
    lock_session(tx, session)
    needed = sorted(set(keys))
    packs = lock(tx, _packs_behind(tx.conn, _chunk_rows(tx.conn, needed)) | set(sealed))
    for pack in sealed:
        row = packs.get(pack)
        if row is None or row.state != "writing" or row.session != session:
            raise SessionLostError(f"pack {pack} no longer belongs to session {session}.")
    for part in batches(sorted(damaged(tx.conn, [key for key, _ in placed]))):
        tx.conn.execute(sa.delete(tables.chunk).where(tables.chunk.c.key.in_(part)))
    map_chunks(tx, placed)
    make_live(tx, sealed)
    found = _chunk_rows(tx.conn, needed)
    based = {row.base for row in found.values() if row.base is not None}
    used = _packs_behind(tx.conn, found)
    late = used - set(packs)
    if late:
        # Another session mapped one of our chunks after our look; its pack is locked late,
        # which can only deadlock, and a deadlock runs the whole change again.
        packs |= lock(tx, late)
    dead = [pack for pack in used if pack not in packs or packs[pack].state == "deleting"]
    if dead or len(found) < len(needed) or len(_chunk_rows(tx.conn, based)) < len(based):
        raise SessionLostError(f"session {session} lost chunks that it relied on; publish again.")
    _revive(tx, sorted(used - set(sealed)))
    return sorted(used)


def damaged(conn: Connection, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return which of some chunks a scrub found damaged, with the artifacts that they touch."""
    table = tables.quarantine
    found: dict[str, list[str]] = {}
    for part in batches(sorted(set(keys))):
        statement = sa.select(table.c.key, table.c.artifact).where(table.c.key.in_(part))
        for row in conn.execute(statement.order_by(table.c.artifact)):
            found.setdefault(row.key, []).append(row.artifact)
    return found


def map_chunks(tx: Transaction, placed: Sequence[tuple[str, Placed]]) -> None:
    """Say where chunks are; a chunk that is mapped already stays where it is."""
    _insert_ignore(
        tx,
        tables.chunk,
        [
            {
                "key": key,
                "pack": place.pack,
                "offset": place.offset,
                "stored": place.stored,
                "length": place.length,
                "codec": place.codec,
                "base": place.base,
                "key_id": place.key_id,
            }
            for key, place in sorted(placed, key=lambda item: item[0])
        ],
    )


def make_live(tx: Transaction, sealed: Mapping[str, int]) -> None:
    """Make a session's sealed packs live, with the sizes that they have."""
    for pack, size in sorted(sealed.items()):
        tx.conn.execute(
            sa.update(tables.pack)
            .where(tables.pack.c.id == pack)
            .values(state="live", session=None, size=size, version=tables.pack.c.version + 1)
        )


def attach(tx: Transaction, artifact: str, used: Iterable[str]) -> None:
    """Note the packs that an artifact needs."""
    _insert_ignore(
        tx, tables.artifact_pack, [{"artifact": artifact, "pack": pack} for pack in used]
    )


def close(tx: Transaction, session: str) -> None:
    """Remove a session with its claims, in the transaction that published its work."""
    _remove_session(tx, session)


def expire(tx: Transaction) -> list[str]:
    """Remove the sessions whose lease is over, and return them."""
    late = sa.select(tables.session.c.id).where(tables.session.c.lease_until < tx.now())
    gone = []
    for session in sorted(tx.conn.execute(late).scalars()):
        rows = tx.lock_rows(tables.session, "id", [session])
        if rows and rows[0].lease_until < tx.now():
            _remove_session(tx, session)
            gone.append(session)
    return gone


def adopt_stray(tx: Transaction, pack: str, size: int) -> bool:
    """Enter a pack that the store holds and no row knows, as condemned."""
    if tx.lock_rows(tables.pack, "id", [pack]):
        return False
    tx.conn.execute(
        sa.insert(tables.pack).values(
            id=pack, state="condemned", version=0, size=size, condemned_at=tx.now()
        )
    )
    return True


def unused(conn: Connection, state: str, before: float | None = None) -> list[str]:
    """Return the packs in a state that no artifact and no session needs."""
    pack = tables.pack
    statement = sa.select(pack.c.id).where(pack.c.state == state, *_unneeded(pack.c.id))
    if before is not None:
        statement = statement.where(pack.c.condemned_at <= before)
    return list(conn.execute(statement.order_by(pack.c.id)).scalars())


def condemn(tx: Transaction, pack: str) -> bool:
    """Condemn a live pack that nothing needs, and return whether that was so."""
    rows = tx.lock_rows(tables.pack, "id", [pack])
    if not rows or rows[0].state != "live" or not _is_unneeded(tx, pack):
        return False
    _condemn(tx, pack)
    return True


def condemn_empty(tx: Transaction, pack: str) -> bool:
    """Condemn a pack that a move has left without chunks, and return whether that was so.

    Its lock is held by the move.
    """
    chunk, link = tables.chunk, tables.artifact_pack
    if tx.conn.execute(sa.select(chunk.c.key).where(chunk.c.pack == pack)).first() is not None:
        return False
    tx.conn.execute(sa.delete(link).where(link.c.pack == pack))
    _condemn(tx, pack)
    return True


def doom(tx: Transaction, pack: str, grace: float) -> tuple[Doomed, int] | None:
    """Unmap a condemned pack whose grace is over and that nothing needs.

    What differs from its chunks goes with them: whoever needed that would need this pack.

    Returns:
        The pack and the number of chunks it held, or None when it must stay.
    """
    rows = tx.lock_rows(tables.pack, "id", [pack])
    if not rows or rows[0].state != "condemned" or not _is_unneeded(tx, pack):
        return None
    if rows[0].condemned_at + grace > tx.now():
        return None
    chunk = tables.chunk
    inside = sa.select(chunk.c.key).where(chunk.c.pack == pack)
    leaning = sorted(
        tx.conn.execute(sa.select(chunk.c.key).where(chunk.c.base.in_(inside))).scalars()
    )
    held = tx.conn.execute(sa.delete(chunk).where(chunk.c.pack == pack)).rowcount
    for part in batches(leaning):
        tx.conn.execute(sa.delete(chunk).where(chunk.c.key.in_(part)))
    tx.conn.execute(sa.delete(tables.artifact_pack).where(tables.artifact_pack.c.pack == pack))
    tx.conn.execute(
        sa.update(tables.pack)
        .where(tables.pack.c.id == pack)
        .values(state="deleting", version=tables.pack.c.version + 1)
    )
    return Doomed(pack, rows[0].size), held


def deleting(conn: Connection) -> list[Doomed]:
    """Return the packs whose deletion was begun and not ended."""
    pack = tables.pack
    statement = sa.select(pack.c.id, pack.c.size).where(pack.c.state == "deleting")
    return [Doomed(row.id, row.size) for row in conn.execute(statement.order_by(pack.c.id))]


def gone(tx: Transaction, pack: str) -> None:
    """Drop the row of a pack whose object is deleted."""
    tx.conn.execute(
        sa.delete(tables.pack).where(tables.pack.c.id == pack, tables.pack.c.state == "deleting")
    )


def locate(conn: Connection, keys: Sequence[str]) -> dict[str, sa.Row[Any]]:
    """Return where chunks are, by key; a chunk that nobody maps is left out."""
    return _chunk_rows(conn, keys)


def _bases(conn: Connection, rows: Mapping[str, sa.Row[Any]]) -> dict[str, sa.Row[Any]]:
    """Return the rows of the chunks that some chunks differ from."""
    return _chunk_rows(conn, {row.base for row in rows.values() if row.base is not None})


def _packs_behind(conn: Connection, rows: Mapping[str, sa.Row[Any]]) -> set[str]:
    """Return the packs that chunks cannot be read without: their own and those of their bases."""
    return {row.pack for row in (*rows.values(), *_bases(conn, rows).values())}


def _condemn(tx: Transaction, pack: str) -> None:
    tx.conn.execute(
        sa.update(tables.pack)
        .where(tables.pack.c.id == pack)
        .values(state="condemned", condemned_at=tx.now(), version=tables.pack.c.version + 1)
    )


def _chunk_rows(conn: Connection, keys: Iterable[str]) -> dict[str, sa.Row[Any]]:
    table = tables.chunk
    found: dict[str, sa.Row[Any]] = {}
    for part in batches(sorted(set(keys))):
        for row in conn.execute(sa.select(table).where(table.c.key.in_(part))):
            found[row.key] = row
    return found


def lock_session(tx: Transaction, session: str) -> None:
    """Lock a session, which is gone once its lease was found to be over.

    Raises:
        SessionLostError: It is gone.
    """
    if not tx.lock_rows(tables.session, "id", [session]):
        raise SessionLostError(
            f"session {session} has expired, so nothing of it was published; publish again."
        )


def lock(tx: Transaction, packs: Iterable[str]) -> dict[str, Any]:
    """Lock packs in the order of their ids, and return their rows."""
    return {row.id: row for row in tx.lock_rows(tables.pack, "id", list(packs))}


def _revive(tx: Transaction, packs: list[str]) -> None:
    for part in batches(packs):
        tx.conn.execute(
            sa.update(tables.pack)
            .where(tables.pack.c.id.in_(part))
            .values(state="live", condemned_at=None, version=tables.pack.c.version + 1)
        )


def _remove_session(tx: Transaction, session: str) -> None:
    tx.conn.execute(sa.delete(tables.claim).where(tables.claim.c.session == session))
    tx.conn.execute(
        sa.update(tables.pack)
        .where(tables.pack.c.session == session, tables.pack.c.state == "writing")
        .values(
            state="condemned",
            session=None,
            condemned_at=tx.now(),
            version=tables.pack.c.version + 1,
        )
    )
    tx.conn.execute(sa.delete(tables.session).where(tables.session.c.id == session))


def _unneeded(pack: sa.ColumnElement[Any]) -> list[sa.ColumnElement[bool]]:
    needed = (
        sa.select(tables.artifact_pack.c.artifact)
        .join(tables.artifact, tables.artifact.c.id == tables.artifact_pack.c.artifact)
        .where(tables.artifact_pack.c.pack == pack, tables.artifact.c.state != "forgotten")
    )
    claimed = sa.select(tables.claim.c.session).where(tables.claim.c.pack == pack)
    return [~needed.exists(), ~claimed.exists()]


def _is_unneeded(tx: Transaction, pack: str) -> bool:
    statement = sa.select(sa.literal(1)).where(*_unneeded(sa.literal(pack)))
    return tx.conn.execute(statement).first() is not None


def _insert_ignore(tx: Transaction, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    dialect = sqlite if tx.conn.dialect.name == "sqlite" else postgresql
    tx.conn.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
