"""Scrub: every stored byte, or a sample, is read again; what is damaged is healed or set apart."""

import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, moves, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.sharding import MOST, shards
from artifact_pipelines.errors import ArtifactError, KeyGoneError
from artifact_pipelines.registry.moving import Moving
from artifact_pipelines.registry.reading import to_location
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.encryption import data_key
from artifact_pipelines.store.opening import open_backend
from artifact_pipelines.store.pack import Location, object_key
from artifact_pipelines.store.store import Store

_SERVED: Final = 4.0  # how much likelier a pack is sampled that a stage needs
_STEP: Final = 16 * 1024 * 1024  # bytes that are copied at once
SHARD: Final = 1 << 30
"""The bytes that a shard of a scrub reads, about."""
_DATA_KEYS: Final = "datakeys/"
_SMALL: Final = (_DATA_KEYS, "objects/", "annexes/", "actors/", "publish/", "leaves/", "heads/")
"""What is copied after the packs, in an order that keeps the copy whole at any time."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """A chunk, pack or object that is not what it should be.

    Attributes:
        pack: The pack, or the key of an object that is no pack.
        key: The chunk, or nothing where the whole pack is unreadable.
        what: What is wrong.
        artifacts: The references that need it.
    """

    pack: str
    key: str | None
    what: str
    artifacts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScrubShard:
    """A part of what a scrub reads.

    Attributes:
        packs: The packs.
        first: The first leaf of the artifacts whose publish objects are read.
        last: The leaf that ends them.
        seed: What the sample was drawn by.
    """

    packs: tuple[str, ...]
    first: int
    last: int
    seed: int


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """What reading stored bytes again found.

    Attributes:
        packs: How many packs were read.
        chunks: How many chunks were read.
        size: How many bytes were read.
        damaged: What is damaged.
        healed: What was damaged, and came back from the copy.
        seed: What the sample was drawn by; the same seed draws it again.
    """

    packs: int
    chunks: int
    size: int
    damaged: tuple[Damage, ...]
    healed: tuple[Damage, ...]
    seed: int

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged


@dataclass(frozen=True, slots=True)
class Replicated:
    """What keeping the copy did.

    Attributes:
        copied: How many objects were copied.
        size: Their bytes.
        deleted: How many packs were deleted that prune had deleted here.
        damaged: The packs that were not copied, because they are damaged here.
    """

    copied: int
    size: int
    deleted: int
    damaged: tuple[str, ...]


class Scrubbing(Moving):
    """The registry, as far as stored bytes are looked after."""

    def scrub(
        self,
        progress: Progress | None = None,
        *,
        sample: float = 1.0,
        seed: int | None = None,
        replica_url: str | None = None,
    ) -> ScrubReport:
        """Read the mapped packs again, heal what a copy has, and set the rest apart.

        What cannot be healed is written into the ledger for each artifact that it touches, and
        readers are told; what is found whole again is given back.

        Args:
            progress: Told how many packs of how many are done.
            sample: The share of the stored bytes to read. Packs are drawn by their size, and
                those that a stage needs more often.
            seed: What the sample is drawn by.
            replica_url: The copy of the store.
        """
        (shard,) = self.scrub_shards(sample=sample, seed=seed, most=1)
        return self.scrub_shard(shard, progress, replica_url=replica_url)

    def scrub_shards(
        self, *, sample: float = 1.0, seed: int | None = None, each: int = SHARD, most: int = MOST
    ) -> list[ScrubShard]:
        """Return the shards of a scrub; `scrub_shard` does each, and `end_scrub` ends it.

        Args:
            sample: The share of the stored bytes to read.
            seed: What the sample is drawn by.
            each: The bytes of a shard, about.
            most: How many shards there may be.
        """
        seed = secrets.randbits(32) if seed is None else seed
        packs = self.catalog.read(_mapped_packs)
        sizes = {pack: size for pack, size, _ in packs}
        cut = shards(_drawn(packs, sample, seed), sizes.__getitem__, each, most=most) or [[]]
        size = int(self.catalog.read(ledger.head).size) if sample >= 1 else 0
        bounds = [size * number // len(cut) for number in range(len(cut) + 1)]
        return [
            ScrubShard(tuple(part), first, last, seed)
            for part, (first, last) in zip(cut, pairwise(bounds), strict=True)
        ]

    def scrub_shard(
        self,
        shard: ScrubShard,
        progress: Progress | None = None,
        *,
        replica_url: str | None = None,
    ) -> ScrubReport:
        """Read a shard, heal what a copy has and set the rest apart; done twice is done once."""
        chunks = size = 0
        destroyed = self.catalog.read(_destroyed)
        found: list[Damage] = []
        sound: set[str] = set()
        for done, pack in enumerate(shard.packs):
            if progress is not None:
                progress(done, len(shard.packs))
            places = self._places_in(pack)
            if not places or {at.key_id for at in places.values()} & destroyed:
                continue  # its chunks have moved since it was drawn, or cannot be read again
            chunks, size = chunks + len(places), size + sum(at.stored for at in places.values())
            problems = list(self._problems(self.store, pack, places))
            sound |= places.keys() - {key for key, _ in problems}
            found += [Damage(pack, key, what, self._users(pack, key)) for key, what in problems]
        found += self._damaged_objects(shard.first, shard.last)
        healed = self._heal(found, replica_url)
        left = [damage for damage in found if damage not in healed]
        sound |= {damage.key for damage in healed if damage.key is not None}
        self._set_apart(left)
        self._give_back(sound)
        return ScrubReport(len(shard.packs), chunks, size, tuple(left), tuple(healed), shard.seed)

    def end_scrub(
        self, reports: Sequence[ScrubReport], *, replica_url: str | None = None
    ) -> ScrubReport:
        """Return what all shards of a scrub found.

        What differs from a chunk that another shard healed comes back only now.
        """
        left = [damage for report in reports for damage in report.damaged]
        late = self._heal(left, replica_url)
        self._give_back({damage.key for damage in late if damage.key is not None})
        return ScrubReport(
            sum(report.packs for report in reports),
            sum(report.chunks for report in reports),
            sum(report.size for report in reports),
            tuple(damage for damage in left if damage not in late),
            (*(damage for report in reports for damage in report.healed), *late),
            reports[0].seed,
        )

    def replicate(self, replica_url: str, progress: Progress | None = None) -> Replicated:
        """Bring the copy of the store up to date.

        A pack that is damaged here does not get there. What is gone here is deleted there only
        where the ledger says that prune deleted it.
        """
        copy, mine = open_backend(replica_url), self.store.backend
        copied = size = 0
        damaged = []
        packs = list(mine.keys("packs/"))
        for done, key in enumerate(packs):
            if progress is not None:
                progress(done, len(packs))
            if copy.size(key) is not None and copy.size(key) == mine.size(key):
                continue
            pack = key.rpartition("/")[2]
            if any(True for _ in self._problems(self.store, pack, self._places_in(pack))):
                damaged.append(pack)
                continue
            copied, size = copied + 1, size + _copy(mine, copy, key)
        for prefix in _SMALL:
            for key in mine.keys(prefix):
                # A leaf whose body was erased is shorter than it was; a data key that was
                # wrapped anew is as long.
                anew = prefix == _DATA_KEYS and copy.size(key) and copy.get(key) != mine.get(key)
                if copy.size(key) != mine.size(key) or anew:
                    data = mine.get(key)
                    copy.put(key, data)
                    copied, size = copied + 1, size + len(data)
        pruned = self.catalog.read(_pruned)
        there = {key.rpartition("/")[2]: key for key in copy.keys("packs/")}
        deleted = sum(
            Store(copy).delete_pack(pack)
            for pack, key in sorted(there.items())
            if pack in pruned and mine.size(key) is None
        )
        return Replicated(copied, size, deleted, tuple(damaged))

    def quarantined(self) -> dict[str, list[str]]:
        """Return what is wrong with each artifact that is set apart, by reference."""
        rows = self.catalog.read(_quarantined)
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(self.get(row.artifact).reference, []).append(row.what)
        return found

    def _places_in(self, pack: str) -> dict[str, Location]:
        surveyed = self.catalog.read(moves.survey, [pack])
        rows = surveyed[pack].chunks if pack in surveyed else {}
        return {key: to_location(row) for key, row in sorted(rows.items())}

    def _problems(
        self, store: Store, pack: str, places: Mapping[str, Location]
    ) -> Iterator[tuple[str | None, str]]:
        """Yield what is wrong with a pack in a store, and with which of its chunks."""
        footer: Mapping[str, Location] = {}
        try:
            footer = store.read_footer(pack)
        except KeyGoneError as error:
            yield None, str(error)
            return
        except (ArtifactError, OSError) as error:
            yield None, str(error)
        bases = self.locate(sorted({at.base for at in places.values() if at.base is not None}))
        for key, place in places.items():
            if footer and footer.get(key) != place:
                yield key, f"chunk {key[:16]} is not where pack {pack} says."
                continue
            try:
                store.read_chunk(key, place, bases.get(place.base or ""))
            except (ArtifactError, OSError) as error:
                yield key, str(error)

    def _damaged_objects(self, first: int, last: int) -> Iterator[Damage]:
        """Yield the publish objects of live artifacts that are not what their leaves cite."""
        for artifact, session, reference in self.catalog.read(_published, first, last):
            key = Publication.key(artifact, session)
            expected = self._object_digest(artifact)
            try:
                actual = digest.sha256(self.store.backend.get(key))
            except (ArtifactError, OSError) as error:
                yield Damage(key, None, str(error), (reference,))
                continue
            if expected is not None and actual != expected:
                what = f"the publish object of {reference} is damaged."
                yield Damage(key, None, what, (reference,))

    def _object_digest(self, artifact: str) -> str | None:
        leaf = tables.leaf
        statement = sa.select(leaf.c.body).where(
            leaf.c.subject == artifact, leaf.c.action == "publish"
        )
        body = self.catalog.read(lambda conn: conn.execute(statement).scalar())
        said = {} if body is None else digest.parse(bytes(body))
        return said.get("object_sha256")

    def _heal(self, found: Iterable[Damage], replica_url: str | None) -> list[Damage]:
        """Return what could be brought back from the copy."""
        by_pack: dict[str, list[Damage]] = {}
        for damage in found:
            by_pack.setdefault(damage.pack, []).append(damage)
        if replica_url is None or not by_pack:
            return []
        copy = Store(open_backend(replica_url), self.store.keyring)
        healed: list[Damage] = []
        # A difference is whole again only once its base is: as often as something comes back.
        left, before = dict(by_pack), -1
        while left and before != len(left):
            before = len(left)
            for name, damages in list(left.items()):
                if self._heal_one(copy, name):
                    healed += damages
                    del left[name]
        return healed

    def _heal_one(self, copy: Store, name: str) -> bool:
        try:
            if "/" in name:
                data = copy.backend.get(name)
                if digest.sha256(data) != self._object_digest(name.split("/")[1]):
                    return False
                return self.store.backend.put(name, data)
            wrapped = data_key(name)
            if self.store.backend.size(wrapped) is None and copy.backend.size(wrapped):
                self.store.backend.put(wrapped, copy.backend.get(wrapped))
            places = self._places_in(name)
            if any(True for _ in self._problems(copy, name, places)):
                return False
            self.store.backend.put(object_key(name), copy.backend.get(object_key(name)))
        except (ArtifactError, OSError):
            return False
        return not any(True for _ in self._problems(self.store, name, places))

    def _set_apart(self, damaged: Iterable[Damage]) -> None:
        """Say in the ledger which artifacts are touched by damage that it does not know yet."""
        found: dict[str, list[list[str]]] = {}
        for damage in damaged:
            if damage.key is None:
                continue
            for artifact in self._touched(damage.pack, damage.key):
                found.setdefault(artifact, []).append([damage.key, damage.pack, damage.what])
        for artifact, chunks in sorted(found.items()):
            project = self.get(artifact).project
            self.catalog.write(_quarantine, artifact, project, chunks, self.actor)
        self.export_leaves()

    def _give_back(self, sound: set[str]) -> None:
        """Say in the ledger which chunks are whole again."""
        hurt = {row.artifact for row in self.catalog.read(_quarantined) if row.key in sound}
        for artifact in sorted(hurt):
            self.catalog.write(_heal, artifact, self.get(artifact).project, sound, self.actor)
        self.export_leaves()

    def _touched(self, pack: str, key: str | None) -> list[str]:
        """Return the live artifacts that cannot be read without a chunk, or without a pack."""
        surveyed = self.catalog.read(moves.survey, [pack])
        users = surveyed[pack].users if pack in surveyed else ()
        if key is None:
            return list(users)
        wanted = {key, *self.catalog.read(moves.differing_from, [key])}
        return [artifact for artifact in users if self._needs(artifact, wanted)]

    def _needs(self, artifact: str, wanted: set[str]) -> bool:
        """Return whether an artifact needs one of some chunks, as far as can be told."""
        found = self.get(artifact)
        try:
            publication = self.publication_of(found.id, found.session)
        except (ArtifactError, OSError):
            return True
        return not wanted.isdisjoint(publication.keys(self.removed(found)))

    def _users(self, pack: str, key: str | None) -> tuple[str, ...]:
        return tuple(sorted(self.get(one).reference for one in self._touched(pack, key)))


def _drawn(packs: list[tuple[str, int, bool]], share: float, seed: int) -> list[str]:
    """Return packs of a share of all bytes, drawn by weight without putting back."""
    if share >= 1:
        return [pack for pack, _, _ in packs]
    dice = random.Random(seed)  # noqa: S311  a sample that can be drawn again
    keyed = [
        (dice.random() ** (1 / (max(size, 1) * (_SERVED if served else 1.0))), pack, size)
        for pack, size, served in packs
    ]
    budget = share * sum(size for _, size, _ in packs)
    drawn: list[str] = []
    for _, pack, size in sorted(keyed, reverse=True):
        if budget <= 0:
            break
        drawn.append(pack)
        budget -= size
    return sorted(drawn)


def _copy(source: Backend, target: Backend, key: str) -> int:
    """Copy one object of any size, and return its bytes."""
    size = source.size(key) or 0
    if target.size(key) is not None:
        target.delete(key)
    with target.create(key) as writer:
        for start in range(0, size, _STEP):
            writer.write(source.get(key, start, min(_STEP, size - start)))
        writer.commit()
    return size


def _mapped_packs(conn: Connection) -> list[tuple[str, int, bool]]:
    """Return the packs that hold mapped chunks: id, size and whether a stage needs them."""
    pack, chunk, link, stage = tables.pack, tables.chunk, tables.artifact_pack, tables.stage
    served = set(
        conn.execute(
            sa.select(link.c.pack).join(stage, stage.c.artifact == link.c.artifact)
        ).scalars()
    )
    mapped = sa.select(chunk.c.pack).distinct()
    statement = sa.select(pack.c.id, pack.c.size).where(pack.c.id.in_(mapped)).order_by(pack.c.id)
    return [(row.id, row.size, row.id in served) for row in conn.execute(statement)]


def _published(conn: Connection, first: int, last: int) -> list[tuple[str, str, str]]:
    artifact = tables.artifact
    statement = (
        sa.select(artifact)
        .where(artifact.c.state == "live", artifact.c.seq >= first, artifact.c.seq < last)
        .order_by(artifact.c.seq)
    )
    return [(row.id, row.object, f"{row.project}/{row.name}") for row in conn.execute(statement)]


def _pruned(conn: Connection) -> set[str]:
    leaf = tables.leaf
    return set(conn.execute(sa.select(leaf.c.subject).where(leaf.c.action == "prune")).scalars())


def _destroyed(conn: Connection) -> set[str | None]:
    """Return the scopes whose keys were destroyed on purpose."""
    table = tables.scope
    return set(conn.execute(sa.select(table.c.id).where(table.c.state == "shredded")).scalars())


def _quarantined(conn: Connection, artifact: str | None = None) -> list[sa.Row[Any]]:
    table = tables.quarantine
    statement = sa.select(table).order_by(table.c.artifact, table.c.key)
    if artifact is not None:
        statement = statement.where(table.c.artifact == artifact)
    return list(conn.execute(statement))


def _quarantine(
    tx: Transaction, artifact: str, project: str, chunks: list[list[str]], actor: str
) -> None:
    """Set apart the chunks of an artifact that nobody has set apart yet."""
    ledger.lock(tx)
    known = {row.key for row in _quarantined(tx.conn, artifact)}
    fresh = [said for said in chunks if said[0] not in known]
    if fresh:
        body = {"project": project, "chunks": fresh}
        ledger.append(tx, action="quarantine", subject=artifact, body=body, actor=actor)


def _heal(tx: Transaction, artifact: str, project: str, sound: set[str], actor: str) -> None:
    """Give back the chunks of an artifact that nobody has given back yet."""
    ledger.lock(tx)
    whole = [row.key for row in _quarantined(tx.conn, artifact) if row.key in sound]
    if whole:
        body = {"project": project, "chunks": whole}
        ledger.append(tx, action="heal", subject=artifact, body=body, actor=actor)
