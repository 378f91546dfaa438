"""A training that is killed goes on from the repository and ends with the same weights."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests.integrations.trainers import FRAMEWORKS, FULL, data

pytestmark = [pytest.mark.integrations, pytest.mark.timeout(300)]

WEIGHTS = {
    "keras": "model.safetensors",
    "lightgbm": "model.txt",
    "xgboost": "model.ubj",
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_registry(tmp_path / "home", actor="tester") as opened:
        yield opened


def train(home: Path, *arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "artifact_pipelines_tests.integrations.trainers", *arguments],
        env={**os.environ, "ARTIFACT_PIPELINES_HOME": str(home), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode


def same(framework: str, mine: bytes, theirs: bytes) -> bool:
    """Return whether two models are one; LightGBM's agree in what they predict."""
    if framework != "lightgbm":
        return mine == theirs
    import lightgbm

    x, _ = data()
    first, second = (
        np.asarray(lightgbm.Booster(model_str=text.decode()).predict(x, raw_score=True))
        for text in (mine, theirs)
    )
    return bool(np.allclose(first, second, rtol=1e-6, atol=0))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    registry: Registry, tmp_path: Path, framework: str
) -> None:
    home = tmp_path / "home"
    whole = train(home, framework, "whole")
    killed = train(home, framework, "cut", "3")
    before = registry.checkpoints("p", "cut")
    resumed = train(home, framework, "cut")
    file = WEIGHTS.get(framework, "model.safetensors")
    expected, found = registry.checkpoints("p", "whole"), registry.checkpoints("p", "cut")

    assert (whole, killed, resumed) == (0, -signal.SIGKILL, 0)
    assert 0 < len(before) < len(expected) == FULL
    assert len(found) == FULL
    assert [item.step for item in found] == [item.step for item in expected]
    for mine, theirs in zip(found, expected, strict=True):
        pair = registry.read(mine.id, file), registry.read(theirs.id, file)
        assert same(framework, *pair), mine.reference
    assert found[-1].record.facts["optimizer"]
    assert registry.run("p", "cut").state == "finished"


def test_pytorch_objects_say_what_they_are(registry: Registry, tmp_path: Path) -> None:
    assert train(tmp_path / "home", "torch", "r") == 0

    training = registry.find("p/r@2").record.facts["training"]
    assert training["optimizer"]["class"] == "torch.optim.adamw.AdamW"
    assert training["optimizer"]["groups"][0]["betas"] == [0.9, 0.999]
    assert 0 < training["learning_rate"] < 0.01
    assert training["scheduler"]["class"].endswith("CosineAnnealingLR")
    assert training["precision"] == ["float32"]


def test_a_tensor_of_another_precision_keeps_its_type(registry: Registry, tmp_path: Path) -> None:
    assert train(tmp_path / "home", "bfloat16", "r") == 0

    assert registry.find("p/r@1").record.facts["training"]["precision"] == ["bfloat16"]
    assert b'"dtype":"BF16"' in registry.read("p/r@1", "model.safetensors")


SPREAD = """
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel
from artifact_pipelines import start_run
from artifact_pipelines.integrations.torch import checkpoint

dist.init_process_group("gloo", init_method="file://%s", rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("replicate", "shard"))
made = {
    1: DistributedDataParallel(torch.nn.Linear(4, 2)),
    2: fully_shard(torch.nn.Linear(4, 2), mesh=mesh),
}
with start_run("p", "r") as run:
    for step, model in made.items():
        whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        checkpoint(run, model, step=step, state=whole)
dist.destroy_process_group()
"""


def test_how_a_model_is_spread_over_processes_is_recorded(
    registry: Registry, tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SPREAD % (tmp_path / "rendezvous")],
        env={**os.environ, "ARTIFACT_PIPELINES_HOME": str(tmp_path / "home")},
        check=True,
    )
    found = [one.record.facts["training"]["parallel"] for one in registry.checkpoints("p")]

    both = {"world_size": 1, "backend": "gloo"}
    assert found == [
        {**both, "wrapped": "ddp"},
        {**both, "wrapped": "fsdp2", "sizes": {"replicate": 1, "shard": 1}},
    ]
