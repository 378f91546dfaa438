"""The gate that asks whether what a model was made from may be used, and is known."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from artifact_pipelines.domain import lineage
from artifact_pipelines.domain.gate import Governance
from artifact_pipelines.domain.lineage import Ancestry, Node
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates.case import Case

if TYPE_CHECKING:
    from license_expression import Licensing  # type: ignore[import-untyped]

MAX_REASONS: Final = 20
# A licence that SPDX does not list, under a name that an organisation gives it.
_OWN: Final = "LicenseRef-"


def governance_gate(gate: Governance, case: Case) -> Finding:
    """Return whether what a model was made from may be used, and is known."""
    return governance_finding(gate, case.ancestry(), case.policy.owners)


def governance_finding(gate: Governance, ancestry: Ancestry, owners: Sequence[str] = ()) -> Finding:
    """Return whether an ancestry keeps the rules, in a project that has some owners."""
    sources = _sources(ancestry)
    wrong: list[str] = []
    kept: list[str] = []
    values: dict[str, Any] = {}
    evidence: dict[str, Any] = {}
    if gate.licences is not None:
        combined, said = _licences(sources, gate.licences)
        wrong += said
        if combined is not None:
            values["licence"] = combined
            kept.append(f"its sources may be used together under {combined}")
        evidence["licences"] = {node.reference: _licence(node) for node in sources}
    if gate.sensitivity is not None:
        wrong += _sensitivity(sources, gate.sensitivity)
        kept.append("no source holds sensitive data that is not allowed")
        evidence["sensitivity"] = {
            node.reference: node.record.facts.get("sensitivity") for node in sources
        }
    if gate.fields_:
        wrong += [
            f"{node.reference} does not say its {name}"
            for node in sources
            if node.record.kind is Kind.DATASET
            for name in gate.fields_
            if node.record.facts.get(name, "") in (None, "")
        ]
        kept.append(f"every dataset says its {', '.join(gate.fields_)}")
    if gate.lineage:
        known = lineage.completeness(ancestry.start, ancestry.nodes, ancestry.edges)
        wrong += [gap.sentence.rstrip(".") for gap in known.missing if gap.question in gate.lineage]
        values["lineage_score"] = known.score
        kept.append(f"its lineage answers {', '.join(gate.lineage)}")
        evidence["lineage"] = dict(known.questions)
    if gate.owner:
        wrong += _ownerless(gate, sources, owners)
        kept.append(f"its {' and its '.join(gate.owner)} have owners")
        evidence["owners"] = {
            node.reference: node.record.facts.get("owner")
            for node in sources
            if "data" in gate.owner
        } | ({"project": list(owners)} if "project" in gate.owner else {})
    if len(wrong) > MAX_REASONS:
        wrong[MAX_REASONS:] = [f"{len(wrong) - MAX_REASONS} more rules are broken"]
    return Finding(gate.name, not wrong, tuple(wrong or kept), values, evidence)


def _sources(ancestry: Ancestry) -> list[Node]:
    """Return what a model takes its licence from, by reference.

    That is its data, base models that say theirs, and runs that cite nothing, of which nobody
    knows. Data that it was only measured on is not in it.
    """
    children = {edge.child for edge in ancestry.edges}
    found = []
    for identity in lineage.made_from(ancestry):
        node = ancestry.nodes[identity]
        rootless = node.record.kind is Kind.TRAINING_RUN and identity not in children
        if node.record.kind is Kind.DATASET or _licence(node) is not None or rootless:
            found.append(node)
    return sorted(found, key=lambda node: node.reference)


def _licence(node: Node) -> str | None:
    found = node.record.facts.get("licence")
    return found if isinstance(found, str) and found.strip() else None


def _licences(sources: Sequence[Node], allowed: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the licence of everything together, and what stands against it."""
    spdx = _spdx()
    wrong = [
        f"the gate allows {one!r}, which is no SPDX licence" for one in allowed if _unknown(one)
    ]
    parsed = []
    for node in sources:
        said = _licence(node)
        if said is None:
            what = "cites no data" if node.record.kind is Kind.TRAINING_RUN else "has no licence"
            wrong.append(f"{node.reference} {what}, so nobody knows whether it may be used")
        elif _unknown(said):
            wrong.append(f"{node.reference} is under {said!r}, which is no SPDX expression")
        else:
            parsed.append(spdx.parse(said))
            if not _may(parsed[-1], {str(spdx.parse(one)) for one in allowed if not _unknown(one)}):
                wrong.append(f"{node.reference} is under {parsed[-1]}, which is not allowed")
    if wrong or not parsed:
        return None, wrong or ["nothing that it was made from is cited, so no licence is known"]
    together = parsed[0] if len(parsed) == 1 else spdx.AND(*parsed)
    return str(together.simplify()), []


def _may(expression: Any, allowed: set[str]) -> bool:  # noqa: ANN401 (of the library's classes)
    """Return whether an expression leaves a choice in which every licence is allowed."""
    if str(expression) in allowed:
        return True
    spdx = _spdx()
    if isinstance(expression, spdx.AND):
        return all(_may(part, allowed) for part in expression.args)
    if isinstance(expression, spdx.OR):
        return any(_may(part, allowed) for part in expression.args)
    return False


def _unknown(expression: str) -> bool:
    """Return whether a text is no SPDX expression."""
    from license_expression import ExpressionError  # noqa: PLC0415 (it reads a long list)

    spdx = _spdx()
    try:
        unknown: Sequence[str] = spdx.unknown_license_keys(spdx.parse(expression))
    except ExpressionError:
        return True
    return any(not key.startswith(_OWN) for key in unknown) or not expression.strip()


@cache
def _spdx() -> "Licensing":
    from license_expression import get_spdx_licensing  # noqa: PLC0415 (it reads a long list)

    return get_spdx_licensing()


def _ownerless(gate: Governance, sources: Sequence[Node], owners: Sequence[str]) -> list[str]:
    """Return what nobody answers for, of what the gate asks about."""
    wrong = []
    if "data" in gate.owner:
        wrong += [
            f"{node.reference} has no owner; declare its owner with the dataset"
            for node in sources
            if node.record.kind is Kind.DATASET and not _owned(node)
        ]
    if "project" in gate.owner and not owners:
        wrong.append("the project has no owner; name its owners in its YAML")
    return wrong


def _owned(node: Node) -> bool:
    found = node.record.facts.get("owner")
    return isinstance(found, str) and bool(found.strip())


def _sensitivity(sources: Sequence[Node], allowed: Sequence[str]) -> list[str]:
    wrong = []
    for node in sources:
        facts: Mapping[str, Any] = node.record.facts
        kinds = facts.get("sensitivity")
        if kinds is None and node.record.kind is Kind.DATASET:
            wrong.append(f"{node.reference} does not say whether it holds sensitive data")
        wrong += [
            f"{node.reference} holds {kind} data, which is not allowed"
            for kind in kinds or ()
            if kind not in allowed
        ]
    return wrong
