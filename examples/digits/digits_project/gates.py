"""A gate of the team's own: a model must know how sure it may be."""

from typing import Any

import numpy as np
from safetensors.numpy import load_file

from artifact_pipelines.gates.jobs import GateCase
from digits_project.serve import features, forward
from digits_project.train import softmax

BINS = 10


def calibration(case: GateCase, limit: float) -> dict[str, Any]:
    """Pass a model whose confidence is, on the mean, within a limit of how often it is right."""
    if case.data is None:
        raise ValueError("calibration is measured on the evaluation data, and there is none.")
    _, scores = forward(load_file(case.model / "model.safetensors"), features(case.data))
    sure = softmax(scores).max(axis=1)
    right = scores.argmax(axis=1) == case.data["label"].to_numpy()
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    shown = {
        f"{each / BINS:.1f}": {
            "images": int((bins == each).sum()),
            "sure": float(sure[bins == each].mean()),
            "right": float(right[bins == each].mean()),
        }
        for each in np.unique(bins)
    }
    gap = sum(one["images"] * abs(one["sure"] - one["right"]) for one in shown.values()) / len(bins)
    return {
        "passed": gap <= limit,
        "reasons": [f"confidence is off by {gap:.3f} on the mean, and {limit} is allowed"],
        "values": {"gap": gap},
        "evidence": {"bins": shown},
    }
