"""How a training is spread over processes is told by what is loaded."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from artifact_pipelines import start_run
from artifact_pipelines.registry import open_registry
from artifact_pipelines.sdk.parallel import layout_of


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what a launcher of the tests may have set."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("torch.distributed", "megatron.core.parallel_state"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_training_alone_has_no_layout() -> None:
    assert layout_of({"w": np.ones(2)}, {"w": np.ones(2)}) == {}


def test_a_launcher_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")

    assert layout_of({}, {}) == {"world_size": 16, "local_world_size": 8}
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert layout_of({}, {}) == {"local_world_size": 8}


def test_megatron_says_the_sizes_of_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> int:
        raise AssertionError("context parallel group is not initialized")

    state: Any = SimpleNamespace(
        model_parallel_is_initialized=lambda: True,
        get_tensor_model_parallel_world_size=lambda: 4,
        get_pipeline_model_parallel_world_size=lambda: 2,
        get_data_parallel_world_size=lambda: 8,
        get_context_parallel_world_size=absent,
    )
    monkeypatch.setitem(sys.modules, "megatron.core.parallel_state", state)

    assert layout_of({}, {}) == {"sizes": {"tensor": 4, "pipeline": 2, "data": 8}}


def test_an_engine_of_deepspeed_says_its_stage() -> None:
    engine = type(
        "DeepSpeedEngine", (), {"zero_optimization_stage": lambda _: 3, "__module__": "deepspeed.x"}
    )

    assert layout_of(engine(), {}) == {"wrapped": "deepspeed", "zero_stage": 3}


def test_a_class_of_the_same_name_is_no_wrapper() -> None:
    assert layout_of(type("DataParallel", (), {"__module__": "mine"})(), {}) == {}


def test_the_layout_is_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with start_run("p", "r", home=tmp_path) as run:
        run.checkpoint({"w": np.ones(2)}, step=1)
        run.checkpoint({"w": np.ones(2)}, step=2, about={"parallel": {"sizes": {"data": 2}}})
    with open_registry(tmp_path) as registry:
        found = [one.record.facts["training"]["parallel"] for one in registry.checkpoints("p")]

    assert found == [{"world_size": 2}, {"sizes": {"data": 2}}]
