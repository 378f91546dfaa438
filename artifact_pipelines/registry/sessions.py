"""A writer's session: its lease, its packs and its claims."""

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from artifact_pipelines.catalog import packs
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.errors import ArtifactError, SessionLostError
from artifact_pipelines.registry.opened import Opened
from artifact_pipelines.store import codec
from artifact_pipelines.store.codec import Bytes
from artifact_pipelines.store.pack import Location, PackWriter
from artifact_pipelines.store.scanning import ChunkData

P = ParamSpec("P")
T = TypeVar("T")

LEASE = 900.0
"""Seconds for which a silent writer keeps its session."""
CODED = 1 << 20
"""A chunk below this many bytes is written as it is."""


class Session:
    """A writer's lease, the packs it writes and the chunks it relies on.

    Attributes:
        id: Its id.
        ended: Whether its work was published, and the session closed with it.
        sealed: The packs that it wrote, with their sizes.
        placed: The chunks in them.
        scope: The scope that they are encrypted in, or nothing.
        cold: Whether they are of the cold tier.
    """

    def __init__(
        self, registry: Opened, session: str, scope: str | None = None, *, cold: bool = False
    ) -> None:
        """Open a session under an id that was never used, to write in a scope."""
        self.id = session
        self.ended = False
        self.sealed: dict[str, int] = {}
        self.placed: dict[str, Location] = {}
        self.scope = scope
        self.cold = cold
        self._known: set[str] = set()
        self._claimed: set[str] = set()
        self._spared = 0
        self._registry = registry
        self._writer: PackWriter | None = None
        self._write(packs.begin, session, LEASE)
        self._renewed = time.monotonic()

    def take(self, window: list[ChunkData]) -> None:
        """Keep a window of chunks: claim what the store has, write what it lacks.

        For each byte that the store had, one that it lacks may be coded: that takes about the
        time that was saved, so that a writer never waits longer than for bytes that are all new.
        """
        missing = self._unclaimed([chunk.key for chunk in window])
        for chunk in window:
            length = len(chunk.data)
            if chunk.key not in missing or chunk.key in self.placed:
                self._spared += length
            elif CODED <= length <= self._spared:
                self._spared -= length
                coded = codec.encode_quickly(chunk.data)
                self.put(chunk.key, coded.data, Location("", 0, 0, length, coded.codec))
            else:
                self.put(chunk.key, chunk.data)
        self.renew()

    def put(self, key: str, data: Bytes, like: Location | None = None) -> None:
        """Write a chunk into a pack of the session's own.

        Args:
            key: The chunk.
            data: Its bytes as they are stored.
            like: What its length, codec and base are, unless it is stored as it is.
        """
        self.placed[key] = self._room(len(data)).add(key, data, like)

    def renew(self) -> None:
        """Extend the lease, when some of it is used up."""
        if time.monotonic() - self._renewed > LEASE / 4:
            self._write(packs.renew, self.id, LEASE)
            self._renewed = time.monotonic()

    def rely_on(self, keys: list[str]) -> None:
        """Claim chunks that must be in the store already."""
        missing = self._unclaimed(keys)
        if missing:
            raise SessionLostError(f"{len(missing)} chunks are no longer in the store.")

    def seal(self) -> None:
        """Make the pack at hand durable."""
        if self._writer is not None:
            self.sealed[self._writer.pack] = self._writer.seal()
            self._writer = None

    def abandon(self) -> None:
        """Drop what was not published; what cannot be dropped now, prune drops later."""
        if self._writer is not None:
            self._writer.abort()
        if not self.ended:
            with contextlib.suppress(ArtifactError, sa.exc.SQLAlchemyError):
                self._write(packs.end, self.id)

    def _unclaimed(self, keys: list[str]) -> set[str]:
        asked = [key for key in keys if key not in self._known and key not in self.placed]
        if asked:
            # No pack that is claimed goes away, and none of its chunks is moved.
            found, behind = self._registry.catalog.read(packs.look, asked)
            if behind <= self._claimed:
                self._known |= found
            else:
                rows = self._write(packs.claim, self.id, asked)
                self._known |= rows.keys()
                self._claimed |= {row.pack for row in rows.values()}
        return {key for key in asked if key not in self._known}

    def _room(self, length: int) -> PackWriter:
        if self._writer is not None and not self._writer.has_room(length):
            self.seal()
        if self._writer is None:
            pack = secrets.token_hex(16)
            self._write(packs.open_pack, self.id, pack)
            self._writer = self._registry.store.open_pack(pack, self.scope, cold=self.cold)
        return self._writer

    def _write(
        self,
        change: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        # The commit of a publish or a move checks all of it again, and makes it durable.
        return self._registry.catalog.write_soon(change, *args, **kwargs)
