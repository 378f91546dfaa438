"""Compare how long a checkpoint keeps a training waiting with writing it by safetensors.

Both write the same tensors to the same disk, in turns. `spaced` is a training whose steps
leave time to publish. `in a row` saves at once again and again, as many as may wait: first
into new memory, then into what the first ones left. `without end` goes on beyond that, so
that each waits for one before it to be published.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from artifact_pipelines import Run, start_run

LIMIT = 1.3  # of save_file, spaced and in a row
MEGABYTES = 256
REPETITIONS = 7
WAITING = 7  # as many as may wait to be published, at 2 GiB
ENDLESS = 16
TENSORS = 64


def tensors(step: int) -> dict[str, NDArray[np.float32]]:
    """Return weights as a training would have them: all of them changed."""
    rng = np.random.default_rng(step)
    count = MEGABYTES * 2**20 // TENSORS // 4
    return {f"layer.{n}": rng.random(count, dtype=np.float32) for n in range(TENSORS)}


def main() -> int:
    """Print the ratios and return 1 if the first is above the limit."""
    plain: list[float] = []
    blocked: list[float] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR")) as folder:
        with start_run("benchmark", "spaced", home=Path(folder) / "home") as run:
            for step in range(REPETITIONS + 1):
                weights = tensors(step)
                begin = time.perf_counter()
                save_file(weights, Path(folder) / f"{step % 2}.safetensors")
                plain.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                saved = run.checkpoint(weights, step=step)
                blocked.append(time.perf_counter() - begin)
                saved.wait()
        row = [tensors(step) for step in range(3)]
        with start_run("benchmark", "row", home=Path(folder) / "home") as run:
            new, again, endless = (
                in_a_row(run, row, first, count)
                for first, count in ((0, WAITING), (WAITING, WAITING), (2 * WAITING, ENDLESS))
            )
    written, waited = median(plain[1:]), median(blocked[1:])
    print(f"safetensors save_file    {written:.3f} s for {MEGABYTES} MiB, median of {REPETITIONS}")
    for name, taken, limit in (
        ("spaced", waited, f" (limit {LIMIT})"),
        ("in a row, new memory", new, f" (limit {LIMIT})"),
        ("in a row, used memory", again, f" (limit {LIMIT})"),
        ("without end", endless, ""),
    ):
        print(f"checkpoint, {name:22} {taken:.3f} s, ratio {taken / written:.2f}{limit}")
    return int(max(waited, new, again) / written > LIMIT)


def in_a_row(run: Run, row: list[dict[str, NDArray[np.float32]]], first: int, count: int) -> float:
    """Return how long each of some checkpoints takes that follow each other at once."""
    begin = time.perf_counter()
    for step in range(first, first + count):
        row[step % 3]["layer.0"][0] = step
        run.checkpoint(row[step % 3], step=step)
    taken = (time.perf_counter() - begin) / count
    assert run.checkpoints, "what was handed over is registered first"  # noqa: S101
    return taken


if __name__ == "__main__":
    sys.exit(main())
