"""Handwritten digits in the order they were collected, and what they must look like."""

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.typing.pandas import Series
from sklearn.datasets import load_digits

PIXELS = [f"pixel_{index:02}" for index in range(64)]
CLASSES = 10


def load(start: int, stop: int) -> pd.DataFrame:
    """Return the digits from row `start` up to row `stop`, one image of 8 by 8 pixels a row."""
    bunch = load_digits()
    if not 0 <= start < stop <= len(bunch.data):
        message = f"rows {start} to {stop} are not all among the {len(bunch.data)} digits."
        raise ValueError(message)
    frame = pd.DataFrame(bunch.data[start:stop].astype(np.uint8), columns=PIXELS)
    frame["label"] = bunch.target[start:stop].astype(np.int64)
    return frame


class Images(pa.DataFrameModel):
    """Images of 64 grey values from 0 to 16, each with the digit it shows."""

    pixels: Series[np.uint8] = pa.Field(alias=r"^pixel_\d{2}$", regex=True, ge=0, le=16)
    label: Series[np.int64] = pa.Field(ge=0, lt=CLASSES)

    class Config:
        """No column beside these, and none of another type."""

        strict = True

    @pa.dataframe_check(error="64 columns of pixels")
    @classmethod
    def whole_images(cls, frame: pd.DataFrame) -> bool:
        """Return whether every pixel has its column."""
        return set(PIXELS) <= set(frame.columns)
