"""A model is served in a fresh process: what it needs, gives and takes is seen there."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from artifact_pipelines.domain.gate import Serving
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.verdict import Finding
from artifact_pipelines.gates import sandbox as sandboxes
from artifact_pipelines.gates.case import Case
from artifact_pipelines.gates.sandbox import Sandbox
from artifact_pipelines.gates.serving import serving_gate
from artifact_pipelines_tests.gates.test_sandbox import alive

HERE = "artifact_pipelines_tests.gates.served"
GOLDEN = {"inputs": [{"x": 1.0}, {"x": 2.0}, {"x": 4.0}], "outputs": [3.0, 6.0, 12.0]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that multiplies by three."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"factor": 3}))
    return folder


def served(model: Path, function: str = "times", **fields: Any) -> Finding:
    declared = {
        "serving": f"{HERE}:{function}",
        "requirements": [],
        "golden": {"inputs": GOLDEN["inputs"]},
        **fields,
    }
    gate = Serving.model_validate(declared)
    with Sandbox(60, 10**9) as sandbox:
        case = Case(
            policy=Policy.of({"gates": [declared]}),
            model=model,
            damaged=(),
            digests={},
            evaluation=None,
            baseline=lambda: None,
            dataset=lambda _: None,
            ancestry=lambda: pytest.fail("no gate asked for it"),
            layout=lambda _: pytest.fail("no gate asked for it"),
            sandbox=sandbox,
        )
        return serving_gate(gate, case)


def test_a_model_that_answers_passes_and_says_how_fast(model: Path) -> None:
    finding = served(model, golden=GOLDEN)

    assert finding.passed, finding.reasons
    assert finding.values["serving_agreement"] == 1.0
    assert finding.values["serving_answers"] == 3
    assert 1 < finding.values["serving_megabytes"] < 60
    assert "it answered 3 rows" in finding.reasons[0]
    assert "100% as the golden answers say" in finding.reasons[0]
    assert finding.evidence is not None
    assert finding.evidence["same_again"] is True


def test_answers_may_be_nested(model: Path) -> None:
    outputs = [{"score": [value], "name": f"n{value:.0f}"} for value in (3.0, 6.0, 12.001)]
    golden = {**GOLDEN, "outputs": outputs}

    assert served(model, "named", golden=golden, tolerance=0.001).passed
    assert not served(model, "named", golden=golden).passed


def test_golden_answers_that_differ_fail_below_the_share(model: Path) -> None:
    golden = {**GOLDEN, "outputs": [3.0, 6.0, 13.0]}
    finding = served(model, golden=golden)

    assert finding.reasons == ("it agrees with 2 of 3 golden answers, fewer than 100%",)
    assert finding.evidence is not None
    assert finding.evidence["different"] == [{"row": 2, "answer": 12.0, "golden": 13.0}]
    assert served(model, golden=golden, agree=0.6).passed
    assert served(model, golden=golden, tolerance=0.1).passed


@pytest.mark.parametrize(
    "function, said",
    [
        ("short", "it gave 2 answers to 3 rows"),
        ("infinite", "it gave answers that are not finite, or no JSON"),
        ("strange", "it gave answers that are not finite, or no JSON"),
        ("fails", "it raised ValueError: no such layer in model for 1 columns"),
        ("dies", "the model's own process ended without an answer, with exit code 9"),
        ("missing", "it raised AttributeError"),
        ("undeclared", "it asked for numpy, which is not declared"),
        ("probes", "weights; it asked for safetensors, which is not declared"),
        ("ours", "it asked for artifact_pipelines, which is not declared"),
    ],
)
def test_a_model_that_cannot_be_served_says_why(model: Path, function: str, said: str) -> None:
    finding = served(model, function)

    assert not finding.passed
    assert said in finding.reasons[0]


def test_a_model_that_hangs_is_killed_in_time(model: Path) -> None:
    began = time.monotonic()
    finding = served(model, "hangs", seconds=1)

    assert finding.reasons == ("the model's own process took longer than 1 s",)
    assert time.monotonic() - began < 20


def test_a_model_that_eats_memory_is_killed(model: Path) -> None:
    finding = served(model, "grows", memory="100MB")

    assert finding.reasons == ("the model's own process used more than 100 MB of memory",)


def test_memory_that_was_taken_for_a_moment_counts(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if nobody had looked in that moment.
    monkeypatch.setattr(sandboxes, "used_memory", lambda *_, **__: 0)
    finding = served(model, "swells", memory="100MB")

    assert finding.reasons == ("it used more than 100 MB of memory",)
    assert served(model, "swells", memory="400MB").passed


def test_what_a_model_leaves_behind_ends_with_it(model: Path) -> None:
    assert served(model, "breeds").passed
    child = int(model.with_name("child").read_text())

    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def test_it_is_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", "/somewhere")
    alone = {"variables": [], "alone": True, "isolated": 1}
    finding = served(model, "surroundings", golden={**GOLDEN, "outputs": [alone] * 3})

    assert finding.passed, finding.evidence


def test_declared_requirements_come_with_what_they_need(model: Path) -> None:
    finding = served(model, "of_frame", requirements=["pandas>=2"], golden=GOLDEN)

    assert finding.passed, finding.reasons
    assert finding.evidence is not None
    assert {"numpy", "pandas"} <= finding.evidence["used"].keys()
    assert "numpy " in finding.reasons[0]


def test_without_declared_requirements_everything_may_be_imported(model: Path) -> None:
    for function in ("undeclared", "of_frame"):
        finding = served(model, function, requirements=None, golden=GOLDEN)

        assert finding.passed, finding.reasons


@pytest.mark.parametrize(
    "requirement, said",
    [
        ("no-such-thing-at-all", "the requirement no-such-thing-at-all is not installed"),
        ("numpy<1", "the requirement numpy<1 is not met by"),
        ("numpy=>2", "'numpy=>2' is no requirement"),
    ],
)
def test_requirements_must_be_met(model: Path, requirement: str, said: str) -> None:
    finding = served(model, requirements=[requirement])

    assert not finding.passed
    assert said in finding.reasons[0]


def test_without_anything_to_ask_a_model_fails(model: Path) -> None:
    finding = served(model, golden=None)

    assert "there is nothing to ask it" in finding.reasons[0]
