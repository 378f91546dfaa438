"""Shards on several processes and on Celery's workers, some of which are killed half-way."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.databases import Postgres
from artifact_pipelines_tests.servers import Redis

ROOT = Path(__file__).parent.parent
PATIENCE = 240.0  # seconds, of a machine that is busy with other things
TAKEN_OVER = 4  # seconds after which a worker that says nothing counts as dead

pytestmark = [pytest.mark.deep, pytest.mark.timeout(600)]

# Every Python of the workers runs this first. It says when a shard is under way and waits, so
# that the worker can be killed there.
PAUSING = """\
import os, time
from pathlib import Path

if "PAUSE_IN" in os.environ:
    from artifact_pipelines.registry import drilling

    folder, when = Path(os.environ["PAUSE_IN"]), os.environ["PAUSE_WHEN"]
    bring_back, drill_shard = drilling.Drilling._bring_back, drilling.Drilling.drill_shard

    def pause():
        mark = folder / f"{os.getpid()}-{time.monotonic_ns()}"
        mark.with_suffix(".new").write_text(os.environ["WORKER"])
        mark.with_suffix(".new").rename(mark.with_suffix(".here"))
        time.sleep(1.5)

    def before(self, artifact):
        pause()
        return bring_back(self, artifact)

    def after(self, artifacts, rehearsal, progress=None):
        found = drill_shard(self, artifacts, rehearsal, progress)
        pause()
        return found

    if when == "before":
        drilling.Drilling._bring_back = before
    else:
        drilling.Drilling.drill_shard = after
"""


@dataclass
class Cluster:
    """An installation on Postgres whose steps run in other processes.

    Attributes:
        folder: Where everything is.
        environment: What its processes are started with.
        workers: Celery's workers, by name.
        runs: What was started to be materialized.
    """

    folder: Path
    environment: dict[str, str]
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    runs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def registry(self) -> Registry:
        """Open the registry."""
        return open_registry(
            Path(self.environment["ARTIFACT_PIPELINES_HOME"]),
            catalog_url=self.environment["ARTIFACT_PIPELINES_CATALOG_URL"],
            actor="tester",
        )

    def start_worker(self, name: str, *, pause: str = "") -> None:
        """Start a worker that takes one step at a time."""
        settings = yaml.safe_load((ROOT / "deploy/production/celery.yaml").read_text())
        options = settings["execution"]["config"]["config_source"]["broker_transport_options"]
        options["visibility_timeout"] = TAKEN_OVER
        file = self.folder / "celery.yaml"
        file.write_text(yaml.safe_dump(settings))
        marks = {"PAUSE_IN": str(self.folder / "marks"), "PAUSE_WHEN": pause, "WORKER": name}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.workers[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dagster_celery.cli", "worker", "start"),
                    *("-A", "dagster_celery.app", "-y", str(file), "-n", name),
                    *("--", "--concurrency", "1"),
                ],
                env={**self.environment, **(marks if pause else {})},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_worker(self, name: str) -> None:
        """Kill a worker with all its processes, as the loss of its machine would."""
        process = self.workers.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def materialize(self, asset: str, module: str, **asked: Any) -> subprocess.Popen[bytes]:
        """Start the materialization of an asset."""
        name = asset.replace("/", "__")
        config = {"ops": {name: {"config": asked}}} if asked else {}
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster", "asset", "materialize", "--select", asset),
                *("-m", module, "--config-json", json.dumps(config)),
            ],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.runs.append(run)
        return run

    def shown(self, asset: str) -> tuple[dict[str, Any], list[str], list[str]]:
        """Return what an asset shows, the shards that were done, and who was given shards."""
        with dg.DagsterInstance.from_config(self.environment["DAGSTER_HOME"]) as instance:
            key = dg.AssetKey(asset.split("/"))
            (found,) = instance.fetch_materializations(key, limit=1).records
            logs = [
                record.dagster_event
                for record in instance.all_logs(found.run_id)
                if record.dagster_event
            ]
        done = [event.step_key or "" for event in logs if event.is_step_success]
        given = [
            str(event.engine_event_data.metadata["Celery worker"].value)
            for event in logs
            if event.is_engine_event and "Celery worker" in event.engine_event_data.metadata
            if "shard[" in (event.step_key or "")
        ]
        materialization = found.asset_materialization
        assert materialization is not None
        values = {name: value.value for name, value in materialization.metadata.items()}
        return values, [key for key in done if "shard[" in key], given


@pytest.fixture
def cluster(postgres: Postgres, tmp_path: Path) -> Iterator[Cluster]:
    """An installation whose registry and whose Dagster are on Postgres."""
    home = tmp_path / "dagster"
    home.mkdir()
    (tmp_path / "marks").mkdir()
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(PAUSING)
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "storage: {postgres: {postgres_url: {env: DAGSTER_DATABASE}}}\n"
        "run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}\n"
    )
    environment = {
        **{name: text for name, text in os.environ.items() if "DAGSTER" not in name},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path / 'early'}{os.pathsep}{ROOT}",
        "ARTIFACT_PIPELINES_HOME": str(tmp_path / "home"),
        "ARTIFACT_PIPELINES_CATALOG_URL": postgres.catalog(),
        "ARTIFACT_PIPELINES_INBOX": str(tmp_path / "inbox"),
        "DAGSTER_DATABASE": postgres.database(),
        "DAGSTER_HOME": str(home),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_DATABASE", environment["DAGSTER_DATABASE"])
        made = Cluster(tmp_path, environment)
        with made.registry() as registry:
            for number in range(3):
                building.run(registry, f"run-{number}", steps=2, seed=number + 1)
        yield made
    for name in list(made.workers):
        made.kill_worker(name)
    for run in made.runs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


@pytest.fixture
def celery(cluster: Cluster) -> Iterator[Cluster]:
    """The same with a broker; without one on this machine there is nothing to test."""
    pytest.importorskip("dagster_celery", reason="dagster-celery is not installed")
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server: apt-get install redis-server")
    broker = Redis(cluster.folder / "redis")
    cluster.environment["ARTIFACT_PIPELINES_EXECUTOR"] = "celery"
    cluster.environment["ARTIFACT_PIPELINES_BROKER_URL"] = broker.url
    yield cluster
    broker.kill()


def finished(process: subprocess.Popen[bytes]) -> None:
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said.decode()[-6_000:]


def drilled(registry: Registry) -> list[str]:
    return [event.subject for event in registry.ledger(limit=10_000) if event.action == "drill"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_shard_of_a_killed_worker_is_done_by_another_and_nothing_twice(
    celery: Cluster, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    celery.start_worker("first", pause=when)
    celery.start_worker("second", pause=when)
    run = celery.materialize(
        "registry/restore_drill", "artifact_pipelines.definitions", shard_megabytes=0.001, sample=6
    )
    until = time.monotonic() + PATIENCE
    marks: list[Path] = []
    while not marks:
        assert time.monotonic() < until, (celery.folder / "first.log").read_text()[-4_000:]
        assert run.poll() is None, run.communicate()[0].decode()[-6_000:]
        marks = list((celery.folder / "marks").glob("*.here"))
        time.sleep(0.02)
    killed = marks[0].read_text()
    celery.kill_worker(killed)
    began = time.monotonic()
    finished(run)
    with capsys.disabled():
        sys.stdout.write(
            f"\nworker killed {when} its shard's result was written: "
            f"all done {time.monotonic() - began:.1f} s later\n"
        )
    shown, done, given = celery.shown("registry/restore_drill")

    assert (shown["drilled"], shown["shards"]) == (6, 6)
    assert sorted(done) == sorted(set(done))
    assert len(done) == 6
    assert len(given) == 7  # the killed one's shard was given out twice
    with celery.registry() as registry:
        subjects = drilled(registry)
        assert len(subjects) == len(set(subjects)) == 6
        assert registry.verify_ledger().ok


def test_celery_carries_a_scrub_an_import_and_what_they_find(celery: Cluster) -> None:
    celery.start_worker("first")
    celery.start_worker("second")
    with celery.registry() as registry:
        key = next(iter(registry.store.backend.keys("packs/")))
        data = bytearray(registry.store.backend.get(key))
        data[100] ^= 1
        registry.store.backend.put(key, bytes(data))
        for number in range(3):
            run = celery.folder / "inbox" / "p" / f"outside-{number}"
            run.mkdir(parents=True)
            (run / "best.safetensors").write_bytes(building.tensors(900 + number))
            (run / "best.json").write_text('{"step": 1}')
    platform = "artifact_pipelines.definitions"
    finished(celery.materialize("registry/scrub", platform, shard_megabytes=0.01))
    finished(celery.materialize("registry/inbox", platform, shard_megabytes=0.001))
    scrubbed, done, given = celery.shown("registry/scrub")
    imported, _, _ = celery.shown("registry/inbox")

    assert scrubbed["damaged"] == 1
    assert scrubbed["shards"] == len(done) == len(given) > 2
    assert len(set(given)) == 2  # both workers did some of it
    assert (imported["imported"], imported["shards"]) == (3, 3)
    with celery.registry() as registry:
        assert len(registry.checkpoints("p")) == 3
        assert len(registry.quarantined()) == 1


def test_several_processes_carry_a_scrub(cluster: Cluster) -> None:
    cluster.environment["ARTIFACT_PIPELINES_EXECUTOR"] = "multiprocess"
    finished(
        cluster.materialize(
            "registry/scrub", "artifact_pipelines.definitions", shard_megabytes=0.03
        )
    )
    scrubbed, done, _ = cluster.shown("registry/scrub")

    assert scrubbed["damaged"] == 0
    assert scrubbed["shards"] == len(done) > 1
