"""What a model was made from may be used together, holds what it may hold, and is known."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain.gate import Governance
from artifact_pipelines.domain.lineage import Ancestry, Edge, EdgeKind, Node
from artifact_pipelines.domain.record import Input, Kind, Record
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates.governance import governance_finding

CONTENT = "0" * 64


def dataset(name: str, **facts: Any) -> Record:
    return Record(Kind.DATASET, "p", name, content=CONTENT, facts=facts)


def ancestry(*sources: Record, evaluation: Record | None = None) -> Ancestry:
    """Return that of a model whose run read some sources."""
    inputs = tuple(Input(f"dataset:{source.name}", source.id) for source in sources)
    run = Record(Kind.TRAINING_RUN, "p", "run-1", content=CONTENT, inputs=inputs, nonce="1")
    checkpoint = Record(Kind.CHECKPOINT, "p", "run-1", content=CONTENT, run=run.id, step=1)
    model = Record(
        Kind.MODEL, "p", "p", content=CONTENT, inputs=(Input("checkpoint", checkpoint.id),)
    )
    edges = [
        Edge(model.id, checkpoint.id, "checkpoint", EdgeKind.OBSERVED),
        Edge(checkpoint.id, run.id, "run", EdgeKind.OBSERVED),
        *(
            Edge(run.id, source.id, f"dataset:{source.name}", EdgeKind.OBSERVED)
            for source in sources
        ),
    ]
    records = [model, checkpoint, run, *sources]
    if evaluation is not None:
        edges.append(
            Edge(model.id, evaluation.id, f"evaluation:{evaluation.name}", EdgeKind.OBSERVED)
        )
        records.append(evaluation)
    nodes = {
        record.id: Node(f"p/{record.name}-{record.kind}", record, machine=True)
        for record in records
    }
    return Ancestry(model.id, nodes, edges)


def licensed(allowed: list[str], *licences: str | None) -> Finding:
    sources = [
        dataset(f"d{number}", **({} if licence is None else {"licence": licence}))
        for number, licence in enumerate(licences)
    ]
    return governance_finding(Governance(licences=tuple(allowed)), ancestry(*sources))


@pytest.mark.parametrize(
    "allowed, licences, combined",
    [
        (["CC-BY-4.0"], ["CC-BY-4.0"], "CC-BY-4.0"),
        (["MIT", "CC-BY-4.0"], ["MIT", "CC-BY-4.0", "MIT"], "CC-BY-4.0 AND MIT"),
        (["MIT"], ["GPL-3.0-only OR MIT"], "GPL-3.0-only OR MIT"),
        (["MIT", "BSD-3-Clause"], ["MIT AND BSD-3-Clause"], "BSD-3-Clause AND MIT"),
        (["mit"], ["MIT"], "MIT"),
        (
            ["GPL-2.0-only WITH Classpath-exception-2.0"],
            ["GPL-2.0-only WITH Classpath-exception-2.0"],
            "GPL-2.0-only WITH Classpath-exception-2.0",
        ),
        (["LicenseRef-house"], ["LicenseRef-house"], "LicenseRef-house"),
    ],
)
def test_sources_under_allowed_licences_pass_and_are_combined(
    allowed: list[str], licences: list[str], combined: str
) -> None:
    finding = licensed(allowed, *licences)

    assert finding.reasons == (f"its sources may be used together under {combined}",)
    assert finding.passed
    assert finding.values["licence"] == combined


@pytest.mark.parametrize(
    "allowed, licence, said",
    [
        (["MIT"], "GPL-3.0-only", "is under GPL-3.0-only, which is not allowed"),
        (["MIT"], "MIT AND GPL-3.0-only", "which is not allowed"),
        (["GPL-2.0-only"], "GPL-2.0-only WITH Classpath-exception-2.0", "which is not allowed"),
        (["MIT"], "LicenseRef-house", "is under LicenseRef-house, which is not allowed"),
        (["MIT"], "free for all", "is under 'free for all', which is no SPDX expression"),
        (["MIT"], "MIT OR", "which is no SPDX expression"),
        (["MIT"], None, "has no licence, so nobody knows whether it may be used"),
        (["MIT"], "  ", "has no licence"),
        (["MIT", "CC-BY"], "MIT", "the gate allows 'CC-BY', which is no SPDX licence"),
        ([], "MIT", "is under MIT, which is not allowed"),
    ],
)
def test_one_source_that_may_not_be_used_fails(
    allowed: list[str], licence: str | None, said: str
) -> None:
    finding = licensed(allowed, "MIT", licence) if "MIT" in allowed else licensed(allowed, licence)

    assert not finding.passed
    assert said in finding.reasons[0]
    assert "licence" not in finding.values


def test_a_run_that_cites_no_data_has_an_unknown_licence() -> None:
    finding = licensed(["MIT"])

    assert not finding.passed
    assert "cites no data, so nobody knows" in finding.reasons[0]


def test_data_that_a_model_was_only_measured_on_binds_it_to_nothing() -> None:
    measured = dataset("holdout", licence="CC-BY-NC-4.0", sensitivity=["health"])
    found = ancestry(dataset("d", licence="MIT", sensitivity=[]), evaluation=measured)
    gate = Governance(licences=("MIT",), sensitivity=())

    assert governance_finding(gate, found).passed


def test_a_base_model_brings_its_licence() -> None:
    facts = {"licence": "CC-BY-NC-4.0"}
    base = Record(Kind.TRAINING_RUN, "hub", "llm", content=CONTENT, nonce="1", facts=facts)
    found = ancestry(dataset("d", licence="MIT"))
    run = next(key for key, node in found.nodes.items() if node.record.kind is Kind.TRAINING_RUN)
    edge = Edge(run, base.id, "base:llm", EdgeKind.DECLARED)
    nodes = {**found.nodes, base.id: Node("hub/llm", base, machine=True)}
    finding = governance_finding(
        Governance(licences=("MIT",)), Ancestry(found.start, nodes, [*found.edges, edge])
    )

    assert finding.reasons == ("hub/llm is under CC-BY-NC-4.0, which is not allowed",)


@given(st.lists(st.sampled_from(["MIT", "Apache-2.0", "GPL-3.0-only", "CC0-1.0"]), min_size=1))
def test_a_model_may_be_used_when_every_source_may(licences: list[str]) -> None:
    allowed = ["MIT", "CC0-1.0"]

    assert licensed(allowed, *licences).passed == (set(licences) <= set(allowed))


def sensitive(allowed: list[str], **facts: Any) -> Finding:
    gate = Governance(sensitivity=tuple(allowed))
    return governance_finding(gate, ancestry(dataset("d", **facts)))


def test_kinds_of_sensitive_data_must_be_told_and_allowed() -> None:
    assert sensitive([], sensitivity=[]).passed
    assert sensitive(["pseudonymous"], sensitivity=["pseudonymous"]).passed
    assert sensitive([], sensitivity=["health"]).reasons == (
        "p/d-dataset holds health data, which is not allowed",
    )
    assert sensitive([]).reasons == ("p/d-dataset does not say whether it holds sensitive data",)


def test_every_dataset_says_what_is_asked_of_it() -> None:
    gate = Governance.model_validate({"fields": ["sources", "rows"]})
    whole = governance_finding(gate, ancestry(dataset("d", sources=[], rows=3)))
    lacking = governance_finding(gate, ancestry(dataset("d", rows=3)))

    assert whole.reasons == ("every dataset says its sources, rows",)
    assert lacking.reasons == ("p/d-dataset does not say its sources",)


def test_somebody_answers_for_the_data_and_for_the_project() -> None:
    gate = Governance(owner=("data", "project"))
    owned = ancestry(dataset("d", owner="team:vision"), evaluation=dataset("holdout"))
    finding = governance_finding(gate, owned, ["lead@example.org"])
    lacking = governance_finding(gate, ancestry(dataset("d", owner=" ")))

    assert finding.passed
    assert finding.reasons == ("its data and its project have owners",)
    assert finding.evidence == {
        "owners": {"p/d-dataset": "team:vision", "project": ["lead@example.org"]}
    }
    assert lacking.reasons == (
        "p/d-dataset has no owner; declare its owner with the dataset",
        "the project has no owner; name its owners in its YAML",
    )


def test_a_gate_asks_for_the_owner_of_what_it_names_alone() -> None:
    nobodys = ancestry(dataset("d"))

    assert governance_finding(Governance(owner=("project",)), nobodys, ["team:vision"]).passed
    assert not governance_finding(Governance(owner=("data",)), nobodys, ["team:vision"]).passed


def test_a_lineage_answers_the_questions_that_are_asked() -> None:
    found = ancestry(dataset("d", licence="MIT", load="a:b"))
    some = governance_finding(Governance(lineage=("data", "licence", "source")), found)
    every = governance_finding(Governance.model_validate({"lineage": "complete"}), found)

    assert some.passed
    assert not every.passed
    assert any("the commit of its code is unknown" in reason for reason in every.reasons)
    assert every.evidence is not None
    assert every.evidence["lineage"]["code"] == 0.0


def test_many_broken_rules_are_counted() -> None:
    finding = licensed(["MIT"], *["GPL-3.0-only"] * 30)

    assert len(finding.reasons) == 21
    assert finding.reasons[-1] == "10 more rules are broken"
