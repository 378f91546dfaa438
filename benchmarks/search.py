"""Measure an indexed search beside MLflow's `search_runs`, over as many runs in the same run.

MLflow's store is SQLite, and analysed: without statistics its plan takes a hundred times as
long, which is no fair comparison. It needs a Python that has mlflow, in an environment of its
own, named by the variable MLFLOW_PYTHON; without one nothing is compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.keys import KeyFolder
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines_tests.histories import METRICS, STEPS, History, fill

LEAST = 10.0
"""How many times as fast as MLflow a search has to be."""
TIMES = 50
QUESTIONS = {
    "by a metric, the best 50": (
        "metrics.accuracy > 0.97",
        "metrics.accuracy DESC",
        "kind = checkpoint and metrics.accuracy > 0.97 order by metrics.accuracy desc limit 50",
    ),
    "by two metrics, the newest 50": (
        "metrics.accuracy > 0.97 and metrics.loss < 0.99",
        "attributes.start_time DESC",
        "kind = checkpoint and metrics.accuracy > 0.97 and metrics.loss < 0.99 limit 50",
    ),
}

# One run is logged through MLflow's own interface; the others are its rows with other names
# and values, since logging 20,000 runs would take minutes.
MLFLOW = r"""
import json, random, sqlite3, statistics, sys, time
from mlflow import MlflowClient

file, count, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
questions, names = json.loads(sys.argv[4]), json.loads(sys.argv[5])
client = MlflowClient("sqlite:///" + file)
experiment = client.create_experiment("bench", artifact_location="/nowhere")
first = client.create_run(experiment)
for name in names:
    client.log_metric(first.info.run_id, name, 0.5)
client.set_terminated(first.info.run_id)

dice = random.Random(0)
db = sqlite3.connect(file)
tables = {}
for table in ("runs", "latest_metrics", "metrics", "tags", "params"):
    columns = [row[1] for row in db.execute(f"pragma table_info({table})")]
    rows = db.execute(f"select * from {table} where run_uuid = ?", (first.info.run_id,)).fetchall()
    tables[table] = (columns, rows)
made = {table: [] for table in tables}
for number in range(count - 1):
    values = {name: round(1 - 0.9 / (1 + number % 98) + dice.random() / 20, 4) for name in names}
    for table, (columns, rows) in tables.items():
        for row in rows:
            new = dict(zip(columns, row), run_uuid=f"{number:032x}")
            if "key" in new and table.endswith("metrics"):
                new["value"] = values[new["key"]]
            if table == "runs":
                new["start_time"] += number
            made[table].append(list(new.values()))
for table, rows in made.items():
    if rows:
        db.executemany(f"insert into {table} values ({','.join('?' * len(rows[0]))})", rows)
db.commit()
db.execute("analyze")
db.close()

client = MlflowClient("sqlite:///" + file)
found = {}
for name, (asked, order) in questions.items():
    taken = []
    for number in range(times + 1):
        began = time.perf_counter()
        page = client.search_runs([experiment], asked, order_by=[order], max_results=50)
        taken.append(time.perf_counter() - began)
    assert len(page) == 50, (name, len(page))
    found[name] = taken[1:]
print(json.dumps(found))
"""


def mlflow(python: str, folder: Path, runs: int) -> dict[str, list[float]]:
    """Return how long MLflow's searches took, by question."""
    questions = {name: asked[:2] for name, asked in QUESTIONS.items()}
    ran = subprocess.run(
        [
            *(python, "-c", MLFLOW, str(folder / "mlflow.db"), str(runs), str(TIMES)),
            *(json.dumps(questions), json.dumps(METRICS)),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
    )
    found: dict[str, list[float]] = json.loads(ran.stdout.splitlines()[-1])
    return found


def ours(folder: Path, runs: int) -> dict[str, list[float]]:
    """Return how long this registry's searches took over as many checkpoints, by question."""
    catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    found: dict[str, list[float]] = {}
    with Registry(catalog, MemoryBackend(), KeyFolder(folder / "keys"), "benchmark") as registry:
        fill(catalog, History(round(runs * (STEPS + 2) / STEPS)))
        for name, (_, _, query) in QUESTIONS.items():
            asked = f'project = "project-0000" and {query}'
            if len(registry.search(asked)) != 50:  # noqa: PLR2004  the limit that was asked for
                raise SystemExit(f"{name}: too few are found to compare")
            found[name] = []
            for _ in range(TIMES):
                began = time.perf_counter()
                registry.search(asked)
                found[name].append(time.perf_counter() - began)
    return found


def main() -> int:
    """Print each figure and return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    asked = parser.parse_args()
    python = os.environ.get("MLFLOW_PYTHON")
    broken = False
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        folder = Path(made)
        mine = ours(folder, asked.runs)
        theirs = mlflow(python, folder, asked.runs) if python else {}
    if not python:
        print("MLFLOW_PYTHON names no Python with mlflow, so nothing is compared.", file=sys.stderr)
    for name, taken in mine.items():
        print(f"{name}: this registry {_shown(taken)}")
        if name in theirs:
            ratio = statistics.median(theirs[name]) / statistics.median(taken)
            kept = ratio >= LEAST
            broken |= not kept
            print(f"{name}: MLflow {_shown(theirs[name])}")
            print(f"{name}: {ratio:.0f}x (at least {LEAST:g}){'' if kept else '  BROKEN'}")
    return int(broken)


def _shown(taken: list[float]) -> str:
    worst = sorted(taken)[max(0, round(len(taken) * 0.99) - 1)]
    return f"{1e3 * statistics.median(taken):.2f} ms, p99 {1e3 * worst:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
