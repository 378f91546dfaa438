"""The gate that a project writes itself, as one function."""

from artifact_pipelines.domain.gate import Custom
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates.case import TABLES, Case


def custom_gate(gate: Custom, case: Case) -> Finding:
    """Return what a project's own function finds, in a process of its own."""
    measured = case.policy.evaluate is not None and case.evaluation is not None
    baseline = case.baseline()
    answer = case.sandbox.ask(
        "the gate",
        "custom",
        seconds=gate.seconds,
        memory=gate.memory,
        modules=TABLES,
        function=gate.gate,
        name=gate.name,
        model=str(case.files),
        baseline=None if baseline is None else str(baseline),
        evaluation=None if case.evaluation is None else str(case.evaluation),
        metrics=dict(case.mine().metrics) if measured else {},
        policy=case.policy.document(),
        arguments=gate.arguments,
    )
    return Finding.of(answer)
