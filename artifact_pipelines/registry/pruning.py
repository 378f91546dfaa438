"""Prune, the only deleter: what two engines agree that nothing can reach."""

import contextlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, packs, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.naming import CANARY
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import ArtifactError, MissingObjectError
from artifact_pipelines.registry import steps
from artifact_pipelines.registry.applying import Applying
from artifact_pipelines.registry.liveness import Alive, alive
from artifact_pipelines.registry.opened import STEPS
from artifact_pipelines.registry.publishing import NO_FILES, Draft
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines.store.pack import object_key

DAY: Final = 86_400.0
BUSY: Final = "the ledger grew while the two counts were compared; run prune again"
_LOOKS: Final = 5
_STEPS_KEPT: Final = 7 * DAY  # a run that failed may be taken up again for a while
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Pruned:
    """What prune did.

    Attributes:
        condemned: How many packs were marked now and wait for their grace to be over.
        deleted: How many packs were deleted.
        freed: Their bytes.
        swept: How many objects of dead writers were removed.
        disagreements: What the two engines say differently; nothing is deleted then.
    """

    condemned: int
    deleted: int
    freed: int
    swept: int
    disagreements: tuple[str, ...]


class Pruning(Applying):
    """The registry, as far as bytes are deleted."""

    def prune(self, grace: float = DAY) -> Pruned:
        """Delete the packs that nothing can reach, once their grace in seconds is over.

        Two engines must agree on what is alive, or nothing is deleted and an alarm is written
        into the ledger.

        Raises:
            BehindError: The store or the signer is ahead of the catalog.
        """
        return steps.run(self.pruning(grace))

    def pruning(self, grace: float = DAY) -> Steps[Pruned]:
        """Prune, step by step."""
        return (yield from steps.observed_steps(self._pruning(grace), "prune"))

    def _pruning(self, grace: float) -> Steps[Pruned]:
        self._check_ahead()
        self.export_leaves()
        canary = self._canary()
        self.catalog.write(packs.expire)
        self._adopt_strays()
        yield "expired"
        unneeded = self.catalog.read(unneeded_packs)
        disagreements = self._disagreements(unneeded, canary)
        if disagreements:
            if disagreements != [BUSY]:
                self._alarm(disagreements)
            return Pruned(0, 0, 0, 0, tuple(disagreements))
        yield "agreed"
        swept = self._sweep_publications() + self.store.backend.sweep_temporaries(grace)
        swept += self._sweep_steps()
        yield "swept"
        condemned = {
            pack
            for pack in self.catalog.read(packs.unused, "live")
            if pack in unneeded and self.catalog.write(packs.condemn, pack)
        }
        yield "condemned"
        for pack in self.catalog.read(packs.unused, "condemned"):
            # What became unneeded since the engines agreed waits until they agree on it.
            if pack in unneeded and self.catalog.write(_doom, pack, grace, self.actor):
                condemned.discard(pack)
        yield "doomed"
        # The leaves first: a pack that goes has been written down as gone.
        self.export_leaves()
        yield "exported"
        deleted = freed = 0
        for doomed in self.catalog.read(packs.deleting):
            self.store.delete_pack(doomed.id)
            yield "deleted"
            self.catalog.write(packs.gone, doomed.id)
            deleted, freed = deleted + 1, freed + doomed.size
        return Pruned(len(condemned), deleted, freed, swept, ())

    def _canary(self) -> Artifact:
        """Return the artifact that must be alive whoever counts, planted where there is none."""
        known = self.datasets(CANARY, CANARY)
        if known:
            return known[0]
        record = Record(Kind.DATASET, CANARY, CANARY, content=NO_FILES)
        return steps.run(self.publish(Draft(record, {"canary": secrets.token_bytes(64)})))

    def _alarm(self, disagreements: list[str]) -> None:
        """Write into the ledger what differs, once for as long as it stays the same."""
        leaf = tables.leaf
        statement = (
            sa.select(leaf.c.body)
            .where(leaf.c.action == "alarm", leaf.c.subject == "prune")
            .order_by(leaf.c.seq.desc())
            .limit(1)
        )
        last = self.catalog.read(lambda conn: conn.execute(statement).scalar())
        if last is None or digest.parse(bytes(last)).get("differences") != disagreements:
            self.append("alarm", "prune", {"differences": disagreements})

    def _disagreements(self, unneeded: set[str], canary: Artifact) -> list[str]:
        """Return what the catalog and the store say differently about what is alive."""
        for _ in range(_LOOKS):
            size, mine, pointers = self.catalog.read(living)
            self.export_leaves()
            other = alive(self, size)
            if size != other.size:
                return [f"the catalog has {size} leaves, the store {other.size}"]
            said = [
                *_differing_kinds(mine, other),
                *self._differing_stages(pointers, mine, other),
                *self._dead_canary(canary, mine, other),
                *self._unmapped(other, unneeded),
            ]
            if not said or self.catalog.read(ledger.head).size == size:
                return said
        return [BUSY]  # what differed may be what others did between the looks

    def _differing_stages(
        self, pointers: Mapping[str, str], mine: Mapping[str, str], other: Alive
    ) -> list[str]:
        """Return how the engines differ about what stages serve, now and by the signed log."""
        said = []
        if pointers != other.pointers:
            places = sorted(
                place
                for place in pointers.keys() | other.pointers.keys()
                if pointers.get(place) != other.pointers.get(place)
            )
            said.append(
                f"{', '.join(places)} points at one model in the catalog, another in the log"
            )
        newest = self.newest_head()
        signed = {} if newest is None else digest.parse(newest[2].encode())
        serving = {
            **{f"{place} in the signed log": other.moves.get(seq) for place, seq in signed.items()},
            **other.pointers,
            **pointers,
        }
        said += [
            f"{place} points at {str(model)[:16]}, which is not alive"
            for place, model in sorted(serving.items())
            if model not in other.artifacts or model not in mine
        ]
        return said

    def _dead_canary(self, canary: Artifact, mine: Mapping[str, str], other: Alive) -> list[str]:
        """Return why the artifact that must be alive is not."""
        if canary.id not in mine or canary.id not in other.artifacts:
            return [f"the canary {canary.id[:16]} is not alive"]
        try:
            damaged = self.verify(canary.id).damaged
        except (ArtifactError, OSError) as error:
            damaged = (str(error),)
        return [f"the canary {canary.id[:16]} cannot be read: {why}" for why in damaged]

    def _unmapped(self, other: Alive, unneeded: set[str]) -> list[str]:
        """Return which chunks of live artifacts the catalog lacks, or holds in packs to delete."""
        located = self.locate(sorted(other.chunks))
        based = {place.base for place in located.values() if place.base is not None}
        bases = self.locate(sorted(based))
        missing = sorted((other.chunks - set(located)) | (based - set(bases)))
        said = []
        if missing:
            said.append(
                f"{len(missing)} chunks that live artifacts need are mapped nowhere, "
                f"{missing[0][:16]} for one"
            )
        wanted = sorted(unneeded & {place.pack for place in (*located.values(), *bases.values())})
        if wanted:
            said.append(f"pack {wanted[0]} holds chunks of a live artifact, but no row says so")
        return said

    def _adopt_strays(self) -> None:
        """Enter packs that a dead writer left in the store, so that they can be deleted."""
        backend = self.store.backend
        stored = [key.rpartition("/")[2] for key in backend.keys("packs/")]
        known = self.catalog.read(_pack_ids)
        for pack in stored:
            if pack not in known:
                size = backend.size(object_key(pack))
                if size is not None:
                    self.catalog.write(packs.adopt_stray, pack, size)

    def _sweep_publications(self) -> int:
        """Delete publish objects whose session is gone and that no artifact cites.

        The listing comes first: a session that begins after it wrote nothing that is in it.
        """
        backend = self.store.backend
        listed = list(backend.keys("publish/"))
        cited, sessions = self.catalog.read(_publications)
        swept = 0
        for key in listed:
            _, artifact, session = key.split("/")
            if session not in sessions and (artifact, session) not in cited:
                swept += backend.delete(key)
        return swept

    def _sweep_steps(self) -> int:
        """Delete what steps handed on in runs that are long over."""
        backend = self.store.backend
        swept = 0
        for key in list(backend.keys(f"{STEPS}/")):
            with contextlib.suppress(MissingObjectError):  # another prune was here first
                if backend.age(key) > _STEPS_KEPT:
                    swept += backend.delete(key)
        return swept


def _differing_kinds(mine: Mapping[str, str], other: Alive) -> list[str]:
    """Return how the engines differ about which artifacts are alive, kind by kind."""
    said = []
    for kind in sorted({*mine.values(), *other.artifacts.values()}):
        here = {artifact for artifact, found in mine.items() if found == kind}
        there = {artifact for artifact, found in other.artifacts.items() if found == kind}
        if here != there:
            said.append(
                f"of kind {kind}, {len(here)} artifacts are alive in the catalog and {len(there)} "
                f"in the store; {_some(here ^ there)} are alive in one and not in the other"
            )
    return said


def _some(artifacts: Iterable[str]) -> str:
    found = sorted(artifacts)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(one[:16] for one in found[:_NAMED]) + more


def _doom(tx: Transaction, pack: str, grace: float, actor: str) -> bool:
    """Doom a condemned pack, and return whether it goes."""
    found = packs.doom(tx, pack, grace)
    if found is None:
        return False
    doomed, chunks = found
    ledger.append(
        tx,
        action="prune",
        subject=pack,
        body={"pack": pack, "bytes": doomed.size, "chunks": chunks},
        actor=actor,
    )
    return True


def unneeded_packs(conn: Connection) -> set[str]:
    """Return the packs that may be deleted, by the catalog alone."""
    return {
        *packs.unused(conn, "live"),
        *packs.unused(conn, "condemned"),
        *(doomed.id for doomed in packs.deleting(conn)),
    }


def living(conn: Connection) -> tuple[int, dict[str, str], dict[str, str]]:
    """Return the leaves, the kinds of what is alive and the pointers, by the catalog alone."""
    artifact, stage = tables.artifact, tables.stage
    rows = conn.execute(sa.select(artifact.c.id, artifact.c.kind).where(artifact.c.state == "live"))
    mine = {row.id: row.kind for row in rows}
    pointers = {
        f"{row.project}/{row.stage}": row.artifact for row in conn.execute(sa.select(stage))
    }
    return int(ledger.head(conn).size), mine, pointers


def _pack_ids(conn: Connection) -> set[str]:
    return set(conn.execute(sa.select(tables.pack.c.id)).scalars())


def _publications(conn: Connection) -> tuple[set[tuple[str, str]], set[str]]:
    artifact = tables.artifact
    cited = {
        (row.id, row.object) for row in conn.execute(sa.select(artifact.c.id, artifact.c.object))
    }
    return cited, set(conn.execute(sa.select(tables.session.c.id)).scalars())
