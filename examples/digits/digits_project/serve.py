"""What serving needs: numpy, safetensors and the weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float32]


def features(frame: pd.DataFrame) -> Floats:
    """Return the pixels of each image, centred and scaled by the image's own contrast."""
    pixels = frame.filter(regex=r"^pixel_\d{2}$").to_numpy(dtype=np.float32)
    centred = pixels - pixels.mean(axis=1, keepdims=True)
    scaled: Floats = centred / (pixels.std(axis=1, keepdims=True) + np.float32(0.016))
    return scaled


def forward(weights: Mapping[str, Floats], x: Floats) -> tuple[Floats, Floats]:
    """Return the hidden layer and the scores of each class."""
    hidden = np.maximum(x @ weights["hidden.weight"] + weights["hidden.bias"], 0)
    return hidden, hidden @ weights["output.weight"] + weights["output.bias"]


def predict(model: Path, frame: pd.DataFrame) -> NDArray[np.int64]:
    """Return the digit that the model in the directory `model` sees in each image."""
    _, scores = forward(load_file(model / "model.safetensors"), features(frame))
    digits: NDArray[np.int64] = scores.argmax(axis=1)
    return digits
