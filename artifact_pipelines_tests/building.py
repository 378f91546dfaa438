"""Small real registries for the tests."""

from pathlib import Path  # noqa: TC003 (the type of a mapping)

import numpy as np
from safetensors.numpy import save

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Input
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.reading import Artifact

PROJECT = "digits"
POLICY = Policy.of(
    {
        "promotion": {"staging": "automatic", "production": {"approvals": 1}},
        "select": {"metric": "accuracy", "mode": "max"},
        "retention": {"keep": {"last": 1, "best": 1}, "forget_after": "0s"},
    }
)


def tensors(seed: int, size: int = 2_000) -> bytes:
    """Return a safetensors file of random numbers."""
    rng = np.random.default_rng(seed)
    return save({"weight": rng.standard_normal(size).astype("f4")})


def dataset(registry: Registry, rows: int = 3) -> Artifact:
    """Return a registered dataset."""
    text = "\n".join(str(row) for row in range(rows))
    return registry.publish_dataset(
        PROJECT, "images", {"data.csv": text.encode()}, facts={"rows": rows}
    )


def run(registry: Registry, name: str, steps: int = 3, seed: int = 0) -> list[Artifact]:
    """Return the checkpoints of a finished run."""
    images = dataset(registry)
    started = registry.start_run(
        PROJECT, name, params={"seed": seed}, inputs=[Input("dataset:images", images.id)]
    )
    made = []
    for step in range(steps):
        files: dict[str, Path | bytes] = {
            "model.safetensors": tensors(seed * 1_000 + step),
            "optimizer.safetensors": tensors(seed * 1_000 + step + 500),
        }
        facts = {"metrics": {"accuracy": step / 10}}
        made.append(registry.publish_checkpoint(started, files, step=step, facts=facts))
    registry.finish_run(started, "finished")
    return made


def trained(
    registry: Registry,
    name: str = "run-1",
    steps: int = 3,
    *,
    frozen: bool = False,
    finish: bool = True,
) -> list[Artifact]:
    """Return checkpoints that differ a little from step to step, as training makes them."""
    run = registry.start_run(PROJECT, name)
    rng = np.random.default_rng(len(name))
    weight = (rng.standard_normal((64, 64)) * 0.02).astype("f4")
    fixed = rng.standard_normal((64, 64)).astype("f4")
    made = []
    for step in range(1, steps + 1):
        weight = weight + rng.standard_normal((64, 64)).astype("f4") * np.float32(1e-5)
        model = {"weight": weight}
        files: dict[str, Path | bytes] = {
            "model.safetensors": save(model),
            "optimizer.safetensors": save({"m": weight * 2, "v": weight * weight}),
            "state.json": b'{"step": %d}' % step,
        }
        if frozen:
            files["frozen.safetensors"] = save({"fixed": fixed})
        made.append(registry.publish_checkpoint(run, files, step=step))
    if finish:
        registry.finish_run(run, "finished")
    return made


def judge(
    registry: Registry, model: Artifact, *, passed: bool = True, key: str = "service"
) -> None:
    """Record a signed verdict of every gate."""
    policy = registry.policy(PROJECT)
    for gate in policy.required():
        verdict = Verdict(
            project=PROJECT,
            artifact=model.id,
            gate=gate,
            passed=passed,
            policy=policy.digest,
            baseline=registry.baseline(PROJECT),
            evaluation=None,
            gate_code="0" * 64,
            reasons=["as the test says"],
            values={},
            evidence=None,
        )
        signed = registry.keys.load(key).sign_statement(verdict.payload(registry.origin))
        registry.append("verdict", model.id, signed.as_body())


def candidate(registry: Registry, name: str, seed: int = 0) -> Artifact:
    """Return a model that passed every gate."""
    registry.set_policy(PROJECT, POLICY)
    model = registry.publish_model(run(registry, name, seed=seed)[-1])
    judge(registry, model)
    return model


def approve(registry: Registry, model: Artifact, stage: str = "production") -> None:
    """Request and approve a promotion."""
    registry.create_key("alice")
    registry.request(model.reference, stage)
    registry.approve(model.reference, stage, "alice")


def promoted(registry: Registry, name: str, seed: int = 0) -> Artifact:
    """Return a model that is in production."""
    model = candidate(registry, name, seed)
    approve(registry, model)
    registry.promote(model.reference, "production")
    return model
