"""PyTorch Lightning: a CheckpointIO that saves to a run, and a logger whose figures go with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.io import CheckpointIO

from artifact_pipelines.integrations.torch import restore_rng, rng_state
from artifact_pipelines.sdk import ResumePoint, Run
from artifact_pipelines.sdk.running import MODEL_FILE, OPTIMIZER_FILE
from artifact_pipelines.sdk.state import joined


class RunLogger(Logger):
    """The figures that Lightning logs; the newest of each goes with the next checkpoint."""

    def __init__(self, run: Run) -> None:
        """Begin without figures."""
        super().__init__()
        self.run = run
        self.newest: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The project."""
        return self.run.project

    @property
    def version(self) -> str:
        """The run."""
        return self.run.name

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep the newest figures."""
        del step
        self.newest.update(metrics)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Leave the parameters as they are: a run's are fixed when it begins."""


class RunCheckpointIO(CheckpointIO):
    """Checkpoints that go to a run instead of a path; `Trainer.fit(ckpt_path=…)` resumes them."""

    def __init__(self, run: Run, logger: RunLogger | None = None) -> None:
        """Save to a run, with the figures of a logger."""
        self.run = run
        self.logger = logger
        self._steps = {saved.step for saved in run.checkpoints}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Hand a checkpoint over; a second one of the same step holds the same weights."""
        del path, storage_options
        step = int(checkpoint["global_step"])
        if step in self._steps:
            return
        self._steps.add(step)
        rest = {name: value for name, value in checkpoint.items() if name != "state_dict"}
        self.run.checkpoint(
            checkpoint["state_dict"],
            step=step,
            epoch=int(checkpoint["epoch"]),
            metrics={} if self.logger is None else self.logger.newest,
            optimizer=rest,
            rng=rng_state(),
            about={"framework": "lightning", "holds": ["scheduler"]},
        )

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the checkpoint that a reference such as `digits/run-1@40` names."""
        from safetensors.torch import load_file

        point: ResumePoint = self.run.resume_point(Path(path).as_posix())
        restore_rng(point.rng)
        rest = joined(point.optimizer_form, load_file(point.folder / OPTIMIZER_FILE))
        return {**rest, "state_dict": load_file(point.folder / MODEL_FILE)}

    def remove_checkpoint(self, path: Any) -> None:
        """Leave it: what a project keeps is its retention policy's matter."""
