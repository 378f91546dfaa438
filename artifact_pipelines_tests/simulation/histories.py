"""Histories of a registry on a machine that dies at any step, drawn from a seed."""

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import ArtifactError, SessionLostError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.keys import KeyFolder
from artifact_pipelines.registry.publishing import NO_FILES, Draft
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.simulation.disk import Disk

MOVES = 50
TOGETHER = 3  # actors under way at a time
DAY = 86_400.0
RETENTION = {"keep": {"last": 1, "best": 0}, "forget_after": "1h", "max_share": 1.0}
POLICY = Policy.of({**building.POLICY.document(), "retention": RETENTION})


class Machine:
    """A machine with one registry, whose actors take their steps in turn.

    Attributes:
        acknowledged: The ids of all whose publication was said to be done.
        crashes: How often it died.
    """

    def __init__(self, home: Path, seed: int, *, lies: bool = False) -> None:
        """Start it with what a home has, and an empty disk."""
        self.chance = random.Random(seed)
        self.at = 1_900_000_000.0
        self.home = home
        self.disk = Disk(self.chance, lambda: self.at, lies=lies)
        self.acknowledged: set[str] = set()
        self.crashes = 0
        self._actors: list[Steps[Any]] = []
        self._step = 0
        with self._seeded():
            self.registry = self._boot()
            self.registry.set_policy(PROJECT, POLICY)
            self.run = self.registry.start_run(PROJECT, "run-1")
            self.registry.finish_run(self.run, "finished")
            self.acknowledged.add(self.run.id)

    def live(self, moves: int = MOVES) -> None:
        """Let actors begin, go on and die, and check after each crash what is there."""
        with self._seeded():
            for _ in range(moves):
                self._move()
            self._crash()
            pruned = self.registry.prune(grace=0)
            assert pruned.disagreements == ()
            self.check()

    def close(self) -> None:
        """Switch it off."""
        self._actors.clear()
        self.registry.close()

    def check(self) -> None:
        """Hold what is there against what was acknowledged."""
        artifact, tombstone = tables.artifact, tables.tombstone
        rows = self.registry.catalog.read(
            lambda conn: list(conn.execute(sa.select(artifact.c.id, artifact.c.state)))
        )
        buried = self.registry.catalog.read(
            lambda conn: set(conn.execute(sa.select(tombstone.c.artifact)).scalars())
        )
        states = {row.id: row.state for row in rows}
        assert self.acknowledged <= states.keys()
        assert buried == {one for one, state in states.items() if state == "forgotten"}
        for one, state in states.items():
            if state == "live":
                assert self.registry.verify(one).ok

    def _move(self) -> None:
        drawn = self.chance.random()
        if drawn < 0.06:
            self._crash()
            self.check()
        elif drawn < 0.12:
            self.at += self.chance.choice((60.0, 1_000.0, 2 * DAY))
        elif not self._actors or (drawn < 0.3 and len(self._actors) < TOGETHER):
            self._actors.append(self._actor())
        else:
            self._go_on(self.chance.choice(self._actors), self.chance.randrange(1, 7))

    def _go_on(self, actor: Steps[Any], steps: int) -> None:
        """Let an actor take some steps, and note what it acknowledges."""
        try:
            for _ in range(steps):
                next(actor)
        except StopIteration as end:
            self._actors.remove(actor)
            if isinstance(end.value, Artifact):
                self.acknowledged.add(end.value.id)
        except ArtifactError:
            self._actors.remove(actor)  # it was told that nothing came of it

    def _actor(self) -> Steps[Any]:
        begin = self.chance.choice(
            (
                *(self._publish, self._publish, self._publish, self._archive, self._restore),
                *(self._compact, self._retire, self._prune),
            )
        )
        return begin()

    def _publish(self) -> Steps[Any]:
        self._step += 1
        # Some steps share chunks with an earlier one.
        files: dict[str, Path | bytes] = {
            "model.safetensors": building.tensors(self._step, 200),
            "optimizer.safetensors": building.tensors(self.chance.randrange(3), 200),
        }
        record = Record(
            Kind.CHECKPOINT,
            PROJECT,
            self.run.name,
            content=NO_FILES,
            run=self.run.id,
            step=self._step,
            attempt=1,
            facts={},
        )
        return self.registry.publish(Draft(record, files))

    def _archive(self) -> Steps[Any]:
        return self.registry.archiving([self.run.reference])

    def _restore(self) -> Steps[Any]:
        return self.registry.restoring([self.run.reference])

    def _compact(self) -> Steps[Any]:
        return self.registry.compacting(0.9)

    def _prune(self) -> Steps[Any]:
        return self.registry.pruning(self.chance.choice((0.0, DAY)))

    def _retire(self) -> Steps[Any]:
        plan = self.registry.plan_retention(PROJECT)
        with suppress(ArtifactError):
            self.registry.approve_plan(plan.id)
        return self.registry.application(plan.id)

    def _crash(self) -> None:
        """Die with all that was under way, lose what was not durable, and start again."""
        dead = self.registry.catalog

        def refuse(*_: object, **__: object) -> None:
            raise SessionLostError("the machine is dead.")

        # What the dead would still do on their way out must not reach the catalog.
        dead.write = dead.read = refuse  # type: ignore[method-assign, assignment]
        self.disk.crash()
        for actor in self._actors:
            with suppress(ArtifactError):
                actor.close()
        self._actors.clear()
        dead.engine.dispose()
        self.crashes += 1
        self.registry = self._boot()

    def _boot(self) -> Registry:
        catalog = Catalog(f"sqlite:///{self.home / 'catalog.db'}")

        @sa.event.listens_for(catalog.engine, "connect")
        def _connect(connection: Any, _record: object) -> None:  # noqa: ANN401 (a driver's)
            connection.create_function(
                "julianday", 1, lambda _now: self.at / 86_400.0 + 2_440_587.5
            )

        return Registry(catalog, self.disk, KeyFolder(self.home / "keys"), "tester")

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Have ids drawn from the seed too."""
        with (
            mock.patch("secrets.token_hex", lambda size: self.chance.randbytes(size).hex()),
            mock.patch("secrets.token_bytes", self.chance.randbytes),
        ):
            yield


def simulate(folder: Path, seed: int, *, lies: bool = False) -> Machine:
    """Return a machine that has lived through the history of a seed, and is off."""
    home = folder / f"history-{seed}"
    home.mkdir()
    machine = Machine(home, seed, lies=lies)
    try:
        machine.live()
    except Exception as error:
        error.add_note(f"in the history of the seed {seed}")
        raise
    finally:
        machine.close()
        shutil.rmtree(home)
    return machine
