"""A user's Pandera schema."""

import pandera.pandas as pa
from pandera.typing.pandas import Series


class Rows(pa.DataFrameModel):
    """Rows that count up from zero or more."""

    x: Series[int] = pa.Field(ge=0)
    y: Series[float]
