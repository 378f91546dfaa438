"""Plain PyTorch: a training with its optimizer, schedule and random generators."""

import random
from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np
import torch

from artifact_pipelines.sdk import ResumePoint, Run
from artifact_pipelines.sdk.parallel import layout_of
from artifact_pipelines.sdk.running import MODEL_FILE, OPTIMIZER_FILE
from artifact_pipelines.sdk.saving import Saved
from artifact_pipelines.sdk.state import joined


def checkpoint(
    run: Run,
    model: torch.nn.Module,
    *,
    step: int,
    metrics: Mapping[str, SupportsFloat] | None = None,
    epoch: float | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    state: Mapping[str, torch.Tensor] | None = None,
) -> Saved:
    """Hand over a checkpoint with everything that the next step depends on.

    Where a model is spread over processes, gather its state and pass it as well; one process
    hands it over.
    """
    weights = model.state_dict() if state is None else state
    spread = layout_of(model, weights)
    return run.checkpoint(
        weights,
        about={"parallel": spread} if spread else None,
        step=step,
        metrics=metrics,
        epoch=epoch,
        optimizer=optimizer,
        scheduler=scheduler,
        rng=rng_state(),
    )


def restore(
    point: ResumePoint,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> int:
    """Bring a training to where a checkpoint was taken, and return its step."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(point.folder / MODEL_FILE))
    if optimizer is not None:
        arrays = load_file(point.folder / OPTIMIZER_FILE)
        optimizer.load_state_dict(joined(point.optimizer_form, arrays))
    if scheduler is not None:
        scheduler.load_state_dict(dict(point.scheduler))
    if point.rng:
        restore_rng(point.rng)
    return point.step


def rng_state() -> dict[str, Any]:
    """Return the state of every generator that a PyTorch training may draw from."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (trainers use it, and so must we)
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Bring the generators back to a state."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002 (as above)
    torch.set_rng_state(torch.as_tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
