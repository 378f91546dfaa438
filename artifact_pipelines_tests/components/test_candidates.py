"""Gates are shown as checks of one run, and stop nothing but a promotion."""

import sys

import dagster as dg
import pytest

from artifact_pipelines_tests.world import PROJECT, ROOT, World


def trained(world: World, run: str = "run-1", **params: object) -> None:
    world.materialize("datasets")
    assert world.materialize("train", run, train={"params": params}).success


def test_a_candidate_shows_every_gate_of_its_policy(world: World) -> None:
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1")

    assert outcome.checks() == {"accuracy_min": True, "integrity": True, "safety": True}
    shown = outcome.shown("candidate")
    assert shown["reference"] == "churn/v1"
    assert (shown["checkpoint"], shown["passed"]) == ("churn/run-1@3", True)
    assert shown["held_out_accuracy"] == 0.3
    with world.registry() as registry:
        assert outcome.version("candidate") == registry.find("churn/v1").content


def test_a_check_belongs_to_its_run(world: World) -> None:
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1")

    (gate, *_) = outcome.result.get_asset_check_evaluations()
    assert gate.partition == "run-1"


def test_a_check_shows_its_evidence_and_draws_it(world: World) -> None:
    world.materialize("datasets")
    world.change(gates=[{"metric": "accuracy", "min": 0.9, "slice": "x"}])
    outcome = world.materialize("train", "run-1")

    (gate,) = [
        found
        for found in outcome.result.get_asset_check_evaluations()
        if found.check_name == "accuracy_min_by_x"
    ]
    assert not gate.passed
    details = gate.metadata["details"].value
    assert isinstance(details, dict)
    assert len(details["slices"]) == 6
    assert "![accuracy by x](data:image/svg+xml;base64," in str(gate.metadata["picture"].value)


def test_a_failed_gate_fails_no_run(world: World) -> None:
    world.materialize("datasets")
    world.change(gates=[{"metric": "accuracy", "min": 0.9}])
    outcome = world.materialize("train", "run-1")

    assert outcome.success
    assert outcome.checks()["accuracy_min"] is False
    assert outcome.shown("candidate")["passed"] is False
    (failed,) = [
        found for found in outcome.result.get_asset_check_evaluations() if not found.passed
    ]
    assert failed.description == "accuracy 0.3000 is below 0.9"
    assert failed.metadata["accuracy"].value == 0.3


def test_the_next_best_checkpoint_is_tried_when_the_best_fails(world: World) -> None:
    trained(world, epochs=5)
    outcome = world.materialize("gate", "run-1")

    assert outcome.checks()["accuracy_min"] is True
    shown = outcome.shown("candidate")
    assert shown["checkpoint"] == "churn/run-1@4"
    assert "churn/v1 | accuracy_min | **failed**" in shown["gates"]
    assert "churn/v2 | accuracy_min | passed" in shown["gates"]


def test_judging_again_judges_nothing_twice(world: World) -> None:
    trained(world)
    with world.registry() as registry:
        before = len(registry.ledger(action="verdict"))
    outcome = world.materialize("gate", "run-1")

    with world.registry() as registry:
        assert len(registry.ledger(action="verdict")) == before
    assert outcome.shown("candidate")["reference"] == "churn/v1"


def test_a_changed_policy_is_in_force_from_the_next_step(world: World) -> None:
    trained(world)
    world.change(gates=[{"metric": "accuracy", "min": 0.25}])
    world.materialize("gate", "run-1")

    with world.registry() as registry:
        assert registry.policy(PROJECT).digest == world.policy.digest
        assert {verdict.policy for verdict in registry.verdicts(registry.find("churn/v1"))} == {
            world.policy.digest
        }


def test_a_run_without_checkpoints_cannot_be_judged(world: World) -> None:
    world.materialize("datasets")
    with world.registry() as registry:
        registry.start_run(PROJECT, "run-1")
    outcome = world.materialize("gate", "run-1")

    assert "the run churn/run-1 has no checkpoint to judge" in outcome.failure


def test_a_metric_that_is_no_number_is_kept_and_not_drawn(world: World) -> None:
    world.materialize("datasets")
    outcome = world.materialize("train", "run-1", train={"params": {"end": "nan", "epochs": 6}})

    assert outcome.success
    assert outcome.shown("checkpoints")["checkpoints"] == 6
    assert "accuracy" not in outcome.shown("checkpoints")
    assert "accuracy by step" not in outcome.shown("checkpoints")["curve"]
    assert outcome.shown("checkpoints")["table"].records[0].data["accuracy"] == "nan"


def test_every_gate_has_a_check_with_a_text(world: World) -> None:
    world.change(
        gates=[
            {"metric": "accuracy", "min": 0.2, "max": 0.99},
            {"metric": "accuracy", "no_worse_than": "production", "tolerance": 0.01},
            {"formats": ["safetensors"]},
        ]
    )
    specs = world.definitions().resolve_asset_graph().get(dg.AssetKey([PROJECT, "candidate"]))
    texts = {key.name for key in specs.check_keys}

    assert texts == set(world.policy.required())


def test_a_projects_modules_can_be_imported_after_dagster_has_restored_the_path(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.materialize("datasets")
    monkeypatch.setattr("sys.path", [one for one in sys.path if one not in {str(ROOT), "", "."}])
    world.materialize("train", "run-1")

    assert str(ROOT) in sys.path
