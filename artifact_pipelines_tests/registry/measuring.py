"""Evaluation functions that the tests' policies name."""

from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates.jobs import GateCase


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


def by_row(model: Path, frame: pd.DataFrame) -> dict[str, object]:
    """Return the score of each row, which is the weight where the label is its sign."""
    weight = float(load_file(model / "model.safetensors")["weight"].mean())
    right = (frame["label"] == "yes").to_numpy() * weight
    return {"score": right, "rows": len(frame)}


def by_hardness(model: Path, frame: pd.DataFrame) -> dict[str, object]:
    """Return, for each row, whether the weight is above what the row asks."""
    weight = float(load_file(model / "model.safetensors")["weight"].mean())
    return {"score": (weight > frame["hardness"]).to_numpy(dtype=float)}


def hangs(model: Path, frame: pd.DataFrame) -> dict[str, float]:
    """Take as long as it likes."""
    import time

    while model.is_dir():
        time.sleep(len(frame))
    return {}


def kills(model: Path, frame: pd.DataFrame) -> dict[str, float]:
    """End its process for a weak model, and measure a strong one."""
    import os

    found = mean_weight(model, frame)
    if found["score"] < 0.5:
        os._exit(3)
    return found


def fair(case: GateCase, limit: float) -> Finding:
    """Pass a model whose score is at least a limit, and tell what it was compared to."""
    assert case.data is not None
    passed = case.metrics["score"] >= limit
    return Finding(
        "whatever",
        passed=bool(passed),
        reasons=(f"the score is {case.metrics['score']:.2f}, and {limit} is asked",),
        values={"rows_seen": len(case.data)},
        evidence={"baseline": case.baseline is not None, "gates": case.policy["gates"]},
    )


def forges(case: GateCase) -> Finding:
    """Replace the model that the gates after it look at."""
    (case.model / "model.safetensors").write_bytes(b"")
    return Finding("whatever", passed=True, reasons=("fine",))


def predicted(model: Path, frame: pd.DataFrame) -> list[float]:
    """Return a prediction for each row."""
    return [mean_weight(model, frame)["score"]] * len(frame)


def half_predicted(model: Path, frame: pd.DataFrame) -> list[float]:
    """Forget a row."""
    return predicted(model, frame)[1:]


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return features of the data."""
    return frame[["scale"]] * 2
