"""A completeness score is about what is answered, and says what is not."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.lineage import (
    QUESTIONS,
    Completeness,
    Edge,
    EdgeKind,
    Node,
    completeness,
)
from artifact_pipelines.domain.record import Input, Kind, Record

CONTENT = digest.sha256(b"")
DESCRIBED = {
    "columns": {"x": "int64"},
    "licence": "CC-BY-4.0",
    "sensitivity": [],
    "sources": [{"uri": "s3://b/k", "version": "3"}],
}
CODE = {"commit": "0" * 40, "dirty": False}


def lineage(
    dataset: dict[str, Any] | None = None,
    kind: EdgeKind = EdgeKind.OBSERVED,
    machine: bool = True,
    saved: dict[str, Any] | None = None,
    **run: Any,
) -> Completeness:
    """Return the completeness of a checkpoint of a run on a dataset."""
    data = Record(Kind.DATASET, "p", "d", CONTENT, facts=DESCRIBED if dataset is None else dataset)
    fields: dict[str, Any] = {
        "params": {"lr": 1},
        "code": CODE,
        "lock": CONTENT,
        "facts": {"seeds": {"seed": 1}},
    } | run
    inputs = (Input("dataset:d", data.id),)
    trained = Record(Kind.TRAINING_RUN, "p", "r", CONTENT, inputs=inputs, nonce="n", **fields)
    facts = {"optimizer": True, "rng": True} if saved is None else saved
    made = Record(Kind.CHECKPOINT, "p", "r", CONTENT, run=trained.id, step=1, facts=facts)
    nodes = {
        data.id: Node("p/d@1", data, False),
        trained.id: Node("p/r", trained, machine),
        made.id: Node("p/r@1", made, False),
    }
    edges = [
        Edge(made.id, trained.id, "run", EdgeKind.OBSERVED),
        Edge(trained.id, data.id, "dataset:d", kind),
    ]
    return completeness(made.id, nodes, edges)


def test_a_lineage_that_answers_everything_is_complete() -> None:
    found = lineage()

    assert (found.score, found.missing) == (1.0, ())
    assert set(found.questions) == set(QUESTIONS)


def test_what_is_missing_is_named_with_the_artifact_and_the_remedy() -> None:
    found = lineage(dataset={"rows": 3}, params={}, machine=False)

    assert {gap.question for gap in found.missing} == {
        *("licence", "schema", "sensitivity", "source", "parameters", "machine")
    }
    assert found.score == 1 - 6 / len(QUESTIONS)
    assert "p/d@1: its licence is unknown; declare it with the dataset." in {
        gap.sentence for gap in found.missing
    }


def test_a_declared_edge_is_half_an_answer_where_the_other_was_observed() -> None:
    assert lineage(kind=EdgeKind.DECLARED).questions["edges"] == 0.5
    assert lineage(kind=EdgeKind.REDERIVABLE).questions["edges"] == 1.0


def test_changed_code_counts_where_the_change_was_kept() -> None:
    changed = CODE | {"dirty": True}

    assert lineage(code=changed).questions["code"] == 0
    assert lineage(code=changed | {"diff": "code.diff"}).questions["code"] == 1
    omitted = lineage(code=changed | {"diff": "code.diff", "omitted": ["w.bin"]})
    assert omitted.questions["code"] == 0


def test_a_checkpoint_without_its_state_may_not_resume() -> None:
    (gap,) = lineage(saved={"optimizer": True}).missing

    assert gap.sentence == "p/r@1: it was saved without rng state, so it may not resume exactly."


def test_a_lonely_model_answers_nothing() -> None:
    alone = Record(Kind.CHECKPOINT, "p", "r", CONTENT, run=CONTENT, step=1)
    found = completeness(alone.id, {alone.id: Node("p/r@1", alone, False)}, [])

    assert found.score == 0
    assert {gap.question for gap in found.missing} == set(QUESTIONS)


def test_a_dataset_is_asked_about_itself_only() -> None:
    data = Record(Kind.DATASET, "p", "d", CONTENT, facts=DESCRIBED)
    found = completeness(data.id, {data.id: Node("p/d@1", data, False)}, [])

    assert found.score == 1
    assert set(found.questions) == {"licence", "schema", "sensitivity", "source"}


@given(
    st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in DESCRIBED.items()}),
    st.booleans(),
    st.sampled_from(EdgeKind),
)
def test_the_score_is_the_mean_of_the_questions_and_full_only_without_gaps(
    dataset: dict[str, Any], machine: bool, kind: EdgeKind
) -> None:
    found = lineage(dataset=dataset, machine=machine, kind=kind)

    assert 0 <= found.score <= 1
    assert (found.score == 1) == (not found.missing)
    assert abs(found.score - sum(found.questions.values()) / len(found.questions)) < 1e-12
