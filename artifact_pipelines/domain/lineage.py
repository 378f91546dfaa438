"""How completely an artifact's record says where it came from, and what is missing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from artifact_pipelines.domain.record import Kind, Record


class EdgeKind(StrEnum):
    """How it is known that one artifact was made from another."""

    OBSERVED = "observed"
    DECLARED = "declared"
    REDERIVABLE = "rederivable"


@dataclass(frozen=True, slots=True)
class Node:
    """An artifact in a lineage.

    Attributes:
        reference: The text that finds it.
        record: Its record.
        machine: Whether it is still known where it was made.
    """

    reference: str
    record: Record
    machine: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """That one artifact was made from another.

    Attributes:
        child: What was made, by artifact id.
        parent: What it was made from, by artifact id.
        role: What the parent was used as.
        kind: How that is known.
    """

    child: str
    parent: str
    role: str
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Ancestry:
    """An artifact and all that it was made from.

    Attributes:
        start: The artifact, by id.
        nodes: It and its ancestors, by id.
        edges: The edges between them.
    """

    start: str
    nodes: Mapping[str, Node]
    edges: Sequence[Edge]


def made_from(ancestry: Ancestry) -> set[str]:
    """Return the ids of all that an artifact was made from, not of what it was measured on."""
    reached, frontier = {ancestry.start}, [ancestry.start]
    while frontier:
        child = frontier.pop()
        for edge in ancestry.edges:
            measured = edge.role.startswith("evaluation:")
            if edge.child == child and edge.parent not in reached and not measured:
                reached.add(edge.parent)
                frontier.append(edge.parent)
    return reached - {ancestry.start}


def datasets_like(ancestry: Ancestry, content: str) -> list[str]:
    """Return the references of the datasets of some content that an artifact was made from."""
    nodes = [ancestry.nodes[identity] for identity in made_from(ancestry)]
    return sorted(
        node.reference
        for node in nodes
        if node.record.kind is Kind.DATASET and node.record.content == content
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that a lineage does not answer.

    Attributes:
        question: The question: one of `QUESTIONS`.
        artifact: The reference of the artifact that lacks the answer.
        sentence: What is missing, and how to have it next time.
    """

    question: str
    artifact: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Completeness:
    """How much of a lineage is known.

    Attributes:
        score: From 0, nothing, to 1, everything that is asked.
        questions: The share of each question that is answered.
        missing: What is not, by question and reference.
    """

    score: float
    questions: Mapping[str, float]
    missing: tuple[Gap, ...]


Missing = Callable[[Node], str | None]


def completeness(start: str, nodes: Mapping[str, Node], edges: Sequence[Edge]) -> Completeness:
    """Return how completely a lineage answers what it is asked; every question weighs the same.

    Args:
        start: The artifact that it is about, by id.
        nodes: It and all that it was made from, by id.
        edges: The edges between them.
    """
    subject = nodes[start]
    runs = _of(nodes, Kind.TRAINING_RUN)
    datasets = _of(nodes, Kind.DATASET)
    wanted = subject.record.kind is not Kind.DATASET
    gaps: list[Gap] = []
    shares: dict[str, float] = {}
    if wanted:
        fed = {edge.child for edge in edges if _is_data(nodes, edge)}
        asked = [(node, _data_gap(node, identity in fed)) for identity, node in _runs(nodes)]
        _judge(subject, "data", asked, "no training run stands behind it", shares, gaps)
        for question, missing in _OF_RUN.items():
            found = [(node, missing(node)) for node in runs]
            _judge(subject, question, found, "no training run stands behind it", shares, gaps)
        saved = [(node, _state_gap(node)) for node in _checkpoint(start, nodes, edges)]
        _judge(subject, "state", saved, None, shares, gaps)
        known = [(nodes[edge.child], _edge_gap(nodes, edge)) for edge in edges]
        _judge(subject, "edges", known, "it cites nothing that it was made from", shares, gaps)
    for question, missing in _OF_DATASET.items():
        found = [(node, missing(node)) for node in datasets]
        _judge(subject, question, found, "no dataset is cited", shares, gaps)
    score = sum(shares.values()) / len(shares)
    ordered = sorted(gaps, key=lambda gap: (gap.question, gap.artifact, gap.sentence))
    return Completeness(score, dict(sorted(shares.items())), tuple(ordered))


def _judge(
    subject: Node,
    question: str,
    asked: Sequence[tuple[Node, str | None]],
    nobody: str | None,
    shares: dict[str, float],
    gaps: list[Gap],
) -> None:
    """Enter the share of a question that is answered; nobody to ask is no answer."""
    if not asked and nobody is None:
        return
    if not asked:
        shares[question] = 0.0
        gaps.append(Gap(question, subject.reference, f"{subject.reference}: {nobody}."))
        return
    missing = {
        (node.reference, sentence): Gap(question, node.reference, f"{node.reference}: {sentence}.")
        for node, sentence in asked
        if sentence is not None
    }
    shares[question] = sum(sentence is None for _, sentence in asked) / len(asked)
    gaps.extend(missing.values())


def _of(nodes: Mapping[str, Node], kind: Kind) -> list[Node]:
    return [node for node in nodes.values() if node.record.kind is kind]


def _runs(nodes: Mapping[str, Node]) -> Iterable[tuple[str, Node]]:
    return ((key, node) for key, node in nodes.items() if node.record.kind is Kind.TRAINING_RUN)


def _checkpoint(start: str, nodes: Mapping[str, Node], edges: Sequence[Edge]) -> list[Node]:
    """Return the checkpoint that an artifact is or was made from."""
    if nodes[start].record.kind is Kind.CHECKPOINT:
        return [nodes[start]]
    return [
        nodes[edge.parent] for edge in edges if edge.child == start and edge.role == "checkpoint"
    ]


def _is_data(nodes: Mapping[str, Node], edge: Edge) -> bool:
    return nodes[edge.parent].record.kind is Kind.DATASET


def _data_gap(_node: Node, fed: bool) -> str | None:
    return None if fed else "it cites no dataset; pass inputs to start_run"


def _code_gap(node: Node) -> str | None:
    code = node.record.code
    if "commit" not in code:
        return "the commit of its code is unknown; train inside a Git repository"
    if not code.get("dirty"):
        return None
    if "diff" not in code:
        return "its code was changed since the commit, and the change was not kept"
    omitted = code.get("omitted") or ()
    if omitted:
        return f"{len(omitted)} changed files were left out of the kept change of its code"
    return None


def _packages_gap(node: Node) -> str | None:
    return None if node.record.lock else "the packages that it ran with are unknown"


def _params_gap(node: Node) -> str | None:
    return None if node.record.params else "it has no parameters; pass params to start_run"


def _seeds_gap(node: Node) -> str | None:
    if node.record.facts.get("seeds"):
        return None
    return "no seed is known; have a parameter called seed, or pass seeds to start_run"


def _machine_gap(node: Node) -> str | None:
    return None if node.machine else "the machine that it ran on is unknown, or was erased"


def _state_gap(node: Node) -> str | None:
    facts = node.record.facts
    lacks = [name for name in ("optimizer", "rng") if not facts.get(name)]
    if not lacks:
        return None
    return f"it was saved without {' and '.join(lacks)} state, so it may not resume exactly"


def _edge_gap(nodes: Mapping[str, Node], edge: Edge) -> str | None:
    if edge.kind is not EdgeKind.DECLARED:
        return None
    parent = nodes[edge.parent].reference
    return f"that it was made from {parent} ({edge.role}) was declared, not observed"


def _fact_gap(names: Sequence[str], sentence: str) -> Missing:
    """Return the question whether a dataset has one of some facts; an empty list is an answer."""

    def missing(node: Node) -> str | None:
        facts: Mapping[str, Any] = node.record.facts
        return None if any(facts.get(name) is not None for name in names) else sentence

    return missing


_OF_RUN: Mapping[str, Missing] = {
    "code": _code_gap,
    "machine": _machine_gap,
    "packages": _packages_gap,
    "parameters": _params_gap,
    "seeds": _seeds_gap,
}
_OF_DATASET: Mapping[str, Missing] = {
    "licence": _fact_gap(["licence"], "its licence is unknown; declare it with the dataset"),
    "schema": _fact_gap(["columns"], "its columns are unknown; register a table or arrays"),
    "sensitivity": _fact_gap(
        ["sensitivity"],
        "whether it holds sensitive data is unknown; declare its sensitivity, [] where there is "
        "none",
    ),
    "source": _fact_gap(
        ["sources", "load", "asset"], "where it came from is unknown; declare its sources"
    ),
}
QUESTIONS = tuple(sorted({*_OF_RUN, *_OF_DATASET, "data", "edges", "state"}))
"""What a lineage is asked."""
