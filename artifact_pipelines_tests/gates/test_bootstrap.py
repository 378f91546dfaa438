"""The bootstrap tells how sure a difference is, the same way each time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.errors import InvalidFormatError
from artifact_pipelines.gates import bootstrap
from artifact_pipelines.gates.bootstrap import paired_bootstrap

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(SCORES)
def test_a_model_does_not_differ_from_itself(scores: list[float]) -> None:
    found = paired_bootstrap(scores, scores, 0.95)

    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


@given(SCORES, st.floats(-10, 10))
def test_the_interval_lies_within_the_differences_and_is_the_same_again(
    scores: list[float], shift: float
) -> None:
    others = [score * 0.5 + shift for score in scores]
    found = paired_bootstrap(scores, others, 0.9)
    differences = np.asarray(scores) - np.asarray(others)
    slack = 1e-6 * (1 + np.abs(differences).max())

    assert found == paired_bootstrap(scores, others, 0.9)
    assert differences.min() - slack <= found.low <= found.high <= differences.max() + slack
    assert sum(found.histogram) == found.resamples


@pytest.mark.parametrize("few", [True, False])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both ways of drawing: by how often each value comes, and row by row.
    monkeypatch.setattr(bootstrap, "_FEW", 10**6 if few else 0)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        mine = (generator.random(200) < 0.9).astype(float)
        theirs = (generator.random(200) < 0.8).astype(float)
        found = paired_bootstrap(list(mine), list(theirs), 0.9)
        hits += found.low <= 0.1 <= found.high

    assert 0.84 < hits / 300 < 0.95


def test_both_ways_of_drawing_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    mine, theirs = (list((generator.random(500) < share).astype(float)) for share in (0.9, 0.85))
    by_count = paired_bootstrap(mine, theirs, 0.95)
    monkeypatch.setattr(bootstrap, "_FEW", 0)
    by_row = paired_bootstrap(mine, theirs, 0.95)

    assert by_count.low == pytest.approx(by_row.low, abs=0.004)
    assert by_count.high == pytest.approx(by_row.high, abs=0.004)


def test_many_rows_of_many_values_are_drawn_less_often_and_not_less_than_enough() -> None:
    scores = np.random.default_rng(1).normal(size=200_000)
    found = paired_bootstrap(list(scores), [0.0] * len(scores), 0.95)

    assert found.resamples == bootstrap.MAX_DRAWS // 200_000
    assert abs(found.high - found.low - 2 * 1.96 / len(scores) ** 0.5) < 0.001


@pytest.mark.parametrize("mine, theirs", [([1.0], [1.0, 2.0]), ([], [])])
def test_scores_of_different_rows_are_refused(mine: list[float], theirs: list[float]) -> None:
    with pytest.raises(InvalidFormatError, match="scores of one model"):
        paired_bootstrap(mine, theirs, 0.95)
