"""How sure a difference between two models is, from their scores on the same rows."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from artifact_pipelines.errors import InvalidFormatError

RESAMPLES: Final = 2_000
LEAST_RESAMPLES: Final = 200
MAX_DRAWS: Final = 100_000_000
BINS: Final = 40
_FEW: Final = 1_000  # different values, from which whole resamples are drawn by count
_BATCH: Final = 5_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean difference between two models, and where resamples of the rows put it.

    Attributes:
        difference: The mean of the first model's scores less the second's.
        low: The lower end of the interval.
        high: The upper end.
        confidence: The share of resamples between the two.
        rows: How many rows there are.
        resamples: How often they were drawn again.
        seed: What the generator began from; a function of the scores alone.
        histogram: How many resamples fell into each of some bins of equal width.
        edges: The ends of the first and the last bin.
    """

    difference: float
    low: float
    high: float
    confidence: float
    rows: int
    resamples: int
    seed: int
    histogram: tuple[int, ...]
    edges: tuple[float, float]

    def as_json(self) -> Mapping[str, Any]:
        """Return the interval as evidence carries it."""
        return asdict(self)


def paired_bootstrap(mine: Sequence[float], theirs: Sequence[float], confidence: float) -> Interval:
    """Return the difference of two models and its uncertainty; the same scores give the same.

    Raises:
        InvalidFormatError: The scores are not of the same rows.
    """
    if len(mine) != len(theirs) or not mine:
        raise InvalidFormatError(
            f"there are {len(mine)} scores of one model and {len(theirs)} of the other"
        )
    scores = np.asarray(mine, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    seed = int.from_bytes(hashlib.sha256(scores.tobytes()).digest()[:8], "little")
    means = _resampled(scores, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = (float(value) for value in np.quantile(means, [tail, 1 - tail]))
    histogram, edges = np.histogram(means, bins=BINS)
    return Interval(
        difference=float(scores.mean()),
        low=low,
        high=high,
        confidence=confidence,
        rows=len(scores),
        resamples=len(means),
        seed=seed,
        histogram=tuple(int(count) for count in histogram),
        edges=(float(edges[0]), float(edges[-1])),
    )


def _resampled(scores: "np.ndarray[Any, Any]", generator: np.random.Generator) -> Any:  # noqa: ANN401 (an array)
    """Return the mean of each resample."""
    rows = len(scores)
    values, counts = np.unique(scores, return_counts=True)
    if len(values) <= _FEW:
        # How often each value is drawn is all that a mean needs.
        drawn = generator.multinomial(rows, counts / rows, size=RESAMPLES)
        return drawn @ values / rows
    resamples = max(LEAST_RESAMPLES, min(RESAMPLES, MAX_DRAWS // rows))
    batch = max(1, _BATCH // rows)
    means = np.empty(resamples)
    for start in range(0, resamples, batch):
        stop = min(start + batch, resamples)
        drawn = generator.integers(rows, size=(stop - start, rows))
        means[start:stop] = scores[drawn].mean(axis=1)
    return means
