"""A user's Pandera schema."""

import time

import pandas as pd
import pandera.pandas as pa
from pandera.typing.pandas import Series


class Endless(pa.DataFrameModel):
    """Rows whose check takes as long as it likes."""

    @pa.dataframe_check
    @classmethod
    def slow(cls, frame: pd.DataFrame) -> bool:
        """Never say."""
        while len(frame):
            time.sleep(1)
        return True


class Rows(pa.DataFrameModel):
    """Rows that count up from zero or more."""

    x: Series[int] = pa.Field(ge=0)
    y: Series[float]


class Scores(pa.DataFrameModel):
    """Predictions between nought and one."""

    prediction: Series[float] = pa.Field(ge=0, le=1)
