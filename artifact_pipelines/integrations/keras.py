"""Keras: a callback that saves weights and optimizer after each epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from artifact_pipelines.sdk import ResumePoint, Run


class RunCallback(keras.callbacks.Callback):
    """Saves a checkpoint every so many epochs; its step counts the optimizer's."""

    def __init__(self, run: Run, every: int = 1) -> None:
        """Save to a run."""
        super().__init__()
        self.run = run
        self.every = every

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Hand over the weights, seed generators and optimizer as they are now."""
        if (epoch + 1) % self.every:
            return
        optimizer = self.model.optimizer
        self.run.checkpoint(
            arrays_of(self.model.variables),
            step=int(optimizer.iterations),
            epoch=epoch + 1,
            metrics=logs,
            optimizer=arrays_of(optimizer.variables),
            about={
                "framework": "keras",
                "optimizer": {"class": type(optimizer).__name__},
                "learning_rate": float(optimizer.learning_rate),
                # Dropout and shuffling layers draw from variables of the model.
                "holds": ["rng"],
            },
        )


def restore(point: ResumePoint, model: keras.Model) -> int:
    """Bring a compiled, built model to a checkpoint, and return the epoch to go on from."""
    model.optimizer.build(model.trainable_variables)
    assign(model.variables, point.tensors)
    assign(model.optimizer.variables, point.optimizer)
    return int(point.epoch or 0)


def arrays_of(variables: Sequence[Any]) -> dict[str, Any]:
    """Return the values of variables by place and path: paths alone may repeat."""
    return {
        f"{place:04d}.{variable.path}": np.asarray(keras.ops.convert_to_numpy(variable.value))
        for place, variable in enumerate(variables)
    }


def assign(variables: Sequence[Any], arrays: Mapping[str, Any]) -> None:
    """Give variables the values that `arrays_of` took."""
    for variable, name in zip(variables, sorted(arrays), strict=True):
        variable.assign(arrays[name])
