"""What differs between runs, and which tensors changed by how much."""

from pathlib import Path  # noqa: TC003 (the type of a mapping)

import numpy as np
import pytest
from safetensors.numpy import save

from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building


def test_runs_differ_in_parameters_packages_and_metrics(registry: Registry) -> None:
    for name, lr, numpy in (("a", 0.1, "2.1"), ("b", 0.2, "2.2")):
        started = registry.start_run(
            "digits",
            name,
            params={"net": {"lr": lr}, "seed": 1},
            facts={"packages": {"numpy": numpy, "rich": "15"}},
        )
        facts = {"metrics": {"loss": lr}}
        registry.publish_checkpoint(started, {"w.bin": name.encode()}, step=1, facts=facts)
    runs, differences = registry.compare_runs(["digits/a", "digits/b"])

    assert [run.reference for run in runs] == ["digits/a", "digits/b"]
    assert {one.field: one.values for one in differences} == {
        "metrics.loss": (0.1, 0.2),
        "packages.numpy": ("2.1", "2.2"),
        "params.net.lr": (0.1, 0.2),
    }
    assert registry.compare_runs(["digits/a", "digits/a"])[1] == []
    with pytest.raises(UnknownArtifactError, match="not a run"):
        registry.compare_runs(["digits/a", "digits/a@1"])


def test_tensors_are_compared_one_by_one(registry: Registry) -> None:
    started = registry.start_run("digits", "a")
    old = {"w": np.array([3.0, 4.0]), "same": np.ones(2), "gone": np.ones(1), "n": np.ones(2)}
    new = {"w": np.array([3.0, 4.5]), "same": np.ones(2), "new": np.ones(1), "n": np.ones(3)}
    for step, tensors in enumerate((old, new)):
        files: dict[str, Path | bytes] = {
            "model.safetensors": save(tensors),
            "optimizer.safetensors": save({"m": np.zeros(2)}),
        }
        registry.publish_checkpoint(started, files, step=step)
    found = {one.name: one for one in registry.diff("digits/a@0", "digits/a@1")}

    assert {name: one.change for name, one in found.items()} == {
        "w": "changed",
        "same": "same",
        "gone": "removed",
        "new": "added",
        "n": "reshaped",
        "m": "same",
    }
    assert (found["w"].largest, found["w"].relative) == (0.5, 0.1)


def test_a_drawing_is_of_the_whole_lineage(registry: Registry) -> None:
    building.promoted(registry, "a")
    up = registry.drawing("digits@production").folded()
    down = registry.drawing("digits/images@1", down=True)

    assert up.tree()[0] == "digits/v1"
    assert any("digits/images@1" in line for line in up.tree())
    assert any("digits/v1" in line for line in down.tree(down=True))
