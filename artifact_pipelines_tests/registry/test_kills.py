"""A process that is killed at any point leaves the old state or the new one, and loses nothing."""

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import ArtifactError, GoneError
from artifact_pipelines.registry import Registry, open_registry, scrubbing
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.opening import open_backend
from artifact_pipelines_tests import building, crashing
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.crashing import WatchedBackend, Work
from artifact_pipelines_tests.databases import Databases, SqliteFiles

RETENTION = {"keep": {"last": 1, "best": 0}, "forget_after": "0s", "max_share": 1.0}


@dataclass(frozen=True)
class Case:
    """A use case that is killed.

    Attributes:
        work: The use case; run to its end after a kill, it must succeed.
        reached: The references that must be there once it has succeeded.
        gone: The references that must be forgotten then.
        tier: The tier that every checkpoint must be in then.
        hurt: Whether something cannot be read before it has succeeded.
        holds: What must hold besides once it has succeeded.
    """

    work: Work
    reached: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    tier: str | None = None
    hurt: bool = False
    holds: Callable[[Registry], object] = bool


def publish(registry: Registry) -> None:
    run = registry.run(PROJECT, "run-1").artifact
    files: dict[str, Path | bytes] = {
        "model.safetensors": building.tensors(77),
        "optimizer.safetensors": building.tensors(1_500),  # as that of step 0 of run-1
    }
    registry.publish_checkpoint(run, files, step=9)


def promote(registry: Registry) -> None:
    registry.promote("digits/v2", "production")


def plan(registry: Registry) -> None:
    registry.plan_retention(PROJECT)


def apply(registry: Registry) -> None:
    registry.apply_plan(registry.approve_plan(registry.plan_retention(PROJECT).id).id)


def archive(registry: Registry) -> None:
    registry.archive(["digits/run-1", "digits/run-2"])


def restore(registry: Registry) -> None:
    registry.restore(["digits/run-1", "digits/run-2"])


def compact(registry: Registry) -> None:
    registry.slim("digits/run-2@0", reason="small")
    registry.compact()


def prune(registry: Registry) -> None:
    registry.prune(grace=0)


def slim(registry: Registry) -> None:
    registry.slim("digits/run-2@0", reason="small")


def is_slim(registry: Registry) -> bool:
    found = registry.find("digits/run-2@0")
    return registry.removed(found) == {"optimizer.safetensors"}


def copy_of(registry: Registry) -> str:
    """Return where the copy of a store is: beside it."""
    return f"{registry.store.backend.url}-copy"


@contextmanager
def watched_copy(registry: Registry) -> Iterator[str]:
    """Yield where the copy is, whose changes are points to die at as well."""
    backend = registry.store.backend

    def opened(url: str) -> Backend:
        found = open_backend(url)
        return WatchedBackend(found, backend.hook) if isinstance(backend, WatchedBackend) else found

    with mock.patch.object(scrubbing, "open_backend", opened):
        yield copy_of(registry)


def replicate(registry: Registry) -> None:
    with watched_copy(registry) as copy:
        registry.replicate(copy)


def is_copied(registry: Registry) -> bool:
    """Return whether the copy has what the store has, byte for byte."""
    copy, mine = open_backend(copy_of(registry)), registry.store.backend
    registry.replicate(copy.url)  # what the end of the test itself wrote
    there = sorted(mine.keys())
    return sorted(copy.keys()) == there and all(copy.get(key) == mine.get(key) for key in there)


def damage(registry: Registry) -> None:
    """Flip a bit of every pack, once they are copied."""
    replicate(registry)
    backend = registry.store.backend
    for key in list(backend.keys("packs/")):
        data = bytearray(backend.get(key))
        data[100] ^= 1
        backend.put(key, bytes(data))


def heal(registry: Registry) -> None:
    with watched_copy(registry) as copy:
        assert registry.scrub(replica_url=copy).ok


def is_sound(registry: Registry) -> bool:
    return registry.scrub().ok and registry.quarantined() == {}


def encrypt(registry: Registry) -> None:
    registry.encrypt("sealed")
    for name in ("one", "two"):
        registry.publish_dataset("sealed", name, {"data.bin": building.tensors(len(name), 5_000)})


def rotate(registry: Registry) -> None:
    registry.rotate("sealed")


def has_one_wrapping_key(registry: Registry) -> bool:
    (scope,) = registry.scopes()
    return len(registry.keys.scopes.scope(scope.id).wrapping) == 1


def shred(registry: Registry) -> None:
    registry.shred("sealed", "it was asked for")


def is_shredded(registry: Registry) -> bool:
    (scope,) = registry.scopes()
    with pytest.raises(GoneError):
        registry.read("sealed/one@1", "data.bin")
    return scope.state == "shredded" and not list(registry.keys.scopes.root.iterdir())


CASES = {
    "publish": Case(publish, reached=("digits/run-1@9",)),
    "promote": Case(promote),
    "plan": Case(plan),
    "apply": Case(apply, gone=("digits/run-1@0", "digits/run-2@0", "digits/run-2@1")),
    "archive": Case(archive, tier="cold"),
    "restore": Case(restore, tier="hot"),
    "compact": Case(compact),
    "prune": Case(prune),
    "slim": Case(slim, holds=is_slim),
    "replicate": Case(replicate, holds=is_copied),
    "heal": Case(heal, hurt=True, holds=is_sound),
    "rotate": Case(rotate, holds=has_one_wrapping_key),
    "shred": Case(shred, holds=is_shredded),
}


def made(databases: Databases, home: Path, source: Path | None, *works: Work) -> Path:
    """Return a home in which use cases were run, begun as a copy of another."""
    if source is not None:
        shutil.copytree(source, home)
        databases.follow(source, home)
    with open_registry(home, actor="tester") as registry:
        for work in works:
            work(registry)
    return home


def populate(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    building.approve(registry, building.candidate(registry, "run-2", seed=2))
    registry.prune()  # plants the canary


def tighten(registry: Registry) -> None:
    document = {**building.POLICY.document(), "retention": RETENTION}
    registry.set_policy(PROJECT, Policy.of(document))


HOMES: dict[str, Path] = {}
"""Those whose catalogs are files, made once for a process."""


@pytest.fixture
def homes(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """Homes in which each use case has something to do."""
    with crashing.warm_engines():
        if not isinstance(databases, SqliteFiles):
            yield populated(databases, tmp_path_factory.mktemp("kills"))
            return
        if not HOMES:
            HOMES.update(populated(databases, tmp_path_factory.mktemp("kills")))
        yield HOMES


def populated(databases: Databases, folder: Path) -> dict[str, Path]:
    """Return a new home for each use case."""
    full = made(databases, folder / "full", None, populate)
    retiring = made(databases, folder / "retiring", full, tighten)
    sealed = made(databases, folder / "sealed", full, encrypt)
    return {
        "publish": full,
        "promote": full,
        "plan": retiring,
        "apply": retiring,
        "archive": full,
        "restore": made(databases, folder / "archived", full, archive),
        "compact": full,
        "prune": made(databases, folder / "applied", retiring, apply),
        "slim": full,
        "replicate": full,
        "heal": made(databases, folder / "hurt", full, damage),
        "rotate": sealed,
        "shred": sealed,
    }


def unreadable(registry: Registry) -> list[str]:
    """Return the files of artifacts that are not forgotten whose bytes cannot be had.

    What was shredded is meant to be lost.
    """
    shredded = {found.project for found in registry.scopes() if found.state == "shredded"}
    rows = registry.catalog.read(
        lambda conn: list(
            conn.exec_driver_sql("select id, object, project from artifact where state = 'live'")
        )
    )
    removed: dict[str, set[str]] = {}
    for one in registry.catalog.read(
        lambda conn: list(
            conn.exec_driver_sql(
                "select artifact, sha256 from artifact_file where state = 'removed'"
            )
        )
    ):
        removed.setdefault(one.artifact, set()).add(one.sha256)
    lost = []
    for row in rows:
        if row.project in shredded:
            continue
        for file, chunks in registry.publication_of(row.id, row.object).chunks.items():
            if file in removed.get(row.id, ()):
                continue
            try:
                list(registry.store.read_file(chunks, registry.locate, file))
            except (ArtifactError, OSError) as error:
                lost.append(f"{row.id[:12]}: {error}")
    return lost


def survive(home: Path, name: str, points: list[str], *, ledger: bool) -> int:
    """Kill a use case at one point after another, and check that nothing was lost.

    Returns:
        How often it was killed: what one leaves behind, the next may not have to do again.
    """
    case, killed = CASES[name], 0
    with open_registry(home, actor="tester") as registry:
        before = {found.id for found in registry.checkpoints(PROJECT)}
    for point in points:
        killed += crashing.kill_at(home, case.work, int(point.split()[0]))
    with open_registry(home, actor="tester") as registry:
        assert before <= {found.id for found in registry.checkpoints(PROJECT)}
        assert case.hurt or unreadable(registry) == [], points
        crashing.expire(registry)
        case.work(registry)
        assert all(registry.verify(reference).ok for reference in case.reached), points
        assert all(registry.find(gone).state == "forgotten" for gone in case.gone), points
        assert all(registry.lineage(gone) for gone in case.gone), points
        tiers = {found.tier for found in registry.checkpoints(PROJECT)}
        assert case.tier is None or tiers == {case.tier}, points
        assert case.holds(registry), points
        assert registry.prune(grace=0).disagreements == (), points
        assert unreadable(registry) == [], points
        assert stored_in_vain(registry) == [], points
        if ledger:
            assert registry.verify_ledger().problems == (), points
    return killed


def stored_in_vain(registry: Registry) -> list[str]:
    """Return the packs and publish objects that nothing cites, all of which prune removes."""
    backend, read = registry.store.backend, registry.catalog.read
    needed = set(
        read(lambda conn: conn.exec_driver_sql("select pack from artifact_pack").scalars())
    )
    cited = {
        f"publish/{row.id}/{row.object}"
        for row in read(lambda conn: list(conn.exec_driver_sql("select id, object from artifact")))
    }
    packs = {key.rpartition("/")[2] for key in backend.keys("packs/")}
    return sorted(packs - needed) + sorted(set(backend.keys("publish/")) - cited)


def sweep(databases: Databases, homes: dict[str, Path], name: str, kills: int, seed: int) -> None:
    """Kill a use case so many times: at every point in turn, several times in one home."""
    labels = crashing.points(homes[name], CASES[name].work, databases)
    order = itertools.cycle(random.Random(seed).sample(labels, len(labels)))
    count = 0
    while kills > 0:
        with crashing.copied(homes[name], databases) as home:
            kills -= survive(home, name, [next(order) for _ in range(4)], ledger=count % 8 == 0)
        count += 1


def test_there_are_enough_points_to_die_at(databases: Databases, homes: dict[str, Path]) -> None:
    found = {
        name: crashing.points(homes[name], case.work, databases) for name, case in CASES.items()
    }

    assert sum(len(labels) for labels in found.values()) >= 60, found
    assert all(found.values())


@pytest.mark.parametrize("name", CASES)
def test_a_kill_at_any_point_loses_nothing(
    databases: Databases, homes: dict[str, Path], name: str
) -> None:
    sweep(databases, homes, name, kills=1 + 300 // len(CASES), seed=1)


@pytest.mark.deep
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", CASES)
def test_three_thousand_kills_lose_nothing(
    databases: Databases, homes: dict[str, Path], name: str
) -> None:
    sweep(databases, homes, name, kills=1 + 3_000 // len(CASES), seed=2)
