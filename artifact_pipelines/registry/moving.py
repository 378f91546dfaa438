"""Moving chunks between packs: archive, restore, compaction; and slimming, which frees some.

None of them changes what an artifact is. A group of checkpoints is archived at once: the middle
one stands for itself, and the others are stored as differences from it, tensor by tensor.
"""

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, moves, tables
from artifact_pipelines.catalog.catalog import Transaction, batches
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import (
    GoneError,
    HeldError,
    MoveAbandonedError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import steps
from artifact_pipelines.registry.publishing import Publishing
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.sessions import Session
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines.store import codec
from artifact_pipelines.store.codec import RAW, Bytes
from artifact_pipelines.store.pack import MAX_PACK, Location

GROUP = 8
"""How many checkpoints of a run are archived around one that stands for itself."""
TIERS = {"archive": "cold", "restore": "hot"}
"""The tier that each move on purpose leads to."""
THRESHOLD = 0.5
"""A pack is rewritten when a smaller share of it is still needed."""

SHARD = 1 << 30
"""The bytes that a shard of what is archived holds, about."""

_TRIES = 3
_WORKERS = 2
_FOOTER_LINE = 260  # bytes that a chunk takes in a footer, at most

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """What archiving or restoring did.

    Attributes:
        moved: The references whose bytes are in the other tier now.
        skipped: The references that stay, with the reason.
        before: The stored bytes of the chunks that were moved, where they were.
        after: The stored bytes of the same chunks, where they are.
    """

    moved: tuple[str, ...]
    skipped: Mapping[str, str]
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Compacted:
    """What compaction did.

    Attributes:
        packs: How many packs were rewritten.
        freed: The stored bytes that prune can free now.
        skipped: The packs that stay, with the reason.
    """

    packs: int
    freed: int
    skipped: Mapping[str, str]


@dataclass(slots=True)
class _Work:
    """What a session wrote, and what it relied on."""

    sources: dict[str, int] = field(default_factory=dict)
    needs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    before: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True)
class _View:
    """Packs as they were at one time, and who needs what of them."""

    packs: Mapping[str, moves.Surveyed]
    leaning: Mapping[str, str]
    needs: Mapping[str, frozenset[str]]
    cold: frozenset[str]

    def users(self) -> dict[str, set[str]]:
        """Return the live artifacts that need each chunk."""
        found: dict[str, set[str]] = {}
        for artifact, needs in self.needs.items():
            for key in needs:
                found.setdefault(key, set()).add(artifact)
        return found

    def work(self, sources: Iterable[str]) -> _Work:
        """Return the work that moves from some of the packs, as far as it is known."""
        found = {name: self.packs[name] for name in sources}
        artifacts = {artifact for pack in found.values() for artifact in pack.users}
        needs = {artifact: self.needs[artifact] for artifact in artifacts}
        return _Work({name: pack.version for name, pack in found.items()}, needs)


class Moving(Publishing):
    """The registry, as far as chunks move from pack to pack."""

    def archive(self, references: Sequence[str], progress: Progress | None = None) -> Moved:
        """Move artifacts to the cold tier, where checkpoints of a run are stored by what differs.

        A run stands for its checkpoints.
        """
        return steps.run(self.archiving(references, progress))

    def restore(self, references: Sequence[str], progress: Progress | None = None) -> Moved:
        """Move artifacts back to the hot tier, where each chunk stands for itself, raw.

        A run stands for its checkpoints.
        """
        return steps.run(self.restoring(references, progress))

    def compact(self, threshold: float = THRESHOLD) -> Compacted:
        """Rewrite the packs of which less than a share is needed, without the rest."""
        return steps.run(self.compacting(threshold))

    def slim(
        self, reference: str, *, reason: str, rule: str = "slim", plan: str | None = None
    ) -> tuple[str, ...]:
        """Give up the bytes of a checkpoint's optimizer, and return the files that lose them.

        Its digests stay what they are; compaction frees the bytes. Slimmed twice is once.

        Raises:
            UnknownArtifactError: It is no checkpoint, or has no optimizer.
            GoneError: It was forgotten.
            HeldError: Something relies on it.
        """
        artifact = self.find(reference)
        found = [entry.path for entry in self.files(artifact.id) if _is_optimizer(entry.path)]
        if artifact.kind is not Kind.CHECKPOINT or not found:
            raise UnknownArtifactError(f"{artifact.reference} has no files of an optimizer.")
        lost = self.catalog.write(
            _slim, artifact, found, {"plan": plan, "rule": rule, "reason": reason}, self.actor
        )
        self.export_leaves()
        return tuple(lost)

    def archiving(
        self, references: Sequence[str], progress: Progress | None = None
    ) -> Steps[Moved]:
        """Archive artifacts, step by step; each group comes to be cold in one transaction."""
        groups = archived_together(self._meant(references))
        return (yield from self._shift("archive", groups, self._write_cold, progress))

    def restoring(
        self, references: Sequence[str], progress: Progress | None = None
    ) -> Steps[Moved]:
        """Restore artifacts, step by step; each comes to be hot in one transaction."""
        groups = [[artifact] for artifact in self._meant(references)]
        return (yield from self._shift("restore", groups, self._write_hot, progress))

    def compacting(self, threshold: float = THRESHOLD) -> Steps[Compacted]:
        """Compact, step by step."""
        done = freed = 0
        skipped: dict[str, str] = {}
        for names, (scope, cold) in self._wasteful(threshold):
            try:
                write = partial(self._write_kept, names)
                work = yield from self._moved(write, scope=scope, cold=cold)
            except MoveAbandonedError as error:
                skipped |= dict.fromkeys(names, str(error))
                continue
            done, freed = done + len(work.sources), freed + work.before - work.after
        return Compacted(done, freed, skipped)

    def _meant(self, references: Sequence[str]) -> list[Artifact]:
        """Return the artifacts of references, the live checkpoints of a run in its place."""
        found: dict[str, Artifact] = {}
        for reference in references:
            artifact = self.find(reference)
            meant = [artifact]
            if artifact.kind is Kind.TRAINING_RUN:
                there = self.checkpoints(artifact.project, artifact.name)
                meant = [checkpoint for checkpoint in there if checkpoint.state == "live"]
            found |= {one.id: one for one in meant}
        return list(found.values())

    def _shift(
        self,
        action: str,
        groups: list[list[Artifact]],
        write: Callable[[list[Artifact], Session], _Work],
        progress: Progress | None,
    ) -> Steps[Moved]:
        """Move groups of artifacts to the other tier, each group at once."""
        tier = TIERS[action]
        moved: list[str] = []
        skipped: dict[str, str] = {}
        before = after = 0
        for number, found in enumerate(groups):
            if progress is not None:
                progress(number, len(groups))
            group = []
            for artifact in found:
                if artifact.state == "forgotten":
                    skipped[artifact.reference] = "it was forgotten"
                elif artifact.tier == tier:
                    skipped[artifact.reference] = f"it is {tier} already"
                else:
                    group.append(artifact)
            if not group:
                continue
            try:
                scope = self.scope_of(group[0].project)
                work = yield from self._moved(
                    partial(write, group), action, group, scope=scope, cold=tier == "cold"
                )
            except MoveAbandonedError as error:
                skipped |= {artifact.reference: str(error) for artifact in group}
                continue
            moved += [artifact.reference for artifact in group]
            before, after = before + work.before, after + work.after
        return Moved(tuple(moved), skipped, before, after)

    def _moved(
        self,
        write: Callable[[Session], _Work],
        action: str = "",
        group: Sequence[Artifact] = (),
        *,
        scope: str | None,
        cold: bool,
    ) -> Steps[_Work]:
        """Write new packs and make them the place of their chunks, again if others get in the way.

        Raises:
            MoveAbandonedError: Others got in the way each time.
        """
        for left in reversed(range(_TRIES)):
            session = Session(self, secrets.token_hex(16), scope, cold=cold)
            try:
                yield "session_opened"
                work = write(session)
                yield "chunks_written"
                session.seal()
                yield "packs_sealed"
                self.catalog.write(_commit, session, work, action, group, self.actor)
                session.ended = True
                yield "committed"
            except MoveAbandonedError:
                if not left:
                    raise
            else:
                self.export_leaves()
                yield "exported"
                return work
            finally:
                session.abandon()
        raise AssertionError  # the last round returns or raises

    def _write_cold(self, group: list[Artifact], session: Session) -> _Work:
        """Write the chunks that only a group and other cold artifacts need in their smallest form.

        What a hot artifact needs as well stays where it is, and so does what a cold one had coded.
        """
        kept = {artifact.id: self._kept(artifact) for artifact in group}
        keys = sorted({key for files in kept.values() for _, key, _ in files})
        places = self.locate(keys)
        view = self._view({place.pack for place in places.values()})
        own, users = kept.keys() | view.cold, view.users()
        movable = {
            key
            for key, place in places.items()
            if place.base is None
            and users.get(key, set()) <= (own if place.codec == RAW else kept.keys())
        }
        order = _paired([kept[artifact.id] for artifact in group], places, movable, view)
        return self._write_coded(session, order, places, movable, view)

    def _write_coded(
        self,
        session: Session,
        order: list[tuple[str, str | None]],
        places: Mapping[str, Location],
        movable: set[str],
        view: _View,
    ) -> _Work:
        work = view.work({places[key].pack for key in movable})
        base: Bytes = b""
        pending: deque[Future[_Coded]] = deque()
        found = self.store.read_chunks([key for key, _ in order], self.locate)
        with ThreadPoolExecutor(_WORKERS) as pool:
            for (key, base_key), data in zip(order, found, strict=True):
                if base_key is None:
                    base = data
                if key not in movable:
                    continue
                against = (base_key, base) if base_key is not None else None
                pending.append(pool.submit(_coded, key, data, against))
                if len(pending) >= _WORKERS:
                    _put(session, pending.popleft().result(), work)
            while pending:
                _put(session, pending.popleft().result(), work)
        work.before = sum(places[key].stored for key in movable)
        return work

    def _write_hot(self, group: list[Artifact], session: Session) -> _Work:
        """Write the chunks of artifacts that are coded, raw."""
        keys = sorted({key for artifact in group for _, key, _ in self._kept(artifact)})
        places = {key: at for key, at in self.locate(keys).items() if at.codec != RAW}
        view = self._view({place.pack for place in places.values()})
        work = view.work({place.pack for place in places.values()})
        order = sorted(places, key=lambda key: (places[key].pack, places[key].offset))
        for key, data in zip(order, self.store.read_chunks(order, self.locate), strict=True):
            session.put(key, data)
            session.renew()
            work.before, work.after = work.before + places[key].stored, work.after + len(data)
        return work

    def _write_kept(self, names: list[str], session: Session) -> _Work:
        """Copy what is needed of some packs, as it is stored."""
        view = self._view(names)
        living = [name for name, pack in view.packs.items() if pack.state == "live"]
        work = view.work(living)
        kept = _needed(view)
        gone: set[str] = set()
        for name in living:
            pack = view.packs[name]
            work.before += pack.size
            gone |= pack.chunks.keys() - kept
            order = sorted(pack.chunks.keys() & kept, key=lambda key: pack.chunks[key].offset)
            places = self.locate(order)
            # Read, not only copied: what is damaged must not get a new place.
            for key, _ in zip(order, self.store.read_chunks(order, self.locate), strict=True):
                session.put(key, self.store.stored_bytes(places[key]), places[key])
                session.renew()
                work.after += places[key].stored
        work.dropped = frozenset(gone)
        return work

    def _wasteful(self, threshold: float) -> Iterator[tuple[list[str], tuple[str | None, bool]]]:
        """Yield the packs that are worth rewriting, as many as fill a new one.

        They are of one scope and one tier, which are yielded with them.
        """
        batch: list[str] = []
        held, like = 0, (None, False)
        for names in batches(self.catalog.read(_live_packs), 50):
            view = self._view(names)
            kept = _needed(view)
            for name, pack in view.packs.items():
                stays = [row for key, row in pack.chunks.items() if key in kept]
                size = sum(row.stored for row in stays)
                dead = pack.size - size - _FOOTER_LINE * (len(stays) + 1)
                if not pack.users or dead <= (1 - threshold) * pack.size:
                    continue
                scope = next((row.key_id for row in pack.chunks.values()), None)
                mine = (scope, view.cold.issuperset(pack.users))
                if batch and (held + size > MAX_PACK or mine != like):
                    yield batch, like
                    batch, held = [], 0
                like = mine
                batch.append(name)
                held += size
        if batch:
            yield batch, like

    def _view(self, names: Iterable[str]) -> _View:
        """Return packs as they are, with what their users need of them."""
        surveyed, leaning, users = self.catalog.read(_look, list(names))
        rows = {key for pack in surveyed.values() for key in pack.chunks}
        wanted = rows | leaning.keys()
        needs = {
            row.id: frozenset(wanted.intersection(self._publication(row).keys(removed)))
            for row, removed in users
        }
        cold = frozenset(row.id for row, _ in users if row.tier == "cold")
        return _View(surveyed, leaning, needs, cold)

    def _kept(self, artifact: Artifact) -> list[tuple[str, str, int]]:
        """Return path, chunk and length of everything that is kept of an artifact, in order."""
        publication = self.publication_of(artifact.id, artifact.session)
        removed = self.removed(artifact)
        return [
            (entry.path, key, length)
            for entry in publication.manifest.files
            if entry.path not in removed
            for key, length in publication.chunks[entry.sha256]
        ]

    def _publication(self, row: sa.Row[Any]) -> Publication:
        return self.publication_of(row.id, row.object)


_Coded = tuple[str, codec.Encoded, str | None, int]


def archived_together(artifacts: list[Artifact]) -> list[list[Artifact]]:
    """Return checkpoints by run in groups of neighbouring steps, and everything else alone."""
    runs: dict[tuple[str, str], list[Artifact]] = {}
    groups: list[list[Artifact]] = []
    for artifact in artifacts:
        if artifact.kind is Kind.CHECKPOINT:
            runs.setdefault((artifact.project, artifact.name), []).append(artifact)
        else:
            groups.append([artifact])
    for run in runs.values():
        ordered = sorted(run, key=lambda artifact: (artifact.step or 0, artifact.seq))
        groups += batches(ordered, GROUP)
    return groups


def _paired(
    group: list[list[tuple[str, str, int]]],
    places: Mapping[str, Location],
    movable: set[str],
    view: _View,
) -> list[tuple[str, str | None]]:
    """Return the chunks of a group, each after the one that it may differ from.

    The same position of the same file is the same tensor where its length is the same.
    """
    frame = group[len(group) // 2]
    spots = _spots(frame)
    framed = {key for _, key, _ in frame}
    bases = set(view.leaning.values())
    near: dict[str, list[str]] = {key: [] for _, key, _ in frame}
    alone: dict[str, None] = {}
    for files in group:
        for spot, (key, length) in _spots(files).items():
            if key in framed or key not in movable:
                continue
            base, size = spots.get(spot, ("", -1))
            if size == length and key not in bases and places[base].base is None:
                near[base].append(key)
            else:
                alone[key] = None
    order: list[tuple[str, str | None]] = []
    seen: set[str] = set()
    for base, others in near.items():
        fresh = [key for key in dict.fromkeys(others) if key not in seen]
        seen.update(fresh)
        if fresh or base in movable:
            order += [(base, None), *((key, base) for key in fresh)]
    return order + [(key, None) for key in alone if key not in seen]


def _spots(files: list[tuple[str, str, int]]) -> dict[tuple[str, int], tuple[str, int]]:
    """Return chunk and length at each position of each file."""
    found: dict[tuple[str, int], tuple[str, int]] = {}
    counts: dict[str, int] = {}
    for path, key, length in files:
        position = counts.get(path, 0)
        counts[path] = position + 1
        found[path, position] = (key, length)
    return found


def _coded(key: str, data: Bytes, against: tuple[str, Bytes] | None) -> _Coded:
    """Return the smallest form of a chunk."""
    base_key, base = against or (None, None)
    found = codec.encode(data, base)
    return key, found, base_key if found.differs else None, len(data)


def _put(session: Session, coded: _Coded, work: _Work) -> None:
    key, found, base, length = coded
    session.put(key, found.data, Location("", 0, 0, length, found.codec, base))
    session.renew()
    work.after += len(found.data)


def _needed(view: _View) -> set[str]:
    """Return the chunks that must be kept: those needed, and those that others differ from."""
    rows = {key for pack in view.packs.values() for key in pack.chunks}
    kept = {key for needs in view.needs.values() for key in needs} & rows
    kept |= {base for key, base in view.leaning.items() if key in kept or key not in rows}
    return kept


def _commit(
    tx: Transaction,
    session: Session,
    work: _Work,
    action: str,
    group: Sequence[Artifact],
    actor: str,
) -> None:
    """Make a move true, and say of each artifact that was moved on purpose where it is now."""
    moves.commit(
        tx,
        moves.Move(
            session.id, session.sealed, session.placed, work.dropped, work.sources, work.needs
        ),
    )
    rows = tx.lock_rows(tables.artifact, "id", [artifact.id for artifact in group])
    if any(row.state == "forgotten" for row in rows):
        raise MoveAbandonedError("one of its artifacts was forgotten meanwhile")
    there = {row.id for row in rows if row.tier == TIERS.get(action)}
    for artifact in group:
        if artifact.id in there:
            continue  # another process has moved it meanwhile
        ledger.append(
            tx,
            action=action,
            subject=artifact.id,
            body={"project": artifact.project},
            actor=actor,
        )


def _slim(
    tx: Transaction, artifact: Artifact, paths: list[str], why: Mapping[str, Any], actor: str
) -> list[str]:
    (row,) = tx.lock_rows(tables.artifact, "id", [artifact.id])
    if row.state == "forgotten":
        raise GoneError(f"{artifact.reference} was forgotten.")
    ledger.lock(tx)
    file = tables.artifact_file
    statement = sa.select(file.c.path).where(
        file.c.artifact == artifact.id, file.c.path.in_(paths), file.c.state != "removed"
    )
    left = sorted(tx.conn.execute(statement).scalars())
    if left:
        held = _relied_on(tx, artifact)
        if held:
            raise HeldError(f"{artifact.reference} may not be slimmed", held)
        body = {"project": artifact.project, "files": left, **why}
        ledger.append(tx, action="slim", subject=artifact.id, body=body, actor=actor)
    return left


def _relied_on(tx: Transaction, artifact: Artifact) -> list[str]:
    """Return what relies on the bytes of a checkpoint, under the lock of the ledger."""
    reader, hold, run, table = tables.reader, tables.hold, tables.run, tables.artifact
    later = sa.select(table.c.id).where(
        table.c.project == artifact.project,
        table.c.kind == artifact.kind.value,
        table.c.name == artifact.name,
        table.c.step > artifact.step,
        table.c.state == "live",
    )
    questions = {
        "somebody is reading it": sa.select(reader.c.id).where(
            reader.c.artifact == artifact.id, reader.c.lease_until > tx.now()
        ),
        "it is on hold": sa.select(hold.c.seq).where(
            hold.c.artifact == artifact.id, hold.c.lifted.is_(None)
        ),
        "its run has not finished and would resume from it": sa.select(run.c.id).where(
            run.c.id == artifact.record.run, run.c.state != "finished", ~later.exists()
        ),
    }
    return [
        answer
        for answer, question in questions.items()
        if tx.conn.execute(question).first() is not None
    ]


def _is_optimizer(path: str) -> bool:
    return path.rpartition("/")[2].startswith("optimizer")


def _look(
    conn: Connection, names: list[str]
) -> tuple[dict[str, moves.Surveyed], dict[str, str], list[tuple[sa.Row[Any], set[str]]]]:
    """Return packs, what differs from their chunks, and their users with the files they lost."""
    surveyed = moves.survey(conn, names)
    keys = [key for pack in surveyed.values() for key in pack.chunks]
    leaning = moves.differing_from(conn, keys)
    ids = sorted({artifact for pack in surveyed.values() for artifact in pack.users})
    artifact, file = tables.artifact, tables.artifact_file
    lost: dict[str, set[str]] = {}
    rows: list[sa.Row[Any]] = []
    for part in batches(ids):
        gone = sa.select(file).where(file.c.artifact.in_(part), file.c.state == "removed")
        for row in conn.execute(gone):
            lost.setdefault(row.artifact, set()).add(row.path)
        rows += conn.execute(sa.select(artifact).where(artifact.c.id.in_(part)))
    return surveyed, leaning, [(row, lost.get(row.id, set())) for row in rows]


def _live_packs(conn: Connection) -> list[str]:
    pack = tables.pack
    statement = sa.select(pack.c.id).where(pack.c.state == "live").order_by(pack.c.id)
    return list(conn.execute(statement).scalars())
