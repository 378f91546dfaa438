"""The gates of a policy, each run on one case.

To add a gate: declare its form in `domain.gate`, write a function that takes the declaration
and the case, and enter both in `GATES`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from artifact_pipelines.domain.gate import (
    Custom,
    Formats,
    Gate,
    Governance,
    MetricBound,
    NoWorse,
    Onnx,
    Rows,
    Schema,
    Serving,
)
from artifact_pipelines.domain.part import Part
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.errors import SandboxError
from artifact_pipelines.gates import (
    custom,
    data,
    exported,
    governance,
    integrity,
    layout,
    metrics,
    scanning,
    serving,
)
from artifact_pipelines.gates.case import Case
from artifact_pipelines.gates.guard import gate_code_digest, guarded
from artifact_pipelines.gates.sandbox import Sandbox

GATES: Final[Mapping[type[Part], Callable[[Any, Case], Finding]]] = {
    Custom: custom.custom_gate,
    Governance: governance.governance_gate,
    MetricBound: metrics.bound_gate,
    NoWorse: metrics.no_worse_gate,
    Onnx: exported.onnx_gate,
    Rows: data.rows_gate,
    Schema: layout.schema_gate,
    Serving: serving.serving_gate,
}
"""How each form of a gate is judged; `formats` are what the safety gate allows."""

_MEASURING: Final = (Custom, MetricBound, NoWorse)
"""The forms that believe what is measured on the evaluation data."""


def judge(case: Case) -> list[Finding]:
    """Return what every gate of a case's policy finds."""
    policy = case.policy
    found = [guarded("integrity", lambda: integrity.integrity_finding(case.damaged))]
    if case.damaged:
        refused = ("the model's bytes are damaged, so this gate could not look",)
        others = [gate for gate in policy.required() if gate != "integrity"]
        return [*found, *(Finding(gate, passed=False, reasons=refused) for gate in others)]
    found.append(guarded("safety", lambda: scanning.safety_gate(case)))
    if policy.contracts:
        found.append(guarded("data_contract", lambda: data.contract_gate(case)))
    found += [_judged(gate, case) for gate in policy.gates if not isinstance(gate, Formats)]
    # Whatever wrote into the model's folder decided what came after it.
    if others := integrity.changed(case.files, case.digests):
        reasons = (f"while it was judged, {', '.join(others)} was changed in the model's folder",)
        return [Finding(one.gate, passed=False, reasons=reasons) for one in found]
    return found


def _judged(gate: Gate, case: Case) -> Finding:
    """Return what a gate finds; one that measures fails a model that was trained on the data."""
    if case.seen and isinstance(gate, _MEASURING):
        reason = (
            f"it was trained on {', '.join(case.seen)}, the data that it is measured on, so what "
            "it measures there proves nothing; train it on other data"
        )
        return Finding(gate.name, passed=False, reasons=(reason,))
    return guarded(gate.name, partial(GATES[type(gate)], gate, case))


def judging_code(policy: Policy, sandbox: Sandbox) -> str:
    """Return the digest of the code that judges: the gates' and the project's own functions'.

    Raises:
        ConfigurationError: A function is not there.
    """
    functions = [] if policy.evaluate is None else [policy.evaluate]
    for gate in policy.gates:
        if isinstance(gate, Custom):
            functions.append(gate.gate)
        elif isinstance(gate, Serving):
            functions.append(gate.serving)
        elif isinstance(gate, Rows):
            functions.append(gate.function)
        elif isinstance(gate, Onnx):
            functions += [gate.inputs, gate.against]
    try:
        found = sandbox.ask("the project's code", "sources", functions=functions)
    except SandboxError as error:
        # It cannot even be imported; the gates that need it will say so.
        found = dict.fromkeys(functions, str(error))
    return gate_code_digest(found)
