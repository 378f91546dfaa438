"""Measure how long a checkpoint takes from its publication into staging, and where it goes.

The project is the one that `init` makes, its training runs outside of Dagster, and Dagster
is `dagster dev` with its own daemon. Times are those of the ledger's leaves and of the run
that Dagster started; nothing is stubbed, and every interval is printed.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import dagster as dg

from artifact_pipelines.registry.auditing import Event
from artifact_pipelines_tests.test_daemon import DATA, PATIENCE, PROJECT, TRAINER, Workspace

SLACK = 10.0  # seconds that a tick itself may take, beyond the interval
PARTS = {
    "published, until its run is finished": ("published", "finished"),
    "finished, until the sensor asks for a Dagster run": ("finished", "asked"),
    "asked, until the run's process has started": ("asked", "started"),
    "started, until the model is registered": ("started", "registered"),
    "registered, until its last gate has judged": ("registered", "judged"),
    "judged, until it is in staging": ("judged", "staged"),
    "published, until in staging": ("published", "staged"),
}
"""What is printed: the names of two moments each."""


def moments(workspace: Workspace, name: str) -> dict[str, float]:
    """Return when each step of a training run on its way to staging was done."""
    with workspace.registry() as registry:
        leaves = registry.ledger(limit=10_000)
        run = registry.run(PROJECT, name)
    of_run = [one for one in leaves if one.body and one.body.get("name") == name]
    checkpoints = [one for one in of_run if one.body and one.body.get("kind") == "checkpoint"]
    finished = next(
        one for one in leaves if one.action == "run_finish" and one.subject == run.artifact.id
    )
    after = [one for one in leaves if one.seq > finished.seq]
    staged = next(one for one in after if one.action == "promote")
    verdicts = [one for one in after if one.action == "verdict" and one.seq < staged.seq]
    models = (one for one in after if one.body and one.body.get("kind") == "model")
    with dg.DagsterInstance.from_config(str(workspace.home / "dagster")) as instance:
        records = [
            record
            for record in instance.get_run_records()
            if record.dagster_run.tags.get("dagster/partition") == name
        ]
    first = min(records, key=lambda record: record.create_timestamp)
    if first.start_time is None:
        raise SystemExit(f"the run of {name} never started")
    return {
        "published": at(checkpoints[-1]),
        "finished": at(finished),
        "asked": first.create_timestamp.timestamp(),
        "started": first.start_time,
        "registered": at(next(models)),
        "judged": at(verdicts[-1]),
        "staged": at(staged),
    }


def at(leaf: Event) -> float:
    """Return when a leaf was written."""
    return datetime.fromisoformat(leaf.time).timestamp()


def wait(done: Callable[[], bool], log: Callable[[], str]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"it never came:\n{log()[-3000:]}")
        time.sleep(0.5)


def main() -> int:
    """Print every interval and return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sensor-seconds", type=int, default=10, help="the sensors' interval")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    os.environ.setdefault("ARTIFACT_PIPELINES_HOME", "unused")
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.environment["ARTIFACT_PIPELINES_SENSOR_SECONDS"] = str(asked.sensor_seconds)
        workspace.run("-c", DATA, where=PROJECT)
        with workspace.dagster() as log:
            for number in range(asked.runs):
                name, before = f"run-{number}", workspace.staging()
                # Epochs that are better from run to run, so that each model replaces the last.
                trainer = TRAINER.replace('"epochs": 5', f'"epochs": {5 + number}')
                workspace.run("-c", trainer, name, where=PROJECT)
                wait(lambda before=before: workspace.staging() != before, log)  # type: ignore[misc]
                found = moments(workspace, name)
                for part, (start, end) in PARTS.items():
                    taken[part].append(found[end] - found[start])
    figures = {part: statistics.median(values) for part, values in taken.items()}
    for part, value in figures.items():
        every = ", ".join(f"{one:.1f}" for one in taken[part])
        print(f"{part:52} {value:8.1f} s  ({every})")
    print(f"sensor interval {asked.sensor_seconds} s, load {os.getloadavg()[0]:.1f}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")
    waited = max(taken["finished, until the sensor asks for a Dagster run"])
    if waited > asked.sensor_seconds + SLACK:
        print(f"BROKEN: the sensor took {waited:.1f} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
