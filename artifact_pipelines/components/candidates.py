"""The best checkpoint of a run as a model, and what the gates say of it."""

import warnings

import dagster as dg

from artifact_pipelines.components import reports
from artifact_pipelines.components.project import Project
from artifact_pipelines.components.step import Results, assets_of
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
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.resources import RegistryResource

POLICY = "policy"
"""The metadata key of the policy that a candidate is judged by."""

_ALWAYS = {
    "integrity": "Every file of the model is what its record says.",
    "safety": "Every file has an allowed format by its content, and none can run code.",
    "data_contract": "The data that the model was made from keeps its contract.",
}


def candidate_asset(project: Project) -> dg.AssetsDefinition:
    """Return the asset of a project's candidates, with a check for each gate."""
    key, policy = project.key("candidate"), project.declared.policy
    deps = [project.key("checkpoints")]
    if policy.evaluation is not None:
        deps.append(project.key(policy.evaluation))

    def judge(context: dg.AssetExecutionContext, registry: RegistryResource) -> Results:
        with project.opened(registry) as opened:
            evaluation = opened.evaluate(project.name, project.run_name(context))
            shown = reports.shown_attempt(evaluation)
            yield dg.MaterializeResult(
                asset_key=key,
                metadata=reports.of_evaluation(evaluation),
                data_version=dg.DataVersion(shown.model.content),
                check_results=[
                    dg.AssetCheckResult(
                        asset_key=key,
                        check_name=verdict.gate,
                        passed=verdict.passed,
                        description="; ".join(verdict.reasons),
                        metadata=reports.of_verdict(verdict, shown.model, opened.evidence(verdict)),
                    )
                    for verdict in shown.verdicts
                ],
            )

    candidate = dg.AssetSpec(
        key,
        deps=deps,
        partitions_def=project.runs,
        code_version=project.policy_digest[:12],
        kinds={"model"},
        metadata={POLICY: dg.MetadataValue.json(policy.document())},
        description="The best checkpoint of a run as a numbered model, judged by every gate.",
        **project.common(),
    )
    return assets_of([candidate], judge, checks=_checks(project))


def _checks(project: Project) -> list[dg.AssetCheckSpec]:
    """Return the gates as checks of one run each; they show verdicts and stop nothing."""
    policy = project.declared.policy
    texts = _ALWAYS | {gate.name: _said(gate) for gate in policy.gates if gate.name not in _ALWAYS}
    with warnings.catch_warnings():
        # Checks per partition are a preview. Without them a failed run would mark every run.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                gate,
                asset=project.key("candidate"),
                partitions_def=project.runs,
                description=texts.get(gate),
            )
            for gate in policy.required()
        ]


def _said(gate: Gate) -> str:  # noqa: PLR0911 (one branch for each form)
    """Return what a gate asks, as its check is described."""
    match gate:
        case NoWorse():
            where = "" if gate.slice is None else f" in each slice by {gate.slice},"
            return (
                f"The model's {gate.metric} is no worse than production's on the same data,{where} "
                f"within {gate.tolerance:g}."
            )
        case MetricBound():
            limits = [
                f"at {word} {limit:g}"
                for word, limit in (("least", gate.min), ("most", gate.max))
                if limit is not None
            ]
            where = "" if gate.slice is None else f" in each slice by {gate.slice}"
            return f"The model's {gate.metric} is {' and '.join(limits)}{where}."
        case Formats():
            return f"Every file of the model is of the formats {', '.join(gate.formats)}."
        case Governance():
            return "What the model was made from may be used, and is known."
        case Serving():
            return (
                f"The model answers in a fresh process, within {gate.seconds:g} s and "
                f"{gate.memory // 1_000_000} MB."
            )
        case Onnx():
            return f"The export {gate.onnx} answers as the model does, within {gate.tolerance:g}."
        case Rows():
            return f"The {gate.name} on the evaluation data keep their contract."
        case Schema():
            return f"The model's files are laid out as the schema {gate.schema_} says."
        case Custom():
            return f"The project's own gate {gate.gate} lets the model through."


def automatic_stages(policy: Policy) -> list[str]:
    """Return the stages that a model goes to by itself."""
    return [stage for stage, rule in policy.promotion.items() if isinstance(rule, str)]
