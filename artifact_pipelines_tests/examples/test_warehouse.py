"""A repository that has assets already takes one of them as a project's dataset."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from artifact_pipelines.registry import open_registry

CUSTOMERS = dg.AssetKey(["warehouse", "customers"])


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ARTIFACT_PIPELINES_ACTOR", "tester")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


def run(instance: dg.DagsterInstance, job: str, partition: str | None = None) -> None:
    from warehouse_project.definitions import defs

    ran = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    assert ran.success


def test_a_model_is_trained_on_an_asset_that_was_there(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run(instance, "refresh_warehouse")
    run(instance, "loyalty_datasets")
    instance.add_dynamic_partitions("loyalty_runs", ["first"])
    run(instance, "loyalty_train", "first")
    run(instance, "loyalty_promote_staging")

    with open_registry(tmp_path / "home") as registry:
        (rows,) = registry.datasets("loyalty", "customers")
        assert rows.record.facts["rows"] == 1_000
        assert rows.record.facts["asset"] == "warehouse/customers"
        model = registry.stages("loyalty")["staging"]
        assert rows.id in {edge.parent.id for edge in registry.lineage(model.reference)}


def test_what_was_there_stays_as_it_was() -> None:
    from warehouse_project.definitions import defs

    graph = defs.resolve_asset_graph()
    assert graph.get(CUSTOMERS).parent_keys == {dg.AssetKey(["warehouse", "orders"])}
    assert graph.get(CUSTOMERS).child_keys == {dg.AssetKey(["loyalty", "customers"])}
    assert "refresh_warehouse" in {job.name for job in defs.resolve_all_job_defs()}


def test_a_refresh_of_the_same_rows_is_no_new_version(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for _ in range(2):
        run(instance, "refresh_warehouse")
        run(instance, "loyalty_datasets")

    with open_registry(tmp_path / "home") as registry:
        assert len(registry.datasets("loyalty", "customers")) == 1
