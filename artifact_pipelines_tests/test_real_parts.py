"""On Postgres and S3: a whole life, and servers that die in the middle of it."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Postgres
from artifact_pipelines_tests.servers import SeaweedFS, environment, serving

PATIENCE = 120.0
"""Seconds after which a command whose server is gone has to have said so."""


def test_a_whole_life_on_postgres_and_s3(postgres: Postgres, s3_url: str, tmp_path: Path) -> None:
    with open_registry(
        tmp_path / "home", catalog_url=postgres.catalog(), store_url=s3_url, actor="tester"
    ) as registry:
        first = building.promoted(registry, "run-1")
        building.promoted(registry, "run-2", seed=2)
        registry.rollback(PROJECT, "production")
        plan = registry.plan_retention(PROJECT)
        registry.approve_plan(plan.id)
        forgotten = registry.apply_plan(plan.id).forgotten
        pruned = registry.prune(grace=0)
        registry.sign_head()
        leaves = registry.rebuild(f"sqlite:///{tmp_path / 'again.db'}")
        again = Catalog(f"sqlite:///{tmp_path / 'again.db'}")
        rebuilt = again.read(facts)
        again.close()

        assert registry.resolve(f"{PROJECT}@production").model == first
        assert forgotten
        assert pruned.disagreements == ()
        assert registry.scrub().ok
        assert registry.verify_ledger().ok
        assert leaves == len(registry.events(limit=10_000))
        assert rebuilt == registry.catalog.read(facts)


@dataclass
class Team:
    """A registry on servers that can be killed.

    Attributes:
        home: Its home; only its keys are there.
        postgres: The database server.
        s3: The object store.
        catalog: The address of the catalog.
    """

    home: Path
    postgres: Postgres
    s3: SeaweedFS
    catalog: str

    def open(self) -> Registry:
        """Open the registry."""
        return open_registry(
            self.home, catalog_url=self.catalog, store_url="s3://team/store", actor="tester"
        )


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A registry on servers of its own."""
    folder = tmp_path_factory.mktemp("team")
    postgres = Postgres()
    with serving(folder / "s3") as s3, environment(s3.environ):
        s3.make_bucket("team")
        yield Team(folder / "home", postgres, s3, postgres.catalog())
    postgres.stop()


def publishing(registry: Registry, number: int) -> Steps[Any]:
    run = registry.start_run(PROJECT, "published")
    record = Record(
        Kind.CHECKPOINT, PROJECT, "published", content="0" * 64, run=run.id, step=number
    )
    return registry.publish(Draft(record, {"model.safetensors": building.tensors(number)}))


def promoting(registry: Registry, number: int) -> Steps[Any]:
    model = building.candidate(registry, f"promoted-{number}", seed=number)
    building.approve(registry, model)
    return registry.promotion(model, "production")


def pruning(registry: Registry, number: int) -> Steps[Any]:
    registry.set_policy(PROJECT, building.POLICY)
    building.run(registry, f"pruned-{number}", seed=number)
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    registry.apply_plan(plan.id)
    return registry.pruning(grace=0)


WORK = {"publish": publishing, "promotion": promoting, "prune": pruning}


def labels_of(steps: Steps[Any]) -> list[str]:
    """Return the steps of some work, done to its end."""
    return list(dict.fromkeys(steps))


def references(registry: Registry) -> set[str]:
    """Return what was acknowledged and is not forgotten."""
    return {
        found.reference
        for project in registry.projects()
        for kind in (registry.datasets, registry.checkpoints, registry.models)
        for found in kind(project)
        if found.state == "live"
    }


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("server", ["postgres", "s3"])
def test_a_server_that_dies_costs_nothing_that_was_acknowledged(
    team: Team, server: str, work: str, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = team.postgres if server == "postgres" else team.s3
    offset = 1_000 * (1 + list(WORK).index(work)) + (0 if server == "s3" else 500)
    with team.open() as registry:
        labels = labels_of(WORK[work](registry, offset))
    assert labels
    for number, label in enumerate(labels, start=1):
        with team.open() as registry:
            steps = WORK[work](registry, offset + number)
            before = references(registry)
            while next(steps) != label:
                pass
            victim.kill()
            failed, said = took(lambda steps=steps: list(steps))  # type: ignore[misc]
        victim.start()
        recovered, _ = took(lambda before=before: survived(team, before))  # type: ignore[misc]
        with team.open() as registry:
            list(WORK[work](registry, offset + number + 100))
        with capsys.disabled():
            sys.stdout.write(
                f"\n{server} killed in {work} after {label}: {said or 'finished without it'}; "
                f"said in {failed:.1f} s, recovered in {recovered:.1f} s\n"
            )
        assert failed < PATIENCE


def test_a_worker_that_is_killed_on_postgres_and_s3_loses_nothing(
    team: Team, tmp_path: Path
) -> None:
    with team.open() as registry:
        building.dataset(registry)
    killed_after(team, "publish", 100, "packs_sealed", tmp_path / "before")
    with team.open() as registry:
        again = list(publishing(registry, 100))

    assert again
    survived(team, set(json.loads((tmp_path / "before").read_text())))


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("work", WORK)
def test_a_worker_that_is_killed_costs_nothing_that_was_acknowledged(
    team: Team, work: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offset = 5_000 * (1 + list(WORK).index(work))
    with team.open() as registry:
        labels = labels_of(WORK[work](registry, offset))
    for number, label in enumerate(labels, start=1):
        told = tmp_path / label
        killed_after(team, work, offset + number, label, told)
        before = set(json.loads(told.read_text()))
        recovered, said = took(lambda before=before: survived(team, before))  # type: ignore[misc]
        with team.open() as registry:
            list(WORK[work](registry, offset + number + 100))
        with capsys.disabled():
            sys.stdout.write(
                f"\nworker killed in {work} after {label}: recovered in {recovered:.1f} s\n"
            )
        assert not said


def killed_after(team: Team, work: str, number: int, label: str, told: Path) -> None:
    """Have a process do some work and kill itself after a step; it tells what was there before."""
    # The connections to a bucket do not survive a fork, so the parent is a process without any.
    context = multiprocessing.get_context("forkserver")
    asked = (team.home, team.catalog, dict(os.environ), work, number, label, told)
    child = context.Process(target=_work_and_die, args=asked)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def _work_and_die(
    home: Path,
    catalog: str,
    environ: dict[str, str],
    work: str,
    number: int,
    label: str,
    told: Path,
) -> None:
    os.environ.update(environ)
    with open_registry(
        home, catalog_url=catalog, store_url="s3://team/store", actor="tester"
    ) as registry:
        steps = WORK[work](registry, number)
        told.write_text(json.dumps(sorted(references(registry))))
        for reached in steps:
            if reached == label:
                os.kill(os.getpid(), signal.SIGKILL)


def took(work: Callable[[], object]) -> tuple[float, str]:
    """Return how long some work took, and the sentence it failed with."""
    began = time.monotonic()
    try:
        work()
    except ArtifactError as error:
        return time.monotonic() - began, f"{type(error).__name__}: {str(error)[:90]}"
    return time.monotonic() - began, ""


def survived(team: Team, before: set[str]) -> None:
    """Check that all that was acknowledged is there and whole."""
    with team.open() as registry:
        lost = before - references(registry)
        assert not lost
        assert registry.scrub().ok
        registry.export_leaves()  # as whoever writes next does
        assert registry.verify_ledger().problems == ()
