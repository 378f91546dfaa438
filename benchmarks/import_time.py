"""Compare what it costs to import this package with what Dagster costs, in the same run.

A trainer imports `artifact_pipelines` on every machine it runs on, Dagster not at all.
"""

import subprocess
import sys
from collections.abc import Sequence
from statistics import median

SUBJECTS = ("artifact_pipelines", "artifact_pipelines.sdk")
YARDSTICK = "dagster"
LIMIT = 0.2  # of the yardstick
REPETITIONS = 7

# CPU time of the process that imports, less what a bare interpreter had used by then:
# wall time says more about the neighbours than about the import.
_PROBE = """
import time
before = time.process_time()
import {module}
print(time.process_time() - before)
"""


def seconds(module: str) -> float:
    """Return the CPU seconds that a fresh interpreter spends on importing a module."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROBE.format(module=module)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(ran.stdout)


def measure(modules: Sequence[str], repetitions: int) -> dict[str, float]:
    """Return the median import time of each module, measured in turns.

    One round of every module comes first and is thrown away: it fills the page cache
    and writes the bytecode.
    """
    rounds = [{module: seconds(module) for module in modules} for _ in range(repetitions + 1)]
    return {module: median(taken[module] for taken in rounds[1:]) for module in modules}


def main() -> int:
    """Print the ratios and return 1 if one is above the limit."""
    taken = measure([YARDSTICK, *SUBJECTS], REPETITIONS)
    print(f"{YARDSTICK:24} {taken[YARDSTICK]:.3f} s CPU, median of {REPETITIONS}")
    ratios = {module: taken[module] / taken[YARDSTICK] for module in SUBJECTS}
    for module, ratio in ratios.items():
        print(f"{module:24} {taken[module]:.3f} s CPU, ratio {ratio:.3f} (limit {LIMIT})")
    return int(max(ratios.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
