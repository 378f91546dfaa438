"""A small network trained with Adam, which resumes exactly where it stopped."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from artifact_pipelines.sdk import ResumePoint, Run
from digits_project.data import CLASSES, PIXELS
from digits_project.serve import Floats, features, forward, predict

Labels = NDArray[np.int64]

BATCH = 48
FOLDS = 5  # every fifth image validates
BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Cosine:
    """A learning rate that falls from `peak` to a twentieth of it over `horizon` steps."""

    peak: float
    horizon: int

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        done = min(step / self.horizon, 1.0)
        return float(self.peak * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * done))))


@dataclass(slots=True)
class State:
    """Everything that the next step depends on.

    Attributes:
        step: The number of steps taken.
        weights: The network.
        moments: Adam's first and second moments of each weight.
        schedule: The learning rate's course.
        generator: The state of the generator that shuffles the images.
    """

    step: int
    weights: dict[str, Floats]
    moments: dict[str, Floats]
    schedule: Cosine
    generator: dict[str, Any]

    @classmethod
    def fresh(cls, *, hidden: int, seed: int, schedule: Cosine) -> Self:
        """Return a state with random weights."""
        generator = np.random.default_rng(seed)
        shapes = {"hidden": (len(PIXELS), hidden), "output": (hidden, CLASSES)}
        weights: dict[str, Floats] = {}
        for layer, (rows, columns) in shapes.items():
            scale = np.float32(np.sqrt(2 / rows))
            weights[f"{layer}.weight"] = scale * generator.standard_normal(
                (rows, columns), dtype=np.float32
            )
            weights[f"{layer}.bias"] = np.zeros(columns, dtype=np.float32)
        moments = {
            f"{moment}.{name}": np.zeros_like(tensor)
            for moment in ("first", "second")
            for name, tensor in weights.items()
        }
        return cls(0, weights, moments, schedule, dict(generator.bit_generator.state))

    @classmethod
    def restored(cls, point: ResumePoint) -> Self:
        """Return the state that a checkpoint holds."""
        return cls(
            step=point.step,
            weights={name: np.array(tensor) for name, tensor in point.tensors.items()},
            moments={name: np.array(tensor) for name, tensor in point.optimizer.items()},
            schedule=Cosine(float(point.scheduler["peak"]), int(point.scheduler["horizon"])),
            generator=dict(point.rng),
        )

    def descend(self, x: Floats, y: Labels) -> None:
        """Take one step of Adam on a batch."""
        hidden, scores = forward(self.weights, x)
        error = softmax(scores)
        error[np.arange(len(y)), y] -= 1
        error /= np.float32(len(y))
        hidden_error = (error @ self.weights["output.weight"].T) * (hidden > 0)
        gradients = {
            "hidden.weight": x.T @ hidden_error,
            "hidden.bias": hidden_error.sum(axis=0),
            "output.weight": hidden.T @ error,
            "output.bias": error.sum(axis=0),
        }
        rate = self.schedule.rate(self.step)
        self.step += 1
        for name, gradient in gradients.items():
            first, second = self.moments[f"first.{name}"], self.moments[f"second.{name}"]
            first += np.float32(1 - BETAS[0]) * (gradient - first)
            second += np.float32(1 - BETAS[1]) * (gradient * gradient - second)
            mean = first / np.float32(1 - BETAS[0] ** self.step)
            spread = np.sqrt(second / np.float32(1 - BETAS[1] ** self.step))
            self.weights[name] -= np.float32(rate) * mean / (spread + np.float32(EPSILON))


def fit(run: Run) -> None:
    """Train on the images of a run and register a checkpoint every few epochs."""
    frame = run.dataset("images")
    x, y = features(frame), frame["label"].to_numpy(dtype=np.int64)
    held_back = np.arange(len(frame)) % FOLDS == FOLDS - 1
    for state in training(x[~held_back], y[~held_back], run):
        _, scores = forward(state.weights, x[held_back])
        run.checkpoint(
            state.weights,
            step=state.step,
            metrics={"loss": loss(scores, y[held_back])}
            | quality(scores.argmax(axis=1), y[held_back]),
            optimizer=state.moments,
            scheduler={"kind": "cosine"}
            | {"peak": state.schedule.peak, "horizon": state.schedule.horizon},
            rng=state.generator,
        )


def training(x: Floats, y: Labels, run: Run) -> Iterator[State]:
    """Yield the state of a training each time a checkpoint is due."""
    per_epoch = len(x) // BATCH
    epochs = int(run.params["epochs"])
    if run.resume is None:
        schedule = Cosine(float(run.params["lr"]), horizon=epochs * per_epoch)
        hidden, seed = int(run.params["hidden"]), int(run.params["seed"])
        state = State.fresh(hidden=hidden, seed=seed, schedule=schedule)
    else:
        state = State.restored(run.resume)
    generator = np.random.default_rng()
    generator.bit_generator.state = state.generator
    for epoch in range(state.step // per_epoch, epochs):
        order = generator.permutation(len(x))
        for batch in order[: per_epoch * BATCH].reshape(per_epoch, BATCH):
            state.descend(x[batch], y[batch])
        state.generator = dict(generator.bit_generator.state)
        if (epoch + 1) % int(run.params["checkpoint_every"]) == 0:
            yield state


def evaluate(model: Path, frame: pd.DataFrame) -> dict[str, float | NDArray[np.float64]]:
    """Return how well the model in the directory `model` reads the images of a frame."""
    seen, labels = predict(model, frame), frame["label"].to_numpy(dtype=np.int64)
    # A score for each image: from them come the slices, and how sure a difference is.
    return quality(seen, labels) | {"accuracy": (seen == labels).astype(np.float64)}


def softmax(scores: Floats) -> Floats:
    """Return the probability of each class."""
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Floats = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities


def loss(scores: Floats, labels: Labels) -> float:
    """Return the mean cross-entropy."""
    chosen = softmax(scores)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, np.float32(1e-12))).mean())


def recall(seen: Labels, labels: Labels) -> dict[int, float]:
    """Return, for each digit that occurs, the share of its images that was read right."""
    return {
        int(digit): float((seen[labels == digit] == digit).mean()) for digit in np.unique(labels)
    }


def quality(seen: Labels, labels: Labels) -> dict[str, float]:
    """Return the accuracy and the recall of the digit that is read worst."""
    return {
        "accuracy": float((seen == labels).mean()),
        "worst_class_recall": min(recall(seen, labels).values()),
    }
