"""Attempts to get a model into production without proof; the table is in docs/threat-model.md."""

import random
import re
from pathlib import Path

import pytest

import artifact_pipelines_tests
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.signing import SigningKey
from artifact_pipelines.domain.verdict import Verdict
from artifact_pipelines.errors import (
    ArtifactError,
    DigestMismatchError,
    GovernanceError,
    PromotionRefusedError,
)
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT

HERE = Path(artifact_pipelines_tests.__file__).parent
PAGE = HERE.parent / "docs" / "threat-model.md"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "home", actor="tester")


def edit(registry: Registry, statement: str) -> None:
    registry.catalog.write(lambda tx: tx.conn.exec_driver_sql(statement))


def pointer_said(registry: Registry, artifact: str) -> dict[str, object]:
    """Return the statement of a move of production to a model."""
    served = registry.resolve("digits@production")
    return {
        "type": "pointer",
        "origin": registry.origin,
        "project": PROJECT,
        "stage": "production",
        "artifact": artifact,
        "previous": served.model.id,
        "pointer": served.seq,
        "policy": building.POLICY.digest,
        "verdicts": [],
        "approvals": [],
    }


def test_every_attempt_of_the_table_has_its_test() -> None:
    named = re.findall(r"`([a-z_/]+)\.py::(test_\w+)`", PAGE.read_text())
    missing = [
        (file, name)
        for file, name in named
        if f"def {name}(" not in (HERE / f"{file}.py").read_text()
    ]

    assert len(named) >= 15
    assert missing == []


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(1, 12))]
)
def test_no_order_of_public_calls_reaches_production_without_proof(  # noqa: C901  a call each
    registry: Registry, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    registry.set_policy(PROJECT, building.POLICY)
    registry.create_key("alice")
    runs = [building.run(registry, f"run-{n}", seed=n)[-1] for n in range(3)]
    models = [registry.publish_model(run) for run in runs]

    def act(call: str) -> None:
        model = rng.choice(models)
        name = model.reference
        match call:
            case "pass" | "fail":
                building.judge(registry, model, passed=call == "pass")
            case "request":
                registry.request(name, "production")
            case "approve":
                registry.approve(name, "production", "alice")
            case "promote":
                registry.promote(name, rng.choice(["staging", "production"]))
            case "rollback":
                registry.rollback(PROJECT, rng.choice(["staging", "production"]), to=name)
            case "alias":
                registry.set_alias(name, rng.choice(["champion", "production"]))
            case "tag":
                registry.tag(name, "stage", "production")
            case "sign":
                registry.sign_head()
            case "rotate":
                registry.rotate_key("alice")

    calls = ["pass", "fail", "request", "approve", "promote", "rollback", "alias", "tag", "sign"]
    refused = 0
    for _ in range(50):
        try:
            act(rng.choice([*calls, "promote", "rotate"]))
        except ArtifactError:
            refused += 1
    registry.sign_head()

    # The verifier of bundles is a second, independent reading of the rules.
    assert refused
    assert registry.verify_ledger().problems == ()
    for stage in registry.stages(PROJECT):
        bundle = registry.export_bundle(f"digits@{stage}", tmp_path / stage)
        assert bundle.ok, bundle.report


def test_a_verdict_of_another_digest_does_not_count(registry: Registry) -> None:
    building.candidate(registry, "run-1")
    other = registry.publish_model(building.run(registry, "run-2", seed=2)[-1])
    edit(registry, f"update verdict set artifact = '{other.id}'")

    with pytest.raises(PromotionRefusedError, match="integrity, safety has no verdict"):
        registry.promote(other.reference, "staging")


def test_a_policy_that_changes_after_the_verdict_stops_the_promotion(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")
    promotion = registry.promotion(model, "staging")
    assert next(promotion) == "decided"
    document = {**building.POLICY.document(), "retention": {"keep": {"last": 9}}}
    registry.set_policy(PROJECT, Policy.of(document))

    with pytest.raises(PromotionRefusedError, match="the policy changed meanwhile"):
        next(promotion)


@pytest.mark.parametrize("signature", ["", "AAAA", "A" * 86 + "=="])
def test_an_unsigned_approval_does_not_count(registry: Registry, signature: str) -> None:
    model = building.candidate(registry, "run-1")
    building.approve(registry, model)
    edit(registry, f"update approval set signature = '{signature}'")

    with pytest.raises(PromotionRefusedError, match="0 of 1 approvals"):
        registry.promote(model.reference, "production")


def test_forged_verdicts_approvals_and_promotion_are_never_served(registry: Registry) -> None:
    served = building.promoted(registry, "run-1")
    model = registry.publish_model(building.run(registry, "run-2", seed=2)[-1])
    stranger = SigningKey.generate()
    seqs = []
    for gate in building.POLICY.required():
        verdict = Verdict(
            project=PROJECT,
            artifact=model.id,
            gate=gate,
            passed=True,
            policy=building.POLICY.digest,
            baseline=served.id,
            evaluation=None,
            gate_code="0" * 64,
            reasons=["forged"],
            values={},
            evidence=None,
        )
        body = stranger.sign_statement(verdict.payload(registry.origin)).as_body()
        seqs.append(registry.append("verdict", model.id, body).seq)
    approval = {
        "type": "approval",
        "origin": registry.origin,
        "project": PROJECT,
        "stage": "production",
        "artifact": model.id,
        "policy": building.POLICY.digest,
        "pointer": registry.resolve("digits@production").seq,
        "approver": "alice",
    }
    body = stranger.sign_statement(approval).as_body()
    approved = registry.append("approval", "digits/production", body).seq
    said = {**pointer_said(registry, model.id), "verdicts": seqs, "approvals": [approved]}
    body = stranger.sign_statement(said).as_body()
    registry.append("promote", "digits/production", body)
    # With the stranger's key in the table of keys, every row of the database fits.
    edit(
        registry,
        "insert into signing_key (id, name, public, roles, seq) values "
        f"('{stranger.key_id}', 'x', '{stranger.public.hex}', 'approver,gate,operator', 1)",
    )

    with pytest.raises(GovernanceError, match="unregistered key"):
        registry.sign_head()
    assert registry.resolve("digits@production").model == served
    assert not registry.verify_ledger().ok


def test_swapped_bytes_are_neither_served_nor_promoted(registry: Registry, tmp_path: Path) -> None:
    model = building.promoted(registry, "run-1")
    other = building.candidate(registry, "run-2", seed=2)
    building.approve(registry, other)
    backend = registry.store.backend
    mine, theirs = (
        registry.locate(registry.publication_of(one.id, one.session).keys())
        for one in (model, other)
    )
    one = next(iter(mine.values()))
    two = next(place for place in theirs.values() if place.pack != one.pack)
    keys = [f"packs/{place.pack[:2]}/{place.pack}" for place in (one, two)]
    data = [backend.get(key) for key in keys]
    backend.put(keys[0], data[1])
    backend.put(keys[1], data[0])

    with pytest.raises((DigestMismatchError, ArtifactError)):
        registry.fetch("digits@production", tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    with pytest.raises(PromotionRefusedError, match="is damaged"):
        registry.promote(other.reference, "production")
