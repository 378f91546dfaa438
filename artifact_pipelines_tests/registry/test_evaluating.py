"""A run's best checkpoints are judged, the next best after a failure, and once."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import ConfigurationError, GoneError, PolicyError, TrainerError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.evaluating import Evaluation
from artifact_pipelines_tests.building import PROJECT, approve

MEASURE = "artifact_pipelines_tests.registry.measuring:mean_weight"


def policy(**changed: Any) -> Policy:
    """Return a policy that wants a mean weight of at least one half."""
    return Policy.of(
        {
            "evaluate": MEASURE,
            "evaluation": "holdout",
            "select": {"metric": "accuracy", "mode": "max", "try": 2},
            "gates": [
                {"metric": "score", "min": 0.5},
                {"metric": "score", "no_worse_than": "production", "tolerance": 0.1},
            ],
            "promotion": {"staging": "automatic", "production": {"approvals": 1}},
            **changed,
        }
    )


def holdout(registry: Registry, frame: pd.DataFrame | None = None) -> None:
    """Register evaluation data."""
    buffer = io.BytesIO()
    frame = pd.DataFrame({"scale": [1.0]}) if frame is None else frame
    frame.to_parquet(buffer, index=False)
    registry.publish_dataset(PROJECT, "holdout", {"data.parquet": buffer.getvalue()})


def train(
    registry: Registry, name: str, weights: dict[float, float], inputs: Sequence[Input] = ()
) -> None:
    """Register a run whose checkpoints claim an accuracy and have a mean weight."""
    run = registry.start_run(PROJECT, name, inputs=inputs)
    for step, (accuracy, weight) in enumerate(weights.items()):
        tensors = save({"weight": np.full(10, weight, "f4")})
        registry.publish_checkpoint(
            run,
            {"model.safetensors": tensors},
            step=step,
            facts={"metrics": {"accuracy": accuracy}},
        )
    registry.finish_run(run, "finished")


def test_the_best_checkpoint_is_judged_first(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    holdout(registry)
    train(registry, "run-1", {0.2: 0.9, 0.8: 0.7, 0.5: 0.9})
    found = registry.evaluate(PROJECT, "run-1")

    assert [tried.checkpoint.reference for tried in found.attempts] == ["digits/run-1@1"]
    assert found.chosen == found.attempts[0].model
    assert registry.why_not(found.attempts[0].model.reference, "staging") == ()
    assert found.attempts[0].metrics["score"] == pytest.approx(0.7)


def test_when_the_best_fails_the_next_best_is_tried(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    holdout(registry)
    train(registry, "run-1", {0.2: 0.9, 0.8: 0.1, 0.5: 0.9})
    found = registry.evaluate(PROJECT, "run-1")

    assert [tried.passed for tried in found.attempts] == [False, True]
    assert found.chosen is not None
    assert registry.promote(found.chosen.reference, "staging").changed


def test_no_more_are_tried_than_the_policy_says(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    holdout(registry)
    train(registry, "run-1", {0.9: 0.1, 0.8: 0.2, 0.5: 0.9})
    found = registry.evaluate(PROJECT, "run-1")

    assert len(found.attempts) == 2
    assert found.chosen is None


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_model_that_was_trained_on_the_evaluation_data_fails_what_measures(
    registry: Registry, *, declared: bool, resumed: bool
) -> None:
    registry.set_policy(PROJECT, policy(**({"trains_on_evaluation": True} if declared else {})))
    holdout(registry)
    # The same rows under another name are the same rows.
    buffer = registry.read("digits/holdout@1", "data.parquet")
    copy = registry.publish_dataset(PROJECT, "copy", {"data.parquet": buffer})
    inputs = [Input("dataset:images", copy.id)]
    if resumed:
        first = registry.start_run(PROJECT, "run-0", inputs=inputs)
        weights = {"model.safetensors": save({"weight": np.full(10, 0.7, "f4")})}
        inputs = [Input("resume", registry.publish_checkpoint(first, weights, step=0).id)]
    train(registry, "run-1", {0.8: 0.7}, inputs)
    (attempt,) = registry.evaluate(PROJECT, "run-1").attempts
    failed = {verdict.gate: verdict.reasons for verdict in attempt.verdicts if not verdict.passed}

    if declared:
        assert failed == {}
    else:
        assert sorted(failed) == ["score_min", "score_no_worse_than_production"]
        for (reason,) in failed.values():
            assert "trained on digits/copy@1, the data that it is measured on" in reason


def test_what_was_judged_is_not_judged_again(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    holdout(registry)
    train(registry, "run-1", {0.8: 0.7})
    first = registry.evaluate(PROJECT, "run-1")
    leaves = len(registry.events(limit=10_000))

    assert registry.evaluate(PROJECT, "run-1").chosen == first.chosen
    assert len(registry.events(limit=10_000)) == leaves


def test_what_was_forgotten_is_judged_by_the_model_that_is_left_of_it(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    holdout(registry)
    train(registry, "run-1", {0.9: 0.9, 0.8: 0.8, 0.1: 0.7})
    best = registry.evaluate(PROJECT, "run-1").chosen
    assert best is not None
    for checkpoint in registry.run(PROJECT, "run-1").checkpoints[:2]:
        forget(registry, checkpoint.id)
    holdout(registry, pd.DataFrame({"scale": [0.5]}))
    again = registry.evaluate(PROJECT, "run-1")

    # The second had no model of its own, so nothing is left of it.
    assert [one.checkpoint.step for one in again.attempts] == [0, 2]
    assert [one.step for one in again.skipped] == [1]
    assert [one.succeeds for one in again.attempts] == [best, None]
    assert [one.succeeds for one in registry.evaluate(PROJECT, "run-1").attempts] == [None] * 2
    forget(registry, registry.run(PROJECT, "run-1").checkpoints[2].id)
    for model in registry.models(PROJECT):
        forget(registry, model.id)
    with pytest.raises(GoneError, match="there is nothing left to judge"):
        registry.evaluate(PROJECT, "run-1")


def test_a_named_model_is_judged_and_no_other(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    holdout(registry)
    train(registry, "run-1", {0.9: 0.9, 0.8: 0.8})
    first = registry.evaluate(PROJECT, "run-1").chosen
    assert first is not None
    second = registry.publish_model(registry.run(PROJECT, "run-1").checkpoints[1])
    holdout(registry, pd.DataFrame({"scale": [0.8]}))
    made = len(registry.models(PROJECT))
    (now,) = registry.evaluate_model(second.reference).attempts
    (again,) = registry.evaluate_model(first.reference).attempts
    forget(registry, second.id)

    assert (now.model.id, now.checkpoint.step) == (second.id, 1)
    assert now.metrics["score"] == pytest.approx(0.64)
    assert again.model.id == first.id
    assert len(registry.models(PROJECT)) == made
    with pytest.raises(GoneError, match=f"{second.reference} was forgotten"):
        registry.evaluate_model(second.reference)


def forget(registry: Registry, artifact: str) -> None:
    """Leave a tombstone, as an applied plan does."""
    body = {"project": PROJECT, "plan": None, "rule": "x", "reason": "x", "approver": "x"}
    registry.append("forget", artifact, body)


def test_a_worse_model_than_production_fails(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    holdout(registry)
    train(registry, "run-1", {0.8: 0.9})
    best = registry.evaluate(PROJECT, "run-1").chosen
    assert best is not None
    approve(registry, best)
    registry.promote(best.reference, "production")
    train(registry, "run-2", {0.8: 0.6})
    found = registry.evaluate(PROJECT, "run-2")

    failed = [verdict for verdict in found.attempts[0].verdicts if not verdict.passed]
    assert [verdict.gate for verdict in failed] == ["score_no_worse_than_production"]
    assert "0.6000 against 0.9000 in production is worse" in failed[0].reasons[0]
    assert failed[0].baseline == best.id


@pytest.mark.parametrize(
    "function, reason",
    [("broken", "RuntimeError: no score"), ("nothing", "not a finite number")],
)
def test_an_evaluation_that_fails_is_a_verdict(
    registry: Registry, function: str, reason: str
) -> None:
    registry.set_policy(PROJECT, policy(evaluate=MEASURE.replace("mean_weight", function)))
    holdout(registry)
    train(registry, "run-1", {0.8: 0.9})
    found = registry.evaluate(PROJECT, "run-1")

    failed = [verdict for verdict in found.attempts[0].verdicts if not verdict.passed]
    assert failed
    assert all(reason in verdict.reasons[0] for verdict in failed)
    assert found.chosen is None


def failed(found: Evaluation) -> dict[str, str]:
    """Return why the gates of the first attempt failed, by gate."""
    verdicts = found.attempts[0].verdicts
    return {one.gate: one.reasons[0] for one in verdicts if not one.passed}


def test_an_evaluation_that_hangs_fails_its_gates_in_time(registry: Registry) -> None:
    registry.set_policy(
        PROJECT, policy(evaluate=MEASURE.replace("mean_weight", "hangs"), limits={"seconds": 0.3})
    )
    holdout(registry)
    train(registry, "run-1", {0.8: 0.9})

    assert failed(registry.evaluate(PROJECT, "run-1")) == {
        "score_min": "the evaluation took longer than 0.3 s",
        "score_no_worse_than_production": "the evaluation took longer than 0.3 s",
    }


def test_after_an_evaluation_that_killed_its_process_the_next_best_is_tried(
    registry: Registry,
) -> None:
    registry.set_policy(PROJECT, policy(evaluate=MEASURE.replace("mean_weight", "kills")))
    holdout(registry)
    train(registry, "run-1", {0.2: 0.9, 0.8: 0.1, 0.5: 0.9})
    found = registry.evaluate(PROJECT, "run-1")

    assert failed(found)["score_min"] == "the evaluation ended without an answer, with exit code 3"
    assert found.chosen == found.attempts[1].model


def rows(*labels: str) -> pd.DataFrame:
    return pd.DataFrame({"scale": [1.0] * len(labels), "label": labels})


@pytest.mark.parametrize("function", ["by_row", "mean_weight"])
def test_a_slice_is_measured_by_its_rows_or_by_asking_again(
    registry: Registry, function: str
) -> None:
    gate = {"metric": "score", "min": 0.5, "slice": "label"}
    registry.set_policy(
        PROJECT, policy(evaluate=MEASURE.replace("mean_weight", function), gates=[gate])
    )
    frame = rows("yes", "yes", "no", "yes")
    frame.loc[frame["label"] == "no", "scale"] = 0.1
    holdout(registry, frame)
    train(registry, "run-1", {0.8: 0.9})
    found = registry.evaluate(PROJECT, "run-1")

    (verdict,) = [one for one in found.attempts[0].verdicts if one.gate == "score_min_by_label"]
    expected = "0.0000" if function == "by_row" else "0.0900"
    assert verdict.reasons == (f"score for label no: {expected} is below 0.5, in 1 row",)
    assert verdict.evidence is not None
    shown = digest.parse(registry.store.get_object(verdict.evidence))["slices"]
    assert {name: one["rows"] for name, one in shown.items()} == {"no": 1, "yes": 3}


def test_scores_of_each_row_tell_how_sure_a_difference_is(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy(evaluate=MEASURE.replace("mean_weight", "by_row")))
    holdout(registry, rows(*["yes"] * 50 + ["no"] * 10))
    train(registry, "run-1", {0.8: 0.9})
    best = registry.evaluate(PROJECT, "run-1").chosen
    assert best is not None
    approve(registry, best)
    registry.promote(best.reference, "production")
    train(registry, "run-2", {0.8: 0.85})
    found = registry.evaluate(PROJECT, "run-2")

    (verdict,) = [one for one in found.attempts[0].verdicts if "no_worse" in one.gate]
    assert verdict.passed
    figures = verdict.values  # noqa: PD011 (no frame)
    low, high = figures["difference_low"], figures["difference_high"]
    assert -0.05 <= low < -0.0417 < high < 0
    assert "a difference between -0.0" in verdict.reasons[0]
    assert "difference_low" not in found.attempts[0].metrics


@pytest.mark.parametrize("tolerance, passes", [(0.15, True), (0.06, False)])
def test_each_slice_must_surely_be_no_worse_than_in_production(
    registry: Registry, tolerance: float, passes: bool
) -> None:
    gate = {"metric": "score", "no_worse_than": "production", "tolerance": tolerance}
    gates = [{**gate, "slice": "kind", "confidence": 0.95}]
    measure = MEASURE.replace("mean_weight", "by_hardness")
    registry.set_policy(PROJECT, policy(evaluate=measure, gates=gates))
    hardness = np.concatenate([np.linspace(0.005, 0.995, 100), np.full(20, 0.1)])
    holdout(registry, pd.DataFrame({"hardness": hardness, "kind": ["hard"] * 100 + ["easy"] * 20}))
    train(registry, "run-1", {0.8: 0.9})
    best = registry.evaluate(PROJECT, "run-1").chosen
    assert best is not None
    approve(registry, best)
    registry.promote(best.reference, "production")
    train(registry, "run-2", {0.8: 0.85})
    found = registry.evaluate(PROJECT, "run-2")

    (verdict,) = [one for one in found.attempts[0].verdicts if "no_worse" in one.gate]
    assert verdict.passed is passes
    assert verdict.evidence is not None
    shown = digest.parse(registry.store.get_object(verdict.evidence))["slices"]
    low, high = shown["hard"]["low"], shown["hard"]["high"]
    assert -0.15 <= low < -0.06 < -0.05 < high <= 0
    assert (shown["hard"]["passed"], shown["easy"]["passed"]) == (passes, True)
    assert (shown["easy"]["low"], shown["easy"]["high"]) == (0, 0)
    if passes:
        assert verdict.reasons == (
            "score is no worse than in production by more than 0.15 in each of 2 slices by kind",
        )
    else:
        # The difference itself is within the tolerance; that it is no larger is not sure.
        (reason,) = verdict.reasons
        interval = f"(a difference between {low:+.4f} and {high:+.4f}, with 0.95 confidence)"
        assert f"score for kind hard: 0.8500 against 0.9000 in production {interval}" in reason
        assert f"may be worse by {-low:.4f}, more than the tolerance 0.06" in reason


def test_a_gate_of_the_project_is_a_verdict_like_any_other(registry: Registry) -> None:
    mine = {"gate": MEASURE.replace("mean_weight", "fair"), "limit": 0.6, "name": "fairness"}
    registry.set_policy(PROJECT, policy(gates=[mine]))
    holdout(registry)
    train(registry, "run-1", {0.9: 0.5, 0.7: 0.8})
    found = registry.evaluate(PROJECT, "run-1")

    assert failed(found) == {"fairness": "the score is 0.50, and 0.6 is asked"}
    assert found.chosen == found.attempts[1].model
    (verdict,) = [one for one in found.attempts[1].verdicts if one.gate == "fairness"]
    assert verdict.values == {"rows_seen": 1}  # noqa: PD011 (no frame)
    assert verdict.evidence is not None
    evidence = digest.parse(registry.store.get_object(verdict.evidence))
    assert evidence == {"baseline": False, "gates": [mine]}
    assert registry.why_not(found.chosen.reference, "staging") == ()


def test_a_gate_that_changes_the_model_fails_every_gate(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy(gates=[{"gate": MEASURE.replace("mean_weight", "forges")}]))
    holdout(registry)
    train(registry, "run-1", {0.8: 0.7})
    found = failed(registry.evaluate(PROJECT, "run-1"))

    assert found.keys() == {"integrity", "safety", "forges"}
    assert all(
        "model.safetensors was changed in the model's folder" in why for why in found.values()
    )


def test_a_model_is_served_with_rows_of_the_evaluation_data(registry: Registry) -> None:
    function = "artifact_pipelines_tests.registry.plainly:weight_of"
    registry.set_policy(
        PROJECT, policy(gates=[{"serving": function, "requirements": [], "rows": 2}])
    )
    holdout(registry, pd.DataFrame({"scale": [1.0, 2.0, 3.0]}))
    train(registry, "run-1", {0.8: 0.7})
    (verdict,) = [
        one
        for one in registry.evaluate(PROJECT, "run-1").attempts[0].verdicts
        if one.gate == "serving"
    ]

    assert verdict.passed, verdict.reasons
    assert verdict.reasons[0].startswith("it answered 2 rows in ")


SCORES = "artifact_pipelines_tests.schemas:Scores"
BELOW = {
    "name": "s",
    "expectations": [
        {"type": "expect_column_max_to_be_between", "kwargs": {"column": "scale", "max_value": 3}}
    ],
}


def contracted(registry: Registry, weight: float = 0.7, **gate: Any) -> tuple[bool, str]:
    """Return what a contract on rows says of a model."""
    registry.set_policy(PROJECT, policy(gates=[gate]))
    holdout(registry, rows("yes", "no"))
    name = f"run-{len(registry.runs(PROJECT))}"
    train(registry, name, {0.8: weight})
    found = registry.evaluate(PROJECT, name).attempts[0]
    (verdict,) = [one for one in found.verdicts if one.gate in {"predictions", "features"}]
    return verdict.passed, verdict.reasons[0]


def test_predictions_are_held_to_a_contract(registry: Registry) -> None:
    function = MEASURE.replace("mean_weight", "predicted")

    assert contracted(registry, predictions=function, schema=SCORES) == (
        True, "predictions: keeps its schema in 2 rows"
    )  # fmt: skip
    passed, said = contracted(registry, 1.7, predictions=function, schema=SCORES)
    assert not passed
    assert said.startswith("predictions: column prediction: less_than_or_equal_to(1) does not hold")
    short = contracted(
        registry, predictions=function.replace("predicted", "half_predicted"), schema=SCORES
    )
    assert short == (
        False, "the contract of predictions answered wrongly: it gave 1 rows for 2"
    )  # fmt: skip


def test_features_are_held_to_a_suite(registry: Registry) -> None:
    function = MEASURE.replace("mean_weight", "doubled")

    assert contracted(registry, features=function, expectations=BELOW)[0]


def test_an_onnx_export_that_is_not_there_fails(registry: Registry) -> None:
    function = MEASURE.replace("mean_weight", "predicted")
    gate = {"onnx": "model.onnx", "inputs": function, "against": function}
    registry.set_policy(PROJECT, policy(gates=[gate]))
    holdout(registry)
    train(registry, "run-1", {0.8: 0.7})

    assert failed(registry.evaluate(PROJECT, "run-1")) == {
        "onnx": "the model has no file model.onnx"
    }


def test_the_licences_of_what_a_run_read_decide(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy(gates=[{"licences": ["MIT"]}]))
    holdout(registry)
    for name, licence in (("fine", "MIT"), ("foul", "GPL-3.0-only")):
        data = registry.publish_dataset(
            PROJECT, f"data-{name}", {"data.csv": name.encode()}, facts={"licence": licence}
        )
        run = registry.start_run(
            PROJECT, name, inputs=[Input(f"dataset:data-{name}", data.id)], params={"lr": 1}
        )
        weights = save({"weight": np.ones(10, "f4")})
        registry.publish_checkpoint(run, {"model.safetensors": weights}, step=1)

    assert failed(registry.evaluate(PROJECT, "fine")) == {}
    assert failed(registry.evaluate(PROJECT, "foul")) == {
        "governance": "digits/data-foul@1 is under GPL-3.0-only, which is not allowed"
    }


def test_data_and_a_project_without_an_owner_stop_a_model(registry: Registry) -> None:
    holdout(registry)
    for name, facts in (("known", {"owner": "team:vision"}), ("stray", {})):
        data = registry.publish_dataset(PROJECT, name, {"x": name.encode()}, facts=facts)
        run = registry.start_run(PROJECT, f"run-{name}", inputs=[Input(f"dataset:{name}", data.id)])
        weights = save({"weight": np.ones(10, "f4")})
        registry.publish_checkpoint(run, {"model.safetensors": weights}, step=1)
    gates = [{"owner": ["data", "project"]}]
    registry.set_policy(PROJECT, policy(gates=gates, owners=["team:vision"]))

    assert failed(registry.evaluate(PROJECT, "run-known")) == {}
    assert failed(registry.evaluate(PROJECT, "run-stray")) == {
        "governance": "digits/stray@1 has no owner; declare its owner with the dataset"
    }

    registry.set_policy(PROJECT, policy(gates=gates))

    assert failed(registry.evaluate(PROJECT, "run-known")) == {
        "governance": "the project has no owner; name its owners in its YAML"
    }


def test_the_code_of_a_projects_gate_is_in_the_digest(registry: Registry) -> None:
    codes = set()
    gate = {"gate": MEASURE.replace("mean_weight", "fair"), "limit": 0.6}
    for number, gates in enumerate([[], [gate]]):
        registry.set_policy(PROJECT, policy(gates=gates))
        holdout(registry)
        train(registry, f"run-{number}", {0.7: 0.8})
        codes.add(registry.evaluate(PROJECT, f"run-{number}").attempts[0].verdicts[0].gate_code)

    assert len(codes) == 2


def test_a_file_that_could_run_something_fails_the_safety_gate(registry: Registry) -> None:
    registry.set_policy(PROJECT, Policy.of({"promotion": {"staging": "automatic"}}))
    run = registry.start_run(PROJECT, "run-1")
    registry.publish_checkpoint(run, {"model.json": b"cos\nsystem\n(S'true'\ntR."}, step=0)
    found = registry.evaluate(PROJECT, "run-1")

    verdicts = {verdict.gate: verdict.passed for verdict in found.attempts[0].verdicts}
    assert verdicts == {"integrity": True, "safety": False}


def test_damaged_bytes_fail_every_gate(registry: Registry, tmp_path: Path) -> None:
    registry.set_policy(PROJECT, policy())
    holdout(registry)
    train(registry, "run-1", {0.8: 0.9})
    place = next(iter(registry.locate(_keys(registry)).values()))
    pack = tmp_path / "home" / "store" / "packs" / place.pack[:2] / place.pack
    data = bytearray(pack.read_bytes())
    data[place.offset + place.stored - 1] ^= 1
    pack.write_bytes(bytes(data))
    found = registry.evaluate(PROJECT, "run-1")

    assert not any(verdict.passed for verdict in found.attempts[0].verdicts)
    assert {verdict.gate for verdict in found.attempts[0].verdicts} == set(policy().required())


def test_a_run_without_checkpoints_cannot_be_judged(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    registry.start_run(PROJECT, "run-1")

    with pytest.raises(TrainerError, match="no checkpoint"):
        registry.evaluate(PROJECT, "run-1")


def test_without_evaluation_data_nothing_is_judged(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy())
    train(registry, "run-1", {0.8: 0.9})

    with pytest.raises(PolicyError, match="has no version"):
        registry.evaluate(PROJECT, "run-1")


def test_a_function_that_is_not_there_is_named(registry: Registry) -> None:
    registry.set_policy(PROJECT, policy(evaluate="no_such_module:measure"))
    holdout(registry)
    train(registry, "run-1", {0.8: 0.9})

    with pytest.raises(ConfigurationError, match="no_such_module:measure"):
        registry.evaluate(PROJECT, "run-1")


def _keys(registry: Registry) -> list[str]:
    checkpoint = registry.find("digits/run-1@0")
    return registry.publication_of(checkpoint.id, checkpoint.session).keys()
