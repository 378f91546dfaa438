"""Evaluation functions that the tests' policies name."""

from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file


def mean_weight(model: Path, frame: pd.DataFrame) -> dict[str, float]:
    """Return the mean of a model's weights, scaled by the rows it is measured on."""
    weights = load_file(model / "model.safetensors")["weight"]
    return {"score": float(weights.mean()) * float(frame["scale"].iloc[0])}


def broken(model: Path, frame: pd.DataFrame) -> dict[str, float]:
    """Fail as users' code does."""
    raise RuntimeError(f"no score for {model.name} on {len(frame)} rows")


def nothing(model: Path, frame: pd.DataFrame) -> dict[str, float]:
    """Return a figure that is no number."""
    assert model.is_dir()
    assert len(frame)
    return {"score": float("nan")}
