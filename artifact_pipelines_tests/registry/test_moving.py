"""Moving chunks changes where they are and never what an artifact is."""

import errno
import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from artifact_pipelines.catalog import moves, packs, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.errors import (
    ArtifactError,
    GoneError,
    HeldError,
    MoveAbandonedError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import Registry, open_registry, sessions
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines.store import codec
from artifact_pipelines.store.pack import Location, object_key
from artifact_pipelines_tests import faults
from artifact_pipelines_tests.building import PROJECT, trained
from artifact_pipelines_tests.databases import Databases


def names(checkpoints: list[Artifact]) -> list[str]:
    return [checkpoint.reference for checkpoint in checkpoints]


def contents(registry: Registry, checkpoint: Artifact) -> dict[str, bytes]:
    """Return the files of an artifact that are kept."""
    there = [entry.path for entry in registry.files(checkpoint.id)]
    removed = registry.removed(checkpoint)
    return {
        path: registry.read(checkpoint.reference, path) for path in there if path not in removed
    }


def codecs(registry: Registry, checkpoint: Artifact) -> set[str]:
    """Return how the chunks of an artifact are stored."""
    keys = registry.publication_of(checkpoint.id, checkpoint.session).keys()
    return {place.codec.partition("/")[0] for place in registry.locate(keys).values()}


def all_closed(registry: Registry) -> bool:
    """Return whether every live artifact is attached to all the packs that it is read from."""
    for project in registry.projects():
        for artifact in registry.checkpoints(project):
            if artifact.state != "live":
                continue
            publication = registry.publication_of(artifact.id, artifact.session)
            keys = publication.keys(registry.removed(artifact))
            places = dict(registry.locate(keys))
            bases = sorted({at.base for at in places.values() if at.base})
            places |= registry.locate(bases)
            needed = {at.pack for at in places.values()}
            attached = registry.catalog.read(attached_packs, artifact.id)
            if not needed <= attached or set(keys) - set(places):
                return False
    return True


def attached_packs(conn: sa.Connection, artifact: str) -> set[str]:
    link = tables.artifact_pack
    statement = sa.select(link.c.pack).where(link.c.artifact == artifact)
    return set(conn.execute(statement).scalars())


def stored(registry: Registry) -> int:
    return int(registry.storage_report()["totals"]["stored_bytes"])


def until(steps: Steps[Any], label: str) -> Steps[Any]:
    """Take steps up to a label, and return the rest."""
    for reached in steps:
        if reached == label:
            return steps
    raise AssertionError(label)


def test_archived_checkpoints_are_smaller_and_read_the_same(registry: Registry) -> None:
    made = trained(registry, steps=4)
    before, size = [contents(registry, found) for found in made], stored(registry)
    moved = registry.archive(names(made))
    registry.prune(grace=0)

    assert moved.moved == tuple(names(made))
    assert moved.after < 0.8 * moved.before
    assert stored(registry) < 0.85 * size
    assert [contents(registry, found) for found in made] == before
    assert [registry.get(found.id).content for found in made] == [found.content for found in made]
    assert codecs(registry, made[0]) >= {"difference"}
    assert "difference" not in codecs(registry, made[2])
    assert all(registry.verify(reference).ok for reference in names(made))
    assert registry.scrub().ok
    assert registry.prune(grace=0).disagreements == ()
    assert registry.verify_ledger().problems == ()


def test_an_archived_checkpoint_says_its_tier(registry: Registry) -> None:
    (made,) = trained(registry, steps=1)
    registry.archive([made.reference])
    cold = registry.get(made.id)
    registry.restore([made.reference])

    assert (made.tier, cold.tier, registry.get(made.id).tier) == ("hot", "cold", "hot")
    assert set(registry.file_states(made).values()) == {"present"}


def test_archiving_twice_is_archiving_once(registry: Registry) -> None:
    made = trained(registry)
    registry.archive(names(made))
    leaves = len(registry.events(limit=10_000))
    again = registry.archive(names(made))

    assert again.moved == ()
    assert set(again.skipped.values()) == {"it is cold already"}
    assert len(registry.events(limit=10_000)) == leaves


def test_a_restored_checkpoint_stands_for_itself(registry: Registry) -> None:
    made = trained(registry)
    before = contents(registry, made[0])
    registry.archive(names(made))
    restored = registry.restore([made[0].reference])
    registry.prune(grace=0)

    assert restored.after > restored.before
    assert codecs(registry, made[0]) == {"raw"}
    assert contents(registry, made[0]) == before
    assert registry.verify(made[1].reference).ok
    assert all_closed(registry)


def test_the_middle_of_a_group_may_be_restored_alone(registry: Registry) -> None:
    made = trained(registry, steps=3)
    registry.archive(names(made))
    registry.restore([made[1].reference])
    registry.compact(threshold=1.0)
    registry.prune(grace=0)

    assert codecs(registry, made[1]) == {"raw"}
    assert "difference" in codecs(registry, made[0])
    assert all(registry.verify(reference).ok for reference in names(made))
    assert all_closed(registry)


def test_what_a_hot_artifact_needs_stays_hot(registry: Registry) -> None:
    made = trained(registry, steps=3, frozen=True)
    registry.archive(names(made[:2]))
    hot = codecs(registry, made[2])
    shared = registry.publication_of(made[0].id, made[0].session)
    entry = next(found for found in shared.manifest.files if found.path == "frozen.safetensors")
    key = shared.chunks[entry.sha256][0][0]
    early = registry.locate([key])[key].codec
    registry.archive([made[2].reference])

    assert hot == {"raw"}
    assert (early, registry.locate([key])[key].codec != "raw") == ("raw", True)
    assert all(registry.verify(reference).ok for reference in names(made))
    assert all_closed(registry)


def test_what_deduplication_spares_a_writer_is_spent_on_coding(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CODED", 1000)
    made = trained(registry, steps=3, frozen=True)
    before = [contents(registry, found) for found in made]

    assert codecs(registry, made[0]) == {"raw"}
    assert codecs(registry, made[1]) == codecs(registry, made[2]) == {"raw", "planes"}

    # They are archived as if they were raw.
    registry.archive(names(made))
    assert ["difference" in codecs(registry, found) for found in made] == [True, False, True]
    assert [contents(registry, found) for found in made] == before
    assert registry.scrub().ok
    assert all_closed(registry)


def test_a_pack_is_claimed_before_it_is_relied_on_and_only_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = trained(registry, steps=1, finish=False)
    there = registry.publication_of(made.id, made.session).keys()
    claim, claims = packs.claim, list[list[str]]()

    def counted(tx: Transaction, session: str, keys: list[str]) -> Mapping[str, Any]:
        claims.append(keys)
        return claim(tx, session, keys)

    monkeypatch.setattr(packs, "claim", counted)
    session = sessions.Session(registry, "writer")
    assert session._unclaimed(["0" * 64]) == {"0" * 64}
    assert claims == []
    for key in there:
        assert session._unclaimed([key, "1" * 64]) == {"1" * 64}
    session.abandon()

    assert claims == [[there[0], "1" * 64]]


def test_what_is_new_throughout_is_written_as_it_is(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CODED", 1000)

    assert codecs(registry, trained(registry, steps=2)[1]) == {"raw"}


def test_groups_are_of_neighbouring_steps(registry: Registry) -> None:
    made = trained(registry, steps=10)
    registry.archive(names(made))
    framed = [
        step for step, found in enumerate(made, 1) if "difference" not in codecs(registry, found)
    ]

    assert framed == [5, 10]


def test_a_pack_that_a_writer_claims_is_not_moved_from(registry: Registry) -> None:
    made = trained(registry)
    keys = registry.publication_of(made[0].id, made[0].session).keys()
    registry.catalog.write(packs.begin, "writer", 900.0)
    registry.catalog.write(packs.claim, "writer", keys)
    moved = registry.archive(names(made))

    assert moved.moved == ()
    assert "a writer relies on one of its packs" in moved.skipped[made[0].reference]
    registry.catalog.write(packs.end, "writer")
    assert registry.archive(names(made)).moved == tuple(names(made))


def test_a_pack_that_was_touched_since_is_not_moved_from(registry: Registry) -> None:
    made = trained(registry)
    keys = registry.publication_of(made[0].id, made[0].session).keys()
    steps = until(registry.archiving(names(made)), "packs_sealed")
    registry.catalog.write(packs.begin, "writer", 900.0)
    registry.catalog.write(packs.claim, "writer", keys)
    registry.catalog.write(packs.end, "writer")

    assert next(steps) == "session_opened"  # begun again
    assert registry.get(made[0].id).tier == "hot"
    *_, last = steps
    assert last == "exported"
    assert registry.get(made[0].id).tier == "cold"


def test_a_mover_whose_session_is_gone_changes_nothing(registry: Registry) -> None:
    made = trained(registry)
    steps = until(registry.archiving(names(made)), "packs_sealed")
    registry.catalog.write(lambda tx: tx.conn.execute(tables.session.delete()))

    with pytest.raises(Exception, match="has expired"):
        next(steps)
    assert codecs(registry, made[0]) == {"raw"}


def test_two_archivers_never_lean_on_each_other(registry: Registry) -> None:
    """One stores a by b and one b by a: the second must notice."""
    one, two = trained(registry, steps=2)
    first = coded_by(registry, one, two)
    second = coded_by(registry, two, one)
    registry.catalog.write(moves.commit, first)
    with pytest.raises(MoveAbandonedError):
        registry.catalog.write(moves.commit, second)

    assert registry.verify(one.reference).ok
    assert registry.verify(two.reference).ok


ARCHIVER = """
import sys
from pathlib import Path
from artifact_pipelines.registry import open_registry

with open_registry(Path(sys.argv[1]), catalog_url=sys.argv[2], actor="tester") as registry:
    print("ready", flush=True)
    sys.stdin.readline()
    registry.archive(sys.argv[3:])
"""


@pytest.mark.deep
def test_archivers_in_three_processes_leave_every_checkpoint_whole(
    registry: Registry, tmp_path: Path, databases: Databases
) -> None:
    made = trained(registry, steps=6)
    before = [contents(registry, found) for found in made]
    at = [str(tmp_path / "home"), databases.url(tmp_path / "home")]
    archivers = [
        subprocess.Popen(
            [sys.executable, "-c", ARCHIVER, *at, *references],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for references in (names(made), names(made)[:2], names(made)[4:])
    ]
    for archiver in archivers:
        assert archiver.stdout is not None
        assert archiver.stdout.readline() == "ready\n"
    for archiver in archivers:
        assert archiver.stdin is not None
        archiver.stdin.write("go\n")
        archiver.stdin.flush()
    for archiver in archivers:
        archiver.communicate()

    assert [archiver.returncode for archiver in archivers] == [0, 0, 0]
    registry.archive(names(made))  # what each of them left to the others
    registry.prune(grace=0)
    assert {registry.get(found.id).tier for found in made} == {"cold"}
    assert [contents(registry, found) for found in made] == before
    assert all_closed(registry)
    assert registry.scrub().ok
    assert registry.prune(grace=0).disagreements == ()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_guard_of_a_base_holds_alone(registry: Registry, order: tuple[int, int]) -> None:
    """Even where the versions of packs say nothing, as when both moves began after the other."""
    made = trained(registry, steps=2)
    one, two = made[order[0]], made[order[1]]
    registry.catalog.write(moves.commit, coded_by(registry, one, two))

    with pytest.raises(MoveAbandonedError, match=r"come to differ|does not stand for itself"):
        registry.catalog.write(moves.commit, coded_by(registry, two, one))


def test_a_base_that_differs_itself_is_refused(registry: Registry) -> None:
    one, two, three = trained(registry, steps=3)
    registry.catalog.write(moves.commit, coded_by(registry, two, one))

    with pytest.raises(MoveAbandonedError, match="does not stand for itself"):
        registry.catalog.write(moves.commit, coded_by(registry, three, two))


def test_a_chunk_that_others_differ_from_does_not_become_a_difference(registry: Registry) -> None:
    one, two, three = trained(registry, steps=3)
    registry.catalog.write(moves.commit, coded_by(registry, two, one))

    with pytest.raises(MoveAbandonedError, match="come to differ from one of its chunks"):
        registry.catalog.write(moves.commit, coded_by(registry, one, three))


def coded_by(registry: Registry, target: Artifact, base: Artifact) -> moves.Move:
    """Write one model as a difference from another, as an archiver would, but do not commit."""
    key, other = model_key(registry, target), model_key(registry, base)
    place = registry.locate([key])[key]
    view = registry._view([place.pack])
    session = f"mover-{target.step}-{base.step}-{registry.catalog.read(count_sessions)}"
    pack = f"{target.step}{base.step}".ljust(32, "0")
    registry.catalog.write(packs.begin, session, 900.0)
    registry.catalog.write(packs.open_pack, session, pack)
    data, by = (
        b"".join(bytes(found) for found in registry.store.read_chunks([name], registry.locate))
        for name in (key, other)
    )
    found = codec.encode(data, by)
    assert found.differs
    writer = registry.store.open_pack(pack)
    at = writer.add(key, found.data, Location("", 0, 0, len(data), found.codec, other))
    work = view.work([place.pack])
    return moves.Move(
        session, {pack: writer.seal()}, {key: at}, frozenset(), work.sources, work.needs
    )


def count_sessions(conn: sa.Connection) -> int:
    return len(list(conn.execute(sa.select(tables.session.c.id))))


def model_key(registry: Registry, artifact: Artifact) -> str:
    publication = registry.publication_of(artifact.id, artifact.session)
    entry = next(found for found in publication.manifest.files if found.path.startswith("model"))
    return publication.chunks[entry.sha256][0][0]


def test_a_base_goes_with_the_last_that_needs_it(registry: Registry) -> None:
    """Forgetting the checkpoint in the middle leaves what the others differ from."""
    made = trained(registry, steps=3)
    registry.archive(names(made))
    forget(registry, made[1])
    registry.prune(grace=0)
    registry.compact(threshold=1.0)
    registry.prune(grace=0)

    assert registry.verify(made[0].reference).ok
    assert registry.verify(made[2].reference).ok
    forget(registry, made[0])
    forget(registry, made[2])
    registry.prune(grace=0)
    registry.prune(grace=0)
    assert len(list(registry.store.backend.keys("packs/"))) == 1  # the canary


def forget(registry: Registry, artifact: Artifact) -> None:
    body = {"project": PROJECT, "plan": None, "rule": "x", "reason": "y", "approver": "z"}
    registry.append("forget", artifact.id, body)


def test_a_base_in_another_pack_is_attached_and_claimed(registry: Registry) -> None:
    one, two = trained(registry, steps=2)
    registry.catalog.write(moves.commit, coded_by(registry, one, two))
    forget(registry, two)
    base = registry.locate([model_key(registry, two)])[model_key(registry, two)]

    assert all_closed(registry)
    assert registry.prune(grace=0).disagreements == ()
    assert registry.verify(one.reference).ok
    registry.catalog.write(packs.begin, "writer", 900.0)
    registry.catalog.write(packs.claim, "writer", [model_key(registry, one)])
    claim = tables.claim
    claimed = registry.catalog.read(
        lambda conn: set(conn.execute(sa.select(claim.c.pack)).scalars())
    )
    assert base.pack in claimed


def test_what_differs_from_a_deleted_chunk_counts_as_absent(registry: Registry) -> None:
    one, two = trained(registry, steps=2)
    registry.catalog.write(moves.commit, coded_by(registry, one, two))
    base = model_key(registry, two)
    pack = registry.locate([base])[base].pack
    registry.catalog.write(
        lambda tx: tx.conn.execute(
            tables.pack.update().where(tables.pack.c.id == pack).values(state="deleting")
        )
    )
    registry.catalog.write(packs.begin, "writer", 900.0)
    found = registry.catalog.write(packs.claim, "writer", [model_key(registry, one)])

    assert found == {}


def test_a_doomed_base_takes_along_what_differs_from_it(registry: Registry) -> None:
    one, two = trained(registry, steps=2)
    registry.catalog.write(moves.commit, coded_by(registry, one, two))
    keys = [model_key(registry, one), model_key(registry, two)]
    base = registry.locate(keys)[keys[1]].pack

    def doom(tx: Transaction) -> None:
        tx.conn.execute(tables.artifact_pack.delete())
        packs.condemn(tx, base)
        packs.doom(tx, base, 0)

    registry.catalog.write(doom)
    assert registry.locate(keys) == {}


def test_a_missing_base_stops_prune(registry: Registry) -> None:
    one, two = trained(registry, steps=2)
    registry.catalog.write(moves.commit, coded_by(registry, one, two))
    forget(registry, two)
    base = registry.locate([model_key(registry, two)])[model_key(registry, two)]
    registry.catalog.write(
        lambda tx: tx.conn.execute(
            tables.artifact_pack.delete().where(tables.artifact_pack.c.pack == base.pack)
        )
    )
    pruned = registry.prune(grace=0)

    assert pruned.deleted == 0
    assert "holds chunks of a live artifact" in pruned.disagreements[0]


def test_readers_follow_a_chunk_that_moves(registry: Registry, tmp_path: Path) -> None:
    made = trained(registry)
    before = contents(registry, made[0])
    stale = registry.locate

    def locate(keys: Sequence[str]) -> Mapping[str, Location]:
        found = stale(keys)
        if not moved:
            moved.append(registry.archive(names(made)))
            registry.prune(grace=0)
        return found

    moved: list[Any] = []
    publication = registry.publication_of(made[0].id, made[0].session)
    entry = publication.manifest.files[0]
    chunks = publication.chunks[entry.sha256]
    data = b"".join(registry.store.read_file(chunks, locate, entry.sha256))

    assert data == before[entry.path]
    registry.fetch(made[0].reference, tmp_path / "out")
    assert (tmp_path / "out" / entry.path).read_bytes() == data


def test_compaction_frees_what_nobody_needs(registry: Registry) -> None:
    made = trained(registry, steps=1)
    registry.slim(made[0].reference, reason="only the weights are wanted")
    before = stored(registry)
    idle = registry.compact(threshold=0.1)
    done = registry.compact()
    registry.prune(grace=0)

    assert (idle.packs, done.packs) == (0, 1)
    assert stored(registry) < 0.5 * before
    assert registry.verify(made[0].reference).ok
    assert registry.scrub().ok
    assert registry.compact().packs == 0
    assert registry.prune(grace=0).disagreements == ()


def test_compaction_keeps_what_is_needed(registry: Registry) -> None:
    made = trained(registry, steps=4)
    registry.archive(names(made[:3]))
    forget(registry, made[0])
    registry.compact(threshold=1.0)
    registry.prune(grace=0)

    assert all(registry.verify(reference).ok for reference in names(made[1:]))
    assert all_closed(registry)
    assert registry.prune(grace=0).disagreements == ()


def test_a_damaged_chunk_gets_no_new_place(registry: Registry) -> None:
    (made,) = trained(registry, steps=1)
    registry.slim(made.reference, reason="small")
    key = model_key(registry, made)
    at = registry.locate([key])[key]
    data = bytearray(registry.store.backend.get(object_key(at.pack)))
    data[at.offset] ^= 1
    registry.store.backend.put(object_key(at.pack), bytes(data))

    with pytest.raises(Exception, match="is damaged"):
        registry.compact()
    assert registry.locate([key])[key] == at


def test_a_slimmed_checkpoint_keeps_its_weights_and_says_why(registry: Registry) -> None:
    (made,) = trained(registry, steps=1)
    weights = registry.read(made.reference, "model.safetensors")
    lost = registry.slim(made.reference, rule="slim_after", reason="30 days old")
    registry.compact()
    registry.prune(grace=0)

    assert lost == ("optimizer.safetensors",)
    assert registry.slim(made.reference, reason="again") == ()
    assert registry.read(made.reference, "model.safetensors") == weights
    with pytest.raises(GoneError, match="by the rule 'slim_after': 30 days old"):
        registry.read(made.reference, "optimizer.safetensors")
    assert registry.verify(made.reference).files == 2
    assert registry.get(made.id).content == made.content
    assert registry.verify_ledger().problems == ()


def test_a_slimmed_checkpoint_is_fetched_without_what_is_gone(
    registry: Registry, tmp_path: Path
) -> None:
    (made,) = trained(registry, steps=1)
    registry.slim(made.reference, reason="small")
    registry.fetch(made.reference, tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model.safetensors",
        "state.json",
    ]


def test_what_is_relied_on_is_not_slimmed(registry: Registry) -> None:
    made = trained(registry, steps=2, finish=False)
    registry.place_hold(made[0].reference, "lawsuit", "asked for")

    with pytest.raises(HeldError, match="on hold"):
        registry.slim(made[0].reference, reason="small")
    with pytest.raises(HeldError, match="would resume from it"):
        registry.slim(made[1].reference, reason="small")
    with registry._reading(made[0]), pytest.raises(HeldError, match="reading it"):
        registry.slim(made[0].reference, reason="small")
    with pytest.raises(UnknownArtifactError, match="no files of an optimizer"):
        registry.slim("digits/run-1", reason="small")


def test_a_forgotten_checkpoint_is_neither_archived_nor_slimmed(registry: Registry) -> None:
    made = trained(registry, steps=2)
    forget(registry, made[0])

    assert registry.archive(names(made)).skipped == {made[0].reference: "it was forgotten"}
    with pytest.raises(GoneError):
        registry.slim(made[0].reference, reason="small")


def test_a_checkpoint_forgotten_while_it_moves_is_not_archived(registry: Registry) -> None:
    made = trained(registry, steps=1)
    steps = until(registry.archiving(names(made)), "packs_sealed")
    forget(registry, made[0])
    for _ in steps:
        pass

    assert registry.get(made[0].id).tier == "hot"
    assert registry.verify_ledger().problems == ()


def test_a_second_publish_of_archived_bytes_uses_them(registry: Registry) -> None:
    made = trained(registry, "run-1")
    registry.archive(names(made))
    registry.prune(grace=0)
    before = stored(registry)
    run = registry.start_run(PROJECT, "run-9")
    files: dict[str, Path | bytes] = dict(contents(registry, made[0]))
    again = registry.publish_checkpoint(run, files, step=1)

    assert stored(registry) == before
    assert registry.verify(again.reference).ok
    for found in made:
        forget(registry, found)
    registry.compact(threshold=1.0)
    registry.prune(grace=0)
    assert registry.verify(again.reference).ok
    assert all_closed(registry)


def test_archiving_needs_no_more_room_than_it_says(registry: Registry) -> None:
    """What an abandoned move wrote is deleted by prune."""
    made = trained(registry)
    steps = until(registry.archiving(names(made)), "packs_sealed")
    steps.close()
    registry.prune(grace=0)
    before = stored(registry)

    assert registry.get(made[0].id).tier == "hot"
    assert before == stored(registry)
    assert registry.scrub().ok


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.deep)])
def test_a_call_that_fails_in_the_middle_of_a_move_leaves_the_old_state(
    registry: Registry, stride: int
) -> None:
    """The disk fills up, or breaks, at each call of an archive in turn."""
    made = trained(registry)
    expected = contents(registry, made[0])
    failed = 0
    for number in itertools.count(0, stride):
        code = (errno.ENOSPC, errno.EIO)[number // stride % 2]
        with (
            open_registry(Path(registry.keys.root).parent, actor="tester") as own,
            faults.at_call(number, faults.failing(code)) as calls,
        ):
            try:
                own.archive(names(made))
            except (ArtifactError, OSError):
                failed += 1
        if number >= len(calls):
            break
        if registry.get(made[0].id).tier == "hot":
            assert codecs(registry, made[0]) == {"raw"}
        assert contents(registry, made[0]) == expected
        if registry.get(made[0].id).tier == "cold":
            registry.restore(names(made))

    assert failed > 2
    assert registry.get(made[0].id).tier == "cold"
    assert all(registry.verify(reference).ok for reference in names(made))
    assert registry.prune(grace=0).disagreements == ()
    assert all_closed(registry)
    assert registry.verify_ledger().problems == ()
