"""Compare how long a checkpoint keeps a training waiting with writing it by safetensors.

Both write the same tensors to the same disk, in turns. `spaced` is a training whose steps
leave time to publish; `in a row` saves again at once, so that what waits runs full.
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

from artifact_pipelines import start_run

LIMIT = 1.3  # of save_file, spaced
MEGABYTES = 256
REPETITIONS = 7
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
            begin = time.perf_counter()
            for step in range(REPETITIONS):
                row[step % 3]["layer.0"][0] = step
                run.checkpoint(row[step % 3], step=step)
            in_a_row = (time.perf_counter() - begin) / REPETITIONS
            begin = time.perf_counter()
        rest = time.perf_counter() - begin
    written, waited = median(plain[1:]), median(blocked[1:])
    print(f"safetensors save_file    {written:.3f} s for {MEGABYTES} MiB, median of {REPETITIONS}")
    print(f"checkpoint, spaced       {waited:.3f} s, ratio {waited / written:.2f} (limit {LIMIT})")
    print(
        f"checkpoint, in a row     {in_a_row:.3f} s, ratio {in_a_row / written:.2f}, "
        f"and {rest:.1f} s at the end"
    )
    return int(waited / written > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
