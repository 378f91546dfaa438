"""A model of who comes back, trained on the warehouse's customers."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from artifact_pipelines.sdk import Run

Floats = NDArray[np.float64]


def fit(run: Run) -> None:
    """Train, and save a checkpoint after every epoch."""
    frame: pd.DataFrame = run.dataset("customers")
    x, y = features(frame), frame["returned"].to_numpy(dtype=np.float64)
    done = 0 if run.resume is None else run.resume.step
    weights = np.zeros(x.shape[1]) if run.resume is None else run.resume.tensors["weights"]
    rate = float(run.params["lr"])
    for epoch in range(done, int(run.params["epochs"])):
        for _ in range(50):
            weights = weights + rate * x.T @ (y - probability(weights, x)) / len(y)
        metrics = {"accuracy": accuracy(weights, frame)}
        run.checkpoint({"weights": weights}, step=epoch + 1, metrics=metrics)


def evaluate(model: Path, frame: pd.DataFrame) -> dict[str, float]:
    """Return how well the model in a folder tells who of the customers came back."""
    return {"accuracy": accuracy(load_file(model / "model.safetensors")["weights"], frame)}


def features(frame: pd.DataFrame) -> Floats:
    """Return what the model sees of each customer, in comparable sizes."""
    columns = [frame["orders"] / 6 - 1, frame["spent"] / 40 - 1]
    found: Floats = np.stack([np.ones(len(frame)), *columns], axis=1)
    return found


def probability(weights: Floats, x: Floats) -> Floats:
    """Return how likely each customer is to come back."""
    found: Floats = 1 / (1 + np.exp(-x @ weights))
    return found


def accuracy(weights: Floats, frame: pd.DataFrame) -> float:
    """Return the share of customers that the weights tell right."""
    said = probability(weights, features(frame)) > 0.5  # noqa: PLR2004 (as likely as not)
    return float((said == frame["returned"].to_numpy()).mean())
