"""A function that serves a model with the standard library alone."""

import struct
from pathlib import Path


def weight_of(model: Path, rows: dict[str, list[float]]) -> list[float]:
    """Serve a model: its mean weight times the scale, in plain Python."""
    data = (model / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights = [value for (value,) in struct.iter_unpack("<f", data[start:])]
    return [sum(weights) / len(weights) * scale for scale in rows["scale"]]
