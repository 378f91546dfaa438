"""Hugging Face Trainer: a callback that registers each checkpoint folder as it is written."""

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from artifact_pipelines.sdk import Run

_STATE = {"optimizer.pt": "optimizer", "scheduler.pt": "scheduler", "rng_state.pth": "rng"}


class RunCallback(TrainerCallback):
    """Registers what `Trainer` saves, with the figures that it logged last."""

    def __init__(self, run: Run) -> None:
        """Save to a run."""
        self.run = run
        self._steps = {saved.step for saved in run.checkpoints}

    def on_save(self, args: Any, state: Any, _control: Any, **given: Any) -> None:
        """Register the folder that was just written, before `Trainer` may rotate it away."""
        step = int(state.global_step)
        if step in self._steps or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{step}"
        metrics: dict[str, float] = {}
        for entry in state.log_history:
            metrics |= {
                name: float(value)
                for name, value in entry.items()
                if isinstance(value, int | float) and name not in {"step", "epoch"}
            }
        optimizer = getattr(given.get("optimizer"), "optimizer", given.get("optimizer"))
        about: dict[str, Any] = {
            "framework": "transformers",
            "holds": [part for name, part in _STATE.items() if (folder / name).is_file()],
        }
        if optimizer is not None:
            kind = type(optimizer)
            about["optimizer"] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
            about["learning_rate"] = [float(group["lr"]) for group in optimizer.param_groups]
        self.run.checkpoint(folder, step=step, epoch=state.epoch, metrics=metrics, about=about)
        self._steps.add(step)


def resume_folder(run: Run, output_dir: str | Path) -> str | None:
    """Return the folder to pass as `resume_from_checkpoint`, with the newest checkpoint in it.

    Half-written folders that a killed training left there are removed first: `Trainer` would
    take the one with the highest number, whole or not.
    """
    for folder in Path(output_dir).glob("checkpoint-*"):
        shutil.rmtree(folder)
    if run.resume is None:
        return None
    target = Path(output_dir) / f"checkpoint-{run.resume.step}"
    shutil.copytree(run.resume.folder, target)
    return str(target)
