"""A model whose answers are its inputs times a factor, as itself and as its ONNX export."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def features(frame: pd.DataFrame) -> NDArray[np.float32]:
    """Return what the export is fed."""
    return frame[["scale"]].to_numpy(dtype=np.float32)


def scores(model: Path, frame: pd.DataFrame) -> NDArray[np.float32]:
    """Return what the model answers."""
    return features(frame) * np.float32((model / "factor.txt").read_text())


def wide_scores(model: Path, frame: pd.DataFrame) -> NDArray[np.float32]:
    """Return answers of another shape."""
    return np.repeat(scores(model, frame), 2, axis=1)


def export(factor: float) -> bytes:
    """Return the ONNX export of a model."""
    from onnx import TensorProto, helper  # type: ignore[import-not-found,import-untyped,unused-ignore]

    shape: list[Any] = [None, 1]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    opset = [helper.make_opsetid("", 13)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    data: bytes = made.SerializeToString()
    return data
