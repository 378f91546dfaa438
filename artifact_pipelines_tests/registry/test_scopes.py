"""An encrypted project is read with its key alone, and by nobody once that is destroyed."""

import shutil
from pathlib import Path

import pytest

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import (
    ConflictError,
    GoneError,
    HeldError,
    KeyGoneError,
    SessionLostError,
)
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines.registry.publishing import Draft
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT, trained


def references(registry: Registry) -> list[str]:
    return [found.reference for found in registry.checkpoints(PROJECT)]


def plain(registry: Registry, needle: bytes) -> list[str]:
    """Return the packs in which some bytes stand as they are."""
    backend = registry.store.backend
    return [key for key in backend.keys("packs/") if needle in backend.get(key)]


def test_an_encrypted_project_reads_as_any_other(registry: Registry, tmp_path: Path) -> None:
    registry.encrypt(PROJECT)
    made = trained(registry, steps=3)
    data = registry.read(made[0].reference, "model.safetensors")
    registry.fetch(made[0].reference, tmp_path / "out")

    assert (tmp_path / "out" / "model.safetensors").read_bytes() == data
    assert plain(registry, data[-64:]) == []
    assert all(registry.verify(reference).ok for reference in references(registry))
    assert registry.read_tensor(made[0].reference, "weight").data == data[-64 * 64 * 4 :]
    assert registry.scrub().ok
    assert registry.verify_ledger().problems == ()


def test_digests_are_those_of_the_plain_project(tmp_path: Path) -> None:
    found = []
    for name in ("plain", "encrypted"):
        with open_registry(tmp_path / name, actor="tester") as registry:
            if name == "encrypted":
                registry.encrypt(PROJECT)
            found.append(registry.publish_dataset(PROJECT, "d", {"a.bin": b"some" * 999}))

    assert (found[0].id, found[0].content) == (found[1].id, found[1].content)


def test_bytes_are_shared_within_a_project_and_not_across(registry: Registry) -> None:
    data = building.tensors(1)
    registry.publish_dataset("open", "d", {"a": data})
    registry.encrypt(PROJECT)
    registry.publish_dataset(PROJECT, "d", {"a": data})
    packs = len(list(registry.store.backend.keys("packs/")))
    registry.publish_dataset(PROJECT, "e", {"a": data})

    assert packs == 2
    assert len(list(registry.store.backend.keys("packs/"))) == 2


def test_encrypted_checkpoints_are_archived_restored_slimmed_and_compacted(
    registry: Registry,
) -> None:
    registry.encrypt(PROJECT)
    made = trained(registry, steps=4)
    before = [registry.read(found.reference, "model.safetensors") for found in made]
    moved = registry.archive(references(registry))
    registry.slim(made[0].reference, reason="small")
    registry.compact(threshold=1.0)
    registry.prune(grace=0)
    cold = [registry.read(found.reference, "model.safetensors") for found in made]
    registry.restore(references(registry))
    registry.prune(grace=0)

    assert moved.after < 0.8 * moved.before
    assert cold == before
    assert [registry.read(found.reference, "model.safetensors") for found in made] == before
    assert plain(registry, before[0][-64:]) == []
    backend = registry.store.backend
    wrapped = {key.rpartition("/")[2] for key in backend.keys("datakeys/")}
    assert wrapped <= {key.rpartition("/")[2] for key in backend.keys("packs/")}
    assert registry.prune(grace=0).disagreements == ()


def test_a_project_with_artifacts_is_not_encrypted_later(registry: Registry) -> None:
    trained(registry, steps=1)

    with pytest.raises(ConflictError, match="from its first artifact on"):
        registry.encrypt(PROJECT)
    assert registry.scopes() == []


def test_a_publish_that_began_before_is_refused(registry: Registry) -> None:
    record = Record(Kind.DATASET, PROJECT, "d", content="0" * 64)
    steps = registry.publish(Draft(record, {"a": b"plain"}))
    for label in steps:
        if label == "object_written":
            break
    registry.encrypt(PROJECT)

    with pytest.raises(SessionLostError, match="came to be encrypted"):
        next(steps)
    assert registry.datasets(PROJECT) == []


def test_rotation_leaves_the_former_key_useless(registry: Registry, tmp_path: Path) -> None:
    registry.encrypt(PROJECT)
    made = trained(registry, steps=2)
    folder = tmp_path / "home" / "keys" / "scopes"
    former = (folder / f"{PROJECT}.scope").read_bytes()
    packs = len(list(registry.store.backend.keys("datakeys/")))

    assert registry.rotate(PROJECT) == packs
    with open_registry(tmp_path / "home", actor="tester") as again:
        assert again.verify(made[0].reference).ok
        (folder / f"{PROJECT}.scope").write_bytes(former)
        again.keyring.forget()
        with pytest.raises(KeyGoneError, match="which its key file no longer has"):
            again.read(made[0].reference, "model.safetensors")


def test_an_interrupted_rotation_goes_on(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.encrypt(PROJECT)
    made = trained(registry, steps=3)
    rewrap = registry.keyring.rewrap
    done: list[str] = []

    def failing(pack: str) -> bool:
        if done:
            raise OSError("the power went")
        done.append(pack)
        return rewrap(pack)

    monkeypatch.setattr(registry.keyring, "rewrap", failing)
    with pytest.raises(OSError, match="power"):
        registry.rotate(PROJECT)
    monkeypatch.undo()
    registry.keyring.forget()
    middle = all(registry.verify(found.reference).ok for found in made)
    registry.rotate(PROJECT)
    registry.keyring.forget()

    assert middle
    assert all(registry.verify(found.reference).ok for found in made)


def test_a_lost_key_is_said_in_plain_words(registry: Registry, tmp_path: Path) -> None:
    registry.encrypt(PROJECT)
    made = trained(registry, steps=2)
    file = tmp_path / "home" / "keys" / "scopes" / f"{PROJECT}.scope"
    shutil.move(file, tmp_path / "kept")
    registry.keyring.forget()
    report = registry.scrub()

    with pytest.raises(KeyGoneError, match="brought back from a backup"):
        registry.read(made[0].reference, "model.safetensors")
    with pytest.raises(KeyGoneError, match="brought back from a backup"):
        registry.publish_dataset(PROJECT, "more", {"a": b"x"})
    assert {damage.key for damage in report.damaged} == {None}
    assert all("brought back from a backup" in damage.what for damage in report.damaged)
    assert registry.quarantined() == {}
    assert not registry.scopes()[0].at_hand
    with pytest.raises(KeyGoneError):
        registry.rebuild(f"sqlite:///{tmp_path / 'again.db'}")
    shutil.move(tmp_path / "kept", file)
    assert registry.read(made[0].reference, "model.safetensors")


def test_a_shredded_project_is_gone_for_good(registry: Registry, tmp_path: Path) -> None:
    registry.encrypt(PROJECT)
    made = trained(registry, steps=2)
    other = registry.publish_dataset("open", "d", {"a": b"plain"})
    found = registry.shred(PROJECT, "the contract ended")

    assert found.state == "shredded"
    assert list((tmp_path / "home" / "keys" / "scopes").iterdir()) == []
    with pytest.raises(GoneError, match="was destroyed"):
        registry.read(made[0].reference, "model.safetensors")
    with pytest.raises(ConflictError, match="choose another name"):
        registry.publish_dataset(PROJECT, "more", {"a": b"x"})
    assert registry.lineage(made[0].reference)[0].parent.reference == "digits/run-1"
    assert registry.verify(other.reference).ok
    assert registry.scrub().ok
    assert registry.verify_ledger().problems == ()
    assert registry.prune(grace=0).disagreements == ()
    assert registry.shred(PROJECT, "again").state == "shredded"


def test_what_serves_is_not_shredded(registry: Registry) -> None:
    registry.encrypt(PROJECT)
    building.promoted(registry, "run-1")

    with pytest.raises(HeldError, match="points at one of its models"):
        registry.shred(PROJECT, "by mistake")
    assert registry.verify("digits@production").ok


def test_everything_comes_back_from_the_store_and_the_keys(
    registry: Registry, tmp_path: Path
) -> None:
    """Encrypted, archived, slimmed, forgotten and shredded: the store alone has it all."""
    registry.encrypt(PROJECT)
    registry.encrypt("secret")
    made = trained(registry, steps=9)
    registry.publish_dataset("secret", "d", {"a": b"bytes" * 99})
    open_run = registry.start_run("open", "run-1")
    registry.publish_checkpoint(open_run, {"m.safetensors": building.tensors(3)}, step=1)
    registry.archive(references(registry)[:8])
    registry.slim(made[1].reference, reason="small")
    body = {"project": PROJECT, "plan": None, "rule": "x", "reason": "y", "approver": "z"}
    registry.append("forget", made[2].id, body)
    registry.shred("secret", "the contract ended")
    url = f"sqlite:///{tmp_path / 'again.db'}"
    registry.rebuild(url)
    again = Catalog(url)
    same = again.read(facts) == registry.catalog.read(facts)
    again.close()

    assert same
    with open_registry(tmp_path / "home", catalog_url=url, actor="tester") as rebuilt:
        kept = [one for one in rebuilt.checkpoints(PROJECT) if one.state == "live"]
        assert len(kept) == 8
        assert all(rebuilt.verify(one.reference).ok for one in kept)
        assert rebuilt.verify("open/run-1@1").ok
        assert rebuilt.prune(grace=0).disagreements == ()
        assert all(rebuilt.verify(one.reference).ok for one in kept)
        assert rebuilt.scrub().ok
