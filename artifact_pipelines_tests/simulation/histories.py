"""Histories of a registry on a machine that dies at any step or inside a call, from a seed.

python -m artifact_pipelines_tests.simulation.histories --first 0 --count 1000
"""

import argparse
import functools
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import ArtifactError, SessionLostError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.keys import KeyFolder
from artifact_pipelines.registry.publishing import NO_FILES, Draft
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines.store.pack import object_key
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.simulation.disk import Disk
from artifact_pipelines_tests.warm import Warm, WarmCatalog

T = TypeVar("T")

MOVES = 50
BEGINNING = 1_900_000_000.0
TOGETHER = 3  # actors under way at a time
DAY = 86_400.0
RETENTION = {"keep": {"last": 1, "best": 0}, "forget_after": "1h", "max_share": 1.0}
POLICY = Policy.of({**building.POLICY.document(), "retention": RETENTION})


class DeadError(BaseException):
    """The machine died inside a call."""


class Memory(WarmCatalog):
    """The catalog of a machine; what a transaction committed is durable, as SQLite's is."""

    def __init__(self, engine: sa.Engine, machine: "Machine") -> None:
        """Begin with whatever the engine's database holds."""
        super().__init__(engine)
        self.machine, self.dead = machine, False

    def read(self, query: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what a query finds, as long as the machine lives."""
        self._check()
        return super().read(query, *args, **kwargs)

    def write(self, change: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a change; the machine may die before it or when it is committed."""
        found: T = self._fated(super().write, change, *args, **kwargs)
        return found

    def write_soon(self, change: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a change as `write` does: the machine dies, and power is not lost."""
        found: T = self._fated(super().write_soon, change, *args, **kwargs)
        return found

    def _fated(
        self,
        write: Callable[..., Any],
        change: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:  # noqa: ANN401
        self._check()
        self.machine.fate()
        found = write(change, *args, **kwargs)
        self.machine.fate()
        return found

    def _check(self) -> None:
        if self.dead:
            raise SessionLostError("the machine is dead.")


class Template:
    """What every machine begins with: a project with a policy, and a finished run.

    Attributes:
        home: Where its keys are.
        warm: The one database in memory.
        objects: What the disk holds.
        machine: The machine that is on, whose clock the database reads.
    """

    def __init__(self) -> None:
        """Make it, once for a process."""
        self.home = Path(tempfile.mkdtemp())
        self.machine: Machine | None = None
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.warm = Warm(lambda: BEGINNING if self.machine is None else self.machine.at)
        machine = Machine(self, seed=0)
        self.warm.keep()
        self.objects = dict(machine.disk.objects)


class Machine:
    """A machine with one registry, whose actors take their steps in turn.

    Attributes:
        acknowledged: The ids of all whose publication was said to be done.
        crashes: How often it died.
        inside: How often of these inside a call.
        steps: How many steps its actors took.
    """

    def __init__(self, template: Template, seed: int, *, lies: bool = False) -> None:
        """Start it with what the template has."""
        self.chance = random.Random(seed)
        self.at = BEGINNING
        self.template = template
        self.disk = Disk(self.chance, lambda: self.at, self.fate, lies=lies)
        self.acknowledged: set[str] = set()
        self.crashes = self.inside = self.steps = 0
        self._actors: list[Steps[Any]] = []
        self._step = 0
        self._left = -1  # calls until it dies; negative while its death is not near
        template.machine = self
        if template.objects:
            template.warm.reset()
            self.disk.objects.update(template.objects)
        with self._seeded():
            self.registry = self._boot()
            if not template.objects:
                self.registry.set_policy(PROJECT, POLICY)
                self.registry.finish_run(self.registry.start_run(PROJECT, "run-1"), "finished")
            self.run = self.registry.run(PROJECT, "run-1").artifact
        self.acknowledged.add(self.run.id)

    def fate(self) -> None:
        """Die here, if it is time."""
        if self._left == 0:
            self.inside += 1
            self._left = -1
            raise DeadError
        self._left -= self._left > 0

    def live(self, moves: int = MOVES) -> None:
        """Let actors begin, go on and die, and check after each crash what is there."""
        with self._seeded():
            for _ in range(moves):
                self._move()
            self._left = -1
            self._crash()
            pruned = self.registry.prune(grace=0)
            assert pruned.disagreements == ()
            self.check(whole=True)

    def close(self) -> None:
        """Switch it off."""
        self._actors.clear()

    def check(self, *, whole: bool = False) -> None:
        """Hold what is there against what was acknowledged, every byte of it where asked."""
        artifact, tombstone = tables.artifact, tables.tombstone
        columns = (artifact.c.id, artifact.c.state, artifact.c.object)
        rows, buried = self.registry.catalog.read(
            lambda conn: (
                list(conn.execute(sa.select(*columns))),
                set(conn.execute(sa.select(tombstone.c.artifact)).scalars()),
            )
        )
        assert self.acknowledged <= {row.id for row in rows}
        assert buried == {row.id for row in rows if row.state == "forgotten"}
        living = [row for row in rows if row.state == "live"]
        if whole:
            assert all(self.registry.verify(row.id).ok for row in living)
            return
        needed: set[str] = set()
        for row in living:
            needed |= set(self.registry.publication_of(row.id, row.object).keys())
        located = dict(self.registry.locate(sorted(needed)))
        bases = {place.base for place in located.values() if place.base is not None}
        located.update(self.registry.locate(sorted(bases)))
        assert needed | bases == located.keys()
        for place in located.values():
            size = self.disk.size(object_key(place.pack))
            assert size is not None
            assert place.offset + place.stored <= size

    def _move(self) -> None:
        drawn = self.chance.random()
        if drawn < 0.06:
            self._crash()
            self.check()
        elif drawn < 0.09:
            self._left = self.chance.randrange(6)  # it dies inside one of the next calls
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
                self.steps += 1
                next(actor)
        except DeadError:
            self._crash()
            self.check()
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
        yield "asked"
        plan = self.registry.plan_retention(PROJECT)
        with suppress(ArtifactError):
            self.registry.approve_plan(plan.id)
        yield from self.registry.application(plan.id)

    def _crash(self) -> None:
        """Die with all that was under way, lose what was not durable, and start again."""
        catalog = self.registry.catalog
        assert isinstance(catalog, Memory)
        # What the dead would still do on their way out must not reach the catalog.
        catalog.dead = self.disk.dead = True
        for actor in self._actors:
            with suppress(ArtifactError, RuntimeError):
                actor.close()
        self._actors.clear()
        self._left = -1
        self.disk.crash()
        self.crashes += 1
        self.registry = self._boot()

    def _boot(self) -> Registry:
        catalog = Memory(self.template.warm.engine, self)
        return Registry(catalog, self.disk, KeyFolder(self.template.home / "keys"), "tester")

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Have ids drawn from the seed too."""
        with (
            mock.patch("secrets.token_hex", lambda size: self.chance.randbytes(size).hex()),
            mock.patch("secrets.token_bytes", self.chance.randbytes),
        ):
            yield


@functools.cache
def template() -> Template:
    """Return what this process's machines begin with."""
    return Template()


def simulate(seed: int, *, lies: bool = False) -> Machine:
    """Return a machine that has lived through the history of a seed, and is off."""
    machine = Machine(template(), seed, lies=lies)
    try:
        machine.live()
    except Exception as error:
        error.add_note(f"in the history of the seed {seed}")
        raise
    finally:
        machine.close()
    return machine


def main() -> None:
    """Live through histories and print what happened in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    found: Counter[str] = Counter()
    for seed in range(given.first, given.first + given.count):
        if time.monotonic() > until:
            break
        machine = simulate(seed)
        found["histories"] += 1
        for name in ("crashes", "inside", "steps"):
            found[name] += getattr(machine, name)
        found["acknowledged"] += len(machine.acknowledged)
        found["days"] += int(machine.at - BEGINNING) // 86_400
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
