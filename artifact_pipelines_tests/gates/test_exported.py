"""An ONNX export is run by ONNX Runtime and compared with its model."""

import io
from pathlib import Path

import pandas as pd
import pytest

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.gates.exporting import export

HERE = "artifact_pipelines_tests.gates.exporting"


def judged(registry: Registry, factor: float, against: str = "scores") -> tuple[bool, str]:
    """Return what the gate says of an export with a factor, of a model whose factor is three."""
    gate = {"onnx": "model.onnx", "inputs": f"{HERE}:features", "against": f"{HERE}:{against}"}
    registry.set_policy(PROJECT, Policy.of({"evaluation": "holdout", "gates": [gate]}))
    buffer = io.BytesIO()
    pd.DataFrame({"scale": [1.0, 2.0, 4.0]}).to_parquet(buffer, index=False)
    registry.publish_dataset(PROJECT, "holdout", {"data.parquet": buffer.getvalue()})
    run = registry.start_run(PROJECT, f"run-{len(registry.runs(PROJECT))}")
    files: dict[str, Path | bytes] = {"model.onnx": export(factor), "factor.txt": b"3"}
    registry.publish_checkpoint(run, files, step=1)
    attempt = registry.evaluate(PROJECT, run.name).attempts[0]
    verdicts = {one.gate: one for one in attempt.verdicts}
    assert verdicts["safety"].passed
    return verdicts["onnx"].passed, verdicts["onnx"].reasons[0]


@pytest.mark.integrations
def test_an_export_answers_as_its_model(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with open_registry(tmp_path / "home", actor="tester") as registry:
        passed, said = judged(registry, 3.0)
        assert passed
        assert said.startswith("model.onnx answers 3 rows within 1e-05 of the model")

        passed, said = judged(registry, 3.5)
        assert not passed
        assert said.startswith("3 of 3 numbers of the output y differ by more than 1e-05")

        assert judged(registry, 3.0, "wide_scores") == (
            False,
            "the ONNX export answered wrongly: the output y is (3, 1), not (3, 2)",
        )
