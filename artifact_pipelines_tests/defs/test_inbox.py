"""The sensor of the inbox imports what is complete and says what is not."""

from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from safetensors.numpy import save

from artifact_pipelines.definitions import defs
from artifact_pipelines.defs import inbox
from artifact_pipelines.defs.inbox import inbox_sensor
from artifact_pipelines.registry import open_registry
from artifact_pipelines.registry.inbox import SETTING
from artifact_pipelines.resources import RegistryResource
from artifact_pipelines_tests.servers import SeaweedFS


def said(context: dg.SensorEvaluationContext) -> str | None:
    result = inbox_sensor(context)
    assert isinstance(result, dg.SkipReason)

    return result.skip_message


def test_a_sensor_takes_what_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "inbox" / "p" / "outside"
    run.mkdir(parents=True)
    (run / "best.safetensors").write_bytes(save({"w": np.ones(2)}))
    (run / "best.json").write_text('{"step": 3}')
    (run / "alone.safetensors").write_bytes(save({"w": np.zeros(2)}))
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(SETTING, raising=False)
    context = dg.build_sensor_context(resources={"registry": RegistryResource()})
    silent = said(context)
    monkeypatch.setenv(SETTING, str(tmp_path / "inbox"))
    first, second = said(context), said(context)
    with open_registry(tmp_path / "home") as registry:
        found = [item.reference for item in registry.checkpoints("p")]

    assert silent == f"{SETTING} names no folder and no bucket."
    assert first == "1 imported, 0 known, 1 waiting, 0 refused"
    assert second == "0 imported, 1 known, 1 waiting, 0 refused"
    assert found == ["p/outside@3"]


def test_a_sensor_takes_what_was_left_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seaweedfs: SeaweedFS, s3_url: str
) -> None:
    key = f"{s3_url.rpartition('/')[2]}/p/outside/best"
    for name, data in (("safetensors", save({"w": np.ones(2)})), ("json", b'{"step": 3}')):
        seaweedfs.client().put_object(Bucket="store", Key=f"{key}.{name}", Body=data)
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(SETTING, s3_url)
    context = dg.build_sensor_context(resources={"registry": RegistryResource()})

    assert said(context) == "1 imported, 0 known, 0 waiting, 0 refused"
    assert said(context) == "0 imported, 1 known, 0 waiting, 0 refused"


def test_much_at_once_is_left_to_a_run_that_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        run = tmp_path / "inbox" / "p" / name
        run.mkdir(parents=True)
        (run / "best.safetensors").write_bytes(save({"w": np.full(200, len(name))}))
        (run / "best.json").write_text(f'{{"step": {len(name)}}}')
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(SETTING, str(tmp_path / "inbox"))
    monkeypatch.setattr(inbox, "MOST_AT_ONCE", 1_000)
    context = dg.build_sensor_context(resources={"registry": RegistryResource()})
    first, second = inbox_sensor(context), inbox_sensor(context)
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            asset_selection=[dg.AssetKey(["registry", "inbox"])],
            instance=instance,
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {"registry__inbox": {"config": {"shard_megabytes": 0.001}}},
            },
        )
        (event,) = result.get_asset_materialization_events()
        (check,) = result.get_asset_check_evaluations()

    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.RunRequest)
    assert first.run_key == second.run_key
    shown = {name: value.value for name, value in event.materialization.metadata.items()}
    assert shown == {"imported": 2, "known": 0, "waiting": 0, "refused": 0, "shards": 2}
    assert check.passed
    assert said(context) == "0 imported, 2 known, 0 waiting, 0 refused"


def test_an_import_without_an_inbox_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)

    with pytest.raises(dg.Failure, match=f"{SETTING} names no folder and no bucket; set it"):
        inbox._place()
