"""The gate that asks whether a model's ONNX export answers as the model itself does."""

from artifact_pipelines.domain.gate import Onnx
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates.case import TABLES, Case


def onnx_gate(gate: Onnx, case: Case) -> Finding:
    """Return whether an ONNX export answers as the model does, run by ONNX Runtime."""
    if not (case.files / gate.onnx).is_file():
        return Finding(gate.name, passed=False, reasons=(f"the model has no file {gate.onnx}",))
    answer = case.sandbox.ask(
        "the ONNX export",
        "onnx",
        modules=TABLES,
        model=str(case.files),
        file=gate.onnx,
        evaluation=str(case.evaluation),
        rows=gate.rows,
        inputs=gate.inputs,
        against=gate.against,
        tolerance=gate.tolerance,
    )
    wrong = [
        f"{found['different']} of {found['of']} numbers of the output {name} differ by more than "
        f"{gate.tolerance:g}, the furthest by {found['furthest']:.3g}"
        for name, found in answer["outputs"].items()
        if found["different"]
    ]
    furthest = max(found["furthest"] for found in answer["outputs"].values())
    kept = (
        f"{gate.onnx} answers {answer['rows']} rows within {gate.tolerance:g} of the model, the "
        f"furthest {furthest:.3g} away, with ONNX Runtime {answer['runtime']}"
    )
    values = {"serving_onnx_rows": answer["rows"], "serving_onnx_furthest": furthest}
    return Finding(gate.name, not wrong, tuple(wrong) or (kept,), values, answer)
