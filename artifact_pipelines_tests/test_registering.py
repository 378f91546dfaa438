"""A dataset is registered with what is known about it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from artifact_pipelines import register_dataset, start_run
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import ConfigurationError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.sdk.datasets import statistics


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    with open_registry(home) as opened:
        yield opened


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"x": [1.0, 2.0, np.nan, np.inf], "ok": [True, False, True, True], "who": list("abba")}
    )


def test_rows_columns_statistics_and_what_was_declared_are_facts(
    registry: Registry, home: Path
) -> None:
    made = register_dataset(
        "p",
        "rows",
        frame(),
        licence="CC-BY-4.0",
        sensitivity=["names"],
        sources=["https://example.org/x.csv", {"uri": "s3://b/k", "version": "v7"}],
        owner="team:vision",
        home=home,
    )

    assert dict(registry.get(made.id).record.facts) == {
        "rows": 4,
        "columns": {"x": "float64", "ok": "bool", "who": "str"},
        "statistics": {
            "x": {"nulls": 1, "min": 1.0, "max": 2.0, "mean": 1.5, "std": 0.5},
            "ok": {"nulls": 0, "true": 3},
            "who": {"nulls": 0, "distinct": 2},
        },
        "licence": "CC-BY-4.0",
        "sensitivity": ["names"],
        "sources": [{"uri": "https://example.org/x.csv"}, {"uri": "s3://b/k", "version": "v7"}],
        "owner": "team:vision",
    }
    assert registry.completeness(made.id).score == 1


def test_the_same_data_is_the_same_version(home: Path) -> None:
    first = register_dataset("p", "rows", frame(), home=home)
    again = register_dataset("p", "rows", frame(), home=home)
    other = register_dataset("p", "rows", frame(), licence="MIT", home=home)

    assert (first.id, first.version) == (again.id, again.version)
    assert (other.content, other.version) == (first.content, 2)


def test_a_feature_step_is_a_dataset_that_cites_its_source(registry: Registry, home: Path) -> None:
    raw = register_dataset("p", "raw", frame(), home=home)
    made = register_dataset(
        "p", "features", {"x": np.arange(6).reshape(3, 2)}, inputs={"raw": "p/raw@1"}, home=home
    )
    with start_run("p", "r", inputs=["p/features@1"], home=home) as run:
        run.checkpoint({"w": np.ones(1)}, step=1)

    assert made.record.inputs == (Input("dataset:raw", raw.id),)
    assert made.record.facts["rows"] == 3
    assert "p/raw@1" in {edge.parent.reference for edge in registry.lineage("p/r@1")}


def test_statistics_do_not_depend_on_the_order_of_summing() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)

    assert statistics(values) == statistics(values[::-1])


def test_a_source_without_a_uri_is_refused(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be a URI"):
        register_dataset("p", "rows", frame(), sources=[{"version": "1"}], home=home)
