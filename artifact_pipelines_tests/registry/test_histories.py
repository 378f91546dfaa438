"""Whatever is done in whatever order, the registry agrees with a dictionary, and loses nothing."""

import contextlib
import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.errors import GoneError, PlanRefusedError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.keys import KeyFolder
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines_tests import building, crashing
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.warm import Warm, WarmCatalog

CONTENTS = [bytes([number]) * 3_000 for number in range(6)]


class Template:
    """What every history begins with: a project with a policy, the canary and a run.

    All is in memory, as nothing here loses what the disk said was durable; the simulator does.
    """

    def __init__(self) -> None:
        """Make it, once for a process."""
        self.keys = Path(tempfile.mkdtemp())
        self.warm = Warm()
        self.objects: dict[str, tuple[bytes, float]] = {}
        backend = MemoryBackend()
        registry = self.opened(backend)
        retention = {"keep": {"last": 1, "best": 1}, "forget_after": "0s", "max_share": 1.0}
        document = {**building.POLICY.document(), "retention": retention}
        registry.set_policy(PROJECT, Policy.of(document))
        registry.prune()
        registry.start_run(PROJECT, "run-1")
        self.warm.keep()
        self.objects = dict(backend._objects)

    def opened(self, backend: MemoryBackend) -> Registry:
        """Return a registry over the one database and a backend, as a new process opens it."""
        return Registry(WarmCatalog(self.warm.engine), backend, KeyFolder(self.keys), "tester")

    def begin(self) -> MemoryBackend:
        """Set the database back, and return a backend that fits it."""
        self.warm.reset()
        backend = MemoryBackend()
        backend._objects.update(self.objects)
        return backend


@functools.cache
def template() -> Template:
    """Return what this process's histories begin with."""
    return Template()


@dataclass
class Known:
    """What the dictionary knows of a checkpoint."""

    files: dict[str, bytes]
    metric: float
    forgotten: bool = False
    holds: set[str] = field(default_factory=set)
    slim: bool = False


class Histories(RuleBasedStateMachine):
    """One process after another, against a dictionary."""

    registry: Registry

    def __init__(self) -> None:
        """Begin with what the template has."""
        super().__init__()
        self.backend = template().begin()
        self.registry = template().opened(self.backend)
        self.runs = {"run-1": False}  # name: whether it has finished
        self.known: dict[str, Known] = {}
        self.touched: set[str] = set()

    def teardown(self) -> None:
        """Check everything once more."""
        self.everything_verifies(self.known)
        self.registry.prune(grace=0)
        self.registry.prune(grace=0)
        self.everything_verifies(self.known)

    @rule(name=st.sampled_from(["run-1", "run-2"]), finish=st.booleans())
    def run(self, name: str, finish: bool) -> None:
        run = self.registry.start_run(PROJECT, name)
        self.runs.setdefault(name, False)
        if finish:
            self.registry.finish_run(run, "finished")
            self.runs[name] = True

    @rule(
        data=st.data(),
        model=st.integers(0, 5),
        optimizer=st.none() | st.integers(0, 5),
        metric=st.integers(0, 9),
    )
    def publish(self, data: st.DataObject, model: int, optimizer: int | None, metric: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.runs)))
        step = sum(reference.startswith(f"digits/{name}@") for reference in self.known)
        files = {"model.bin": CONTENTS[model]}
        if optimizer is not None:
            files["optimizer.bin"] = CONTENTS[optimizer]
        run = self.registry.run(PROJECT, name).artifact
        facts = {"metrics": {"accuracy": metric / 10}}
        made = self.registry.publish_checkpoint(run, dict(files), step=step, facts=facts)
        self.known[made.reference] = Known(files, metric / 10)
        self.touched.add(made.reference)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        reference = data.draw(st.sampled_from(self.live()))
        known = self.known[reference]
        if "case" in known.holds:
            self.registry.lift_hold(reference, "case", "closed")
            known.holds.remove("case")
        else:
            self.registry.place_hold(reference, "case", "asked for")
            known.holds.add("case")

    @rule()
    def cleanup(self) -> None:
        plan = self.registry.plan_retention(PROJECT)
        expected = self.expected_to_go()
        assert {item.reference for item in plan.chosen("forget")} == expected

        with contextlib.suppress(PlanRefusedError):
            self.registry.approve_plan(plan.id)
            gone = set(self.registry.apply_plan(plan.id).forgotten)
            assert gone == expected
            for reference in gone:
                self.known[reference].forgotten = True
            self.touched |= set(self.known)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        reference = data.draw(st.sampled_from(self.live()))
        if self.registry.find(reference).tier == "cold":
            self.registry.restore([reference])
        else:
            self.registry.archive([reference])
        self.touched |= set(self.live())

    @rule(grace=st.sampled_from([0.0, 3_600.0]))
    def prune(self, grace: float) -> None:
        assert self.registry.prune(grace=grace).disagreements == ()
        self.touched |= set(self.live())

    @rule()
    def compact(self) -> None:
        self.registry.compact()
        self.touched |= set(self.live())

    @rule()
    def time_passes(self) -> None:
        crashing.expire(self.registry)

    @rule(point=st.integers(0, 30), model=st.integers(0, 5))
    def die_while_publishing(self, point: int, model: int) -> None:
        """Lose the process at a point of a publish; it is there whole or not at all."""
        reference = f"digits/run-1@{sum(one.startswith('digits/run-1@') for one in self.known)}"
        files: dict[str, Path | bytes] = {"model.bin": CONTENTS[model]}
        step = int(reference.rpartition("@")[2])

        class Dead(BaseException):
            """The process is no more."""

        reached = -1

        def hook(_label: str) -> None:
            nonlocal reached
            reached += 1
            if reached >= point:
                raise Dead

        dying = crashing.watch(template().opened(self.backend), hook)
        run = self.registry.run(PROJECT, "run-1").artifact
        with contextlib.suppress(Dead):
            dying.publish_checkpoint(run, files, step=step, facts={"metrics": {"accuracy": 0.0}})
        there = {found.reference for found in self.registry.checkpoints(PROJECT, "run-1")}
        if reference in there:
            self.known[reference] = Known({"model.bin": CONTENTS[model]}, 0.0)
            self.touched.add(reference)

    @rule()
    def restart(self) -> None:
        self.registry = template().opened(self.backend)

    @invariant()
    def the_catalog_is_the_dictionary(self) -> None:
        there = {
            found.reference: found.state == "forgotten"
            for found in self.registry.checkpoints(PROJECT)
        }
        assert there == {reference: known.forgotten for reference, known in self.known.items()}

    @invariant()
    def what_may_have_moved_is_read_back(self) -> None:
        self.everything_verifies({one: self.known[one] for one in sorted(self.touched)[:3]})
        self.touched.clear()

    def everything_verifies(self, chosen: dict[str, Known]) -> None:
        for reference, known in chosen.items():
            if known.forgotten:
                with pytest.raises(GoneError):
                    self.registry.read(reference, "model.bin")
                assert self.registry.lineage(reference)
                continue
            for path, data in known.files.items():
                assert self.registry.read(reference, path) == data

    def live(self) -> list[str]:
        return [reference for reference, known in self.known.items() if not known.forgotten]

    def expected_to_go(self) -> set[str]:
        """Return what the policy forgets, by a second and simpler account of it."""
        going = set()
        for name in self.runs:
            mine = [
                reference for reference in self.live() if reference.startswith(f"digits/{name}@")
            ]
            mine.sort(key=lambda reference: int(reference.rpartition("@")[2]))
            if not mine:
                continue
            best = max(mine, key=lambda one: (self.known[one].metric, int(one.rpartition("@")[2])))
            kept = {mine[-1], best}
            going |= {one for one in mine if one not in kept and not self.known[one].holds}
        return going


QUICK = settings(
    max_examples=50,
    stateful_step_count=50,
    deadline=None,
    database=None,  # the parts below would disturb one another in it
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("_part", range(4))
def test_two_hundred_histories_agree_with_a_dictionary(_part: int) -> None:
    run_state_machine_as_test(Histories, settings=QUICK)


@pytest.mark.deep
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("_part", range(10))
def test_two_thousand_histories_agree_with_a_dictionary(_part: int) -> None:
    run_state_machine_as_test(Histories, settings=settings(QUICK, max_examples=200))
