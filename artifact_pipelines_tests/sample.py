"""A user's module: a loader, a schema, a trainer and a measure that do what they are told."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from artifact_pipelines import Run


def table(rows: int = 6, lowest: int = 0) -> pd.DataFrame:
    """Return rows that count up."""
    return pd.DataFrame({"x": range(lowest, lowest + rows), "y": [0.5] * rows})


def arrays(rows: int = 6) -> dict[str, Any]:
    """Return two arrays."""
    return {"x": np.arange(rows), "y": np.zeros((rows, 2), dtype="f4")}


def folder(path: str) -> Path:
    """Return a folder of files."""
    return Path(path)


def broken() -> None:
    """Raise."""
    raise ValueError("the warehouse is closed")


def nothing() -> int:
    """Return what is no data."""
    return 7


def talkative(run: Run) -> None:
    """Train and say how it goes between the checkpoints."""
    for step in range(1, 5):
        run.log({"loss": 1 / step}, step=step)
        if step % 2 == 0:
            run.checkpoint({"w": np.full(2, step)}, step=step, metrics={"accuracy": step / 10})


def fit(run: Run) -> None:
    """Save a checkpoint per epoch whose accuracy is its step, and end as `end` says."""
    run.dataset("rows")
    epochs, end = int(run.params["epochs"]), run.params.get("end", "well")
    first = 1 if run.resume is None else run.resume.step + 1
    for step in range(first, epochs + 1):
        weights = {"w": np.full(4, step, dtype="f4") + np.float32(run.params.get("seed", 0))}
        accuracy = float("nan") if end == "nan" else step / 10
        run.checkpoint(weights, step=step, metrics={"accuracy": accuracy, "loss": 1 / step})
    if end == "raise":
        raise RuntimeError("out of luck")
    if end == "killed":
        assert run.checkpoints, "what was handed over is registered first"
        os.kill(os.getpid(), signal.SIGKILL)


def measure(model: Path, _frame: pd.DataFrame) -> Mapping[str, float]:
    """Return as accuracy a tenth of the weight, above 4 a little less."""
    weight = float(load_file(model / "model.safetensors")["w"][0])
    return {"accuracy": weight / 10 if weight <= 4 else 0.05}
