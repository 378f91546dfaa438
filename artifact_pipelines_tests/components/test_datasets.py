"""A dataset is loaded, held against its contract and registered, or not at all."""

from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from artifact_pipelines.components.declaration import Dataset
from artifact_pipelines.errors import SourceError
from artifact_pipelines.sdk.datasets import content_of
from artifact_pipelines_tests.world import PROJECT, SAMPLE, World

SCHEMA = "artifact_pipelines_tests.schemas:Rows"


def dataset(**given: Any) -> list[Dataset]:
    return [Dataset(name="rows", **given)]


def test_a_table_becomes_a_version(world: World) -> None:
    outcome = world.materialize("datasets")

    with world.registry() as registry:
        (found,) = registry.datasets(PROJECT)
        assert pd.read_parquet(registry.fetch(found.id, world.home / "out")).equals(
            pd.DataFrame({"x": range(6), "y": [0.5] * 6})
        )
    assert outcome.version("rows") == found.content
    assert outcome.shown("rows")["reference"] == "churn/rows@1"
    assert outcome.shown("rows")["dagster/row_count"] == 6


def test_the_same_rows_are_the_same_version(world: World) -> None:
    world.materialize("datasets")
    again = world.materialize("datasets")

    with world.registry() as registry:
        assert [found.version for found in registry.datasets(PROJECT)] == [1]
    assert again.shown("rows")["reference"] == "churn/rows@1"


def test_configured_parameters_replace_those_of_the_yaml_one_by_one(world: World) -> None:
    world.change(datasets=dataset(load=f"{SAMPLE}:table", params={"rows": 4, "lowest": 7}))
    outcome = world.materialize("datasets", rows={"params": {"rows": 2}})

    assert outcome.shown("rows")["params"] == {"rows": 2, "lowest": 7}
    assert outcome.shown("rows")["dagster/row_count"] == 2


def test_a_breach_of_the_schema_registers_nothing(world: World) -> None:
    world.change(datasets=dataset(load=f"{SAMPLE}:table", schema=SCHEMA))
    outcome = world.materialize("datasets", rows={"params": {"lowest": -2}})

    with world.registry() as registry:
        assert registry.datasets(PROJECT) == []
    assert not outcome.success
    assert outcome.checks() == {"schema": False}
    assert outcome.failure.startswith("no version of churn/rows was registered")
    assert "x: greater_than_or_equal_to(0)" in outcome.failure


def test_a_schema_that_hangs_registers_nothing_and_stops_in_time(world: World) -> None:
    world.change(
        datasets=dataset(load=f"{SAMPLE}:table", schema="artifact_pipelines_tests.schemas:Endless"),
        limits={"seconds": 3},
    )
    outcome = world.materialize("datasets")

    with world.registry() as registry:
        assert registry.datasets(PROJECT) == []
    assert outcome.failure == (
        "no version of churn/rows was registered: the contract of rows took longer than 3 s"
    )


def test_rows_that_keep_their_schema_are_registered(world: World) -> None:
    world.change(datasets=dataset(load=f"{SAMPLE}:table", schema=SCHEMA))
    outcome = world.materialize("datasets")

    assert outcome.checks() == {"schema": True}
    assert outcome.assets() == ["rows"]


@pytest.mark.parametrize(
    "load,said",
    [
        (
            "broken",
            "was not loaded: artifact_pipelines_tests.sample:broken raised ValueError: the ",
        ),
        ("nothing", "was loaded as int; return a pandas frame"),
    ],
)
def test_a_loader_that_fails_is_named(world: World, load: str, said: str) -> None:
    world.change(datasets=dataset(load=f"{SAMPLE}:{load}"))
    outcome = world.materialize("datasets")

    assert said in outcome.failure
    assert "\n" not in outcome.failure


def test_a_contract_needs_a_table(world: World) -> None:
    world.change(datasets=dataset(load=f"{SAMPLE}:arrays", schema=SCHEMA))
    outcome = world.materialize("datasets")

    assert "was loaded without a table" in outcome.failure


def test_a_dataset_is_taken_from_an_existing_asset(world: World) -> None:
    @dg.asset(key=["warehouse", "customers"])
    def customers() -> pd.DataFrame:
        return pd.DataFrame({"x": [1, 2, 3]})

    world.change(datasets=dataset(asset="warehouse/customers"))
    definitions = dg.Definitions.merge(
        world.definitions(),
        dg.Definitions(
            assets=[customers],
            jobs=[dg.define_asset_job("everything", ["warehouse/customers", "churn/rows"])],
        ),
    )
    job = definitions.resolve_job_def("everything")
    result = job.execute_in_process(instance=world.instance)

    assert result.success
    with world.registry() as registry:
        assert registry.datasets(PROJECT)[0].record.facts["rows"] == 3


def test_an_asset_can_come_before_a_loader(world: World) -> None:
    world.change(datasets=dataset(asset="warehouse/customers", load=f"{SAMPLE}:table"))
    graph = world.definitions().resolve_asset_graph()

    parents = graph.get(dg.AssetKey([PROJECT, "rows"])).parent_keys
    assert parents == {dg.AssetKey(["warehouse", "customers"])}
    assert world.materialize("datasets").success


def test_arrays_become_safetensors_with_the_same_bytes_each_time() -> None:
    one, other = np.arange(3), np.zeros((3, 2))
    with content_of({"b": other, "a": one}, "rows") as content:
        first = content.files["data.safetensors"]
    with content_of({"a": one, "b": other}, "rows") as content:
        assert content.files["data.safetensors"] == first
        assert content.facts["rows"] == 3


def test_a_folder_is_taken_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.csv").write_text("1")
    (tmp_path / "two.csv").write_text("2")

    with content_of(tmp_path, "rows") as content:
        assert sorted(content.files) == ["a/one.csv", "two.csv"]
    with content_of(str(tmp_path / "two.csv"), "rows") as content:
        assert list(content.files) == ["two.csv"]


@pytest.mark.parametrize(
    "value", [pd.DataFrame({"x": []}), {}, {"a": ["text", object()]}, None, Path("/no/such/file")]
)
def test_what_cannot_be_a_dataset_is_refused(value: object) -> None:
    with pytest.raises(SourceError, match="'rows'"), content_of(value, "rows"):
        pass
