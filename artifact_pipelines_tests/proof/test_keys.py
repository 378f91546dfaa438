"""Keys come and go; what was signed while they counted stays valid, and nothing after."""

from pathlib import Path

import pytest

from artifact_pipelines.catalog import ledger
from artifact_pipelines.domain.signing import SigningKey
from artifact_pipelines.errors import (
    GovernanceError,
    KeyMissingError,
    LedgerError,
    PolicyError,
    PromotionRefusedError,
)
from artifact_pipelines.registry import Registry, open_registry, verify
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "home", actor="tester")


def whole(registry: Registry, tmp_path: Path) -> bool:
    """Return whether the ledger and a bundle of production verify."""
    report = registry.export_bundle("digits@production", tmp_path / "bundle").report

    assert report["ok"], report
    assert registry.verify_ledger().problems == ()
    return True


def test_every_key_is_rotated_and_everything_still_verifies(
    registry: Registry, tmp_path: Path
) -> None:
    building.promoted(registry, "run-1")
    before = {key.name: key.id for key in registry.key_list()}
    for name in ("service", "alice", "owner"):
        registry.rotate_key(name, reason="yearly")
    log = registry.log_key()
    registry.rotate_log_key("yearly")
    model = building.candidate(registry, "run-2", seed=2)
    registry.request(model.reference, "production")
    registry.approve(model.reference, "production", "alice")
    registry.promote(model.reference, "production")

    in_force = {key.name: key.id for key in registry.key_list() if key.revoked is None}
    assert in_force.keys() == before.keys()
    assert not set(in_force.values()) & set(before.values())
    assert registry.log_key() != log
    assert registry.resolve("digits@production").model == model
    assert whole(registry, tmp_path)
    kept = registry.log_key()
    bundle = tmp_path / "bundle"
    assert verify.check(bundle, kept.hex)["ok"]
    assert verify.check(bundle, log.hex)["kind"] == "untrusted"


def test_a_signer_that_lost_its_memory_knows_the_rotated_owner(
    registry: Registry, tmp_path: Path
) -> None:
    building.promoted(registry, "run-1")
    registry.rotate_key("owner")
    (registry.keys.root / "signer.json").unlink()
    building.dataset(registry, rows=9)
    registry.sign_head()

    assert whole(registry, tmp_path)


@pytest.mark.parametrize("name", ["signer.json", "log.key"])
def test_nothing_is_moved_that_the_signer_could_not_sign(registry: Registry, name: str) -> None:
    building.promoted(registry, "run-1")
    building.promoted(registry, "run-2", seed=2)
    before = registry.catalog.read(ledger.head).size
    place = registry.keys.root / name
    whole_ = place.read_bytes()
    place.write_bytes(b"zz")

    with pytest.raises(KeyMissingError, match="is damaged"):
        registry.rollback(PROJECT, "production")
    assert registry.catalog.read(ledger.head).size == before
    place.write_bytes(whole_)
    assert registry.rollback(PROJECT, "production").model.reference == "digits/v1"


def test_a_lost_key_is_replaced_as_the_sentence_says(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    building.promoted(registry, "run-2", seed=2)
    (registry.keys.root / "service.key").unlink()

    with pytest.raises(KeyMissingError, match="artifact-pipelines key rotate service"):
        registry.rollback(PROJECT, "production")
    registry.rotate_key("service", reason="lost")
    assert registry.rollback(PROJECT, "production").changed


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"size": 3}', b"\xff\xfe"])
@pytest.mark.parametrize("name", ["signer.json", "seen.json"])
def test_a_damaged_memory_is_said_and_can_be_moved_away(
    registry: Registry, name: str, damage: bytes
) -> None:
    model = building.promoted(registry, "run-1")
    registry.resolve("digits@production")
    place = registry.keys.root / name
    place.write_bytes(damage)

    with pytest.raises(KeyMissingError, match=f"{name} is damaged; .*move\\s+it away"):
        (registry.sign_head if name == "signer.json" else registry.newest_head)()
    place.unlink()
    building.dataset(registry, rows=9)
    registry.sign_head()
    assert registry.resolve("digits@production").model == model


def test_what_a_revoked_key_signed_stays_and_what_it_signs_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    first = building.promoted(registry, "run-1")
    model = building.candidate(registry, "run-2", seed=2)
    registry.request(model.reference, "production")
    stolen = registry.keys.load("alice")
    registry.revoke_key("alice", "stolen")

    with pytest.raises(KeyMissingError, match="no key 'alice' is registered"):
        registry.approve(model.reference, "production", "alice")
    said = {
        "type": "approval",
        "origin": registry.origin,
        "project": PROJECT,
        "stage": "production",
        "artifact": model.id,
        "policy": building.POLICY.digest,
        "pointer": registry.resolve("digits@production").seq,
        "approver": "alice",
    }
    assert registry.resolve("digits@production").model == first
    assert whole(registry, tmp_path)
    registry.append("approval", "digits/production", stolen.sign_statement(said).as_body())
    with pytest.raises(PromotionRefusedError, match="0 of 1 approvals"):
        registry.promote(model.reference, "production")
    with pytest.raises(GovernanceError, match="revoked at leaf"):
        registry.sign_head()


def test_a_person_with_two_keys_is_one_approver(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)
    model = building.candidate(registry, "run-1")
    strict = {**building.POLICY.document(), "promotion": {"production": {"approvals": 2}}}
    registry.set_policy(PROJECT, type(building.POLICY).of(strict))
    building.judge(registry, model)
    building.approve(registry, model)
    registry.rotate_key("alice")
    registry.approve(model.reference, "production", "alice")

    with pytest.raises(PromotionRefusedError, match="1 of 2 approvals"):
        registry.promote(model.reference, "production")


def test_the_last_owner_cannot_be_revoked_and_a_lost_one_is_replaced_by_another(
    registry: Registry, tmp_path: Path
) -> None:
    building.promoted(registry, "run-1")
    with pytest.raises(PolicyError, match="last key of an owner"):
        registry.revoke_key("owner", "lost")
    registry.create_key("spare", ["owner"])
    (registry.keys.root / "owner.key").unlink()
    registry.rotate_key("owner", reason="lost")
    registry.create_key("carol")

    assert whole(registry, tmp_path)


def test_without_an_owner_nothing_is_governed_and_everything_is_served(
    registry: Registry,
) -> None:
    model = building.promoted(registry, "run-1")
    (registry.keys.root / "owner.key").unlink()

    with pytest.raises(KeyMissingError, match=r"bring owner\.key back"):
        registry.create_key("carol")
    assert registry.resolve("digits@production").model == model


def test_without_the_logs_key_nothing_new_is_served(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    second = building.candidate(registry, "run-2", seed=2)
    building.approve(registry, second)
    (registry.keys.root / "log.key").unlink()

    with pytest.raises(
        KeyMissingError, match=r"is served when a tree head covers it: .*key rotate log"
    ):
        registry.promote(second.reference, "production")
    assert registry.resolve("digits@production").model == first
    assert registry.resolve("digits@production").pending
    registry.rotate_log_key("lost")
    assert registry.resolve("digits@production").model == second
    assert registry.verify_ledger().problems == ()


def test_an_interrupted_rotation_is_finished(registry: Registry, tmp_path: Path) -> None:
    building.promoted(registry, "run-1")
    fresh = registry.keys.prepare("log")
    said = {"type": "log_key", "origin": registry.origin, "public": fresh.public.hex, "reason": ""}
    body = registry.owner_key().sign_statement(said).as_body()
    registry.append("log_rotate", registry.origin, body)

    assert registry.resolve("digits@production").model.reference == "digits/v1"
    registry.sign_head()
    assert registry.log_key() == fresh.public
    assert whole(registry, tmp_path)


def test_an_outside_key_is_rotated_by_its_public_half(registry: Registry) -> None:
    one, two = SigningKey.generate(), SigningKey.generate()
    registry.register_key("dora", one.public, ["approver"])
    rotated = registry.rotate_key("dora", two.public)

    assert rotated.public == two.public.hex
    assert [key.revoked is None for key in registry.key_list() if key.name == "dora"] == [
        False,
        True,
    ]
    with pytest.raises(PolicyError, match="registered already"):
        registry.register_key("eve", one.public, ["approver"])


def test_a_client_refuses_a_log_that_went_back(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    building.promoted(registry, "run-2", seed=2)
    registry.resolve("digits@production")
    newest = "delete from tree_head where size = (select max(size) from tree_head)"
    registry.catalog.write(lambda tx: tx.conn.exec_driver_sql(newest))

    with pytest.raises(LedgerError, match="was seen here: an older catalog"):
        registry.resolve("digits@production")


def test_a_client_refuses_a_log_that_forked(registry: Registry) -> None:
    building.promoted(registry, "run-1")
    registry.resolve("digits@production")
    seen = registry.keys.seen()
    assert seen is not None
    registry.keys.see({**seen, "root": "00" * 32, "note": "what was seen"})
    building.dataset(registry, rows=9)
    registry.sign_head()

    with pytest.raises(LedgerError, match="the log has forked"):
        registry.resolve("digits@production")
