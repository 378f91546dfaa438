"""A bundle proves what it is about to somebody who trusts nobody, and nothing else."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from artifact_pipelines.errors import (
    ConflictError,
    GoneError,
    LedgerError,
    SourceError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import open_registry, verify
from artifact_pipelines.registry.bundling import verify_bundle
from artifact_pipelines_tests import building
from artifact_pipelines_tests.proof.evidence import Evidence, contents, evidence

ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return evidence(tmp_path_factory.mktemp("bundles"))


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the verifier as an auditor does."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "verify.py", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_verifier_needs_python_alone_and_is_short(bundle: Evidence) -> None:
    said = run(bundle.folder)

    assert said.returncode == 0
    assert said.stdout.endswith("VERIFIED\n")
    assert "UNANCHORED" in said.stdout
    assert hashlib.sha256(bundle.key.public.raw).hexdigest() in said.stdout
    assert len((bundle.folder / "verify.py").read_text().splitlines()) < 500


def test_a_key_anchors_the_bundle(bundle: Evidence) -> None:
    known = run(bundle.folder, "--key", bundle.key.public.hex)
    other = run(bundle.folder, "--key", "0" * 64)

    assert (known.returncode, "UNANCHORED" in known.stdout) == (0, False)
    assert (other.returncode, "untrusted" in other.stdout) == (1, True)


def test_a_kept_head_anchors_the_bundle(bundle: Evidence, tmp_path: Path) -> None:
    kept = tmp_path / "head"
    kept.write_text(bundle.heads[0])
    said = run(bundle.folder, "--head", str(kept))

    assert (said.returncode, "UNANCHORED" in said.stdout) == (0, False)


def test_a_changed_byte_is_named_by_the_bundle_itself(bundle: Evidence, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "copy")
    path = folder / "files" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    said = run(folder)

    assert said.returncode == 1
    assert "NOT VERIFIED: edited" in said.stdout
    assert "files/model.safetensors" in said.stdout


def test_a_verifier_that_was_changed_is_noticed(bundle: Evidence, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "copy")
    (folder / "verify.py").write_text("print('VERIFIED')\n")

    assert verify_bundle(folder)["kind"] == "edited"
    assert verify_bundle(bundle.folder)["ok"]
    with pytest.raises(UnknownArtifactError, match="is no bundle"):
        verify_bundle(tmp_path)


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    with open_registry(tmp_path / "home", actor="tester") as registry:
        building.promoted(registry, "run-1")
        one = registry.export_bundle("digits@production", tmp_path / "one")
        two = registry.export_bundle("digits@production", tmp_path / "two")

        assert contents(one.folder) == contents(two.folder)
        with pytest.raises(ConflictError, match="there already"):
            registry.export_bundle("digits@production", tmp_path / "one")


def test_bytes_can_be_left_out_and_brought_by_the_auditor(tmp_path: Path) -> None:
    with open_registry(tmp_path / "home", actor="tester") as registry:
        building.promoted(registry, "run-1")
        bare = registry.export_bundle("digits@production", tmp_path / "bare", with_bytes=False)
        registry.fetch("digits/v1", tmp_path / "bare" / "files")

    assert bare.report["bytes"] == 0
    assert verify.check(bare.folder)["bytes"] == 8080
    (bare.folder / "files" / "model.safetensors").write_bytes(b"other")
    assert verify.check(bare.folder)["kind"] == "edited"


def test_a_bundle_is_about_any_artifact_and_tells_nothing_of_other_projects(
    tmp_path: Path,
) -> None:
    with open_registry(tmp_path / "home", actor="tester") as registry:
        building.promoted(registry, "run-1")
        registry.publish_dataset("churn", "rows", {"rows.csv": b"secret"})
        bundle = registry.export_bundle("digits/run-1@0", tmp_path / "bundle")

    assert bundle.ok
    told = (bundle.folder / "leaves.jsonl").read_text()
    assert "churn" not in told
    assert len(told.splitlines()) == bundle.report["leaves"]


def test_without_a_signed_head_there_is_nothing_to_prove(tmp_path: Path) -> None:
    with open_registry(tmp_path / "home", actor="tester") as registry:
        building.dataset(registry)
        (registry.keys.root / "log.key").unlink()
        with pytest.raises(LedgerError, match="no signed head"):
            registry.export_bundle("digits/images@1", tmp_path / "bundle")

    assert not (tmp_path / "bundle").exists()


def test_a_recalled_model_does_not_verify(tmp_path: Path) -> None:
    with open_registry(tmp_path / "home", actor="tester") as registry:
        model = building.promoted(registry, "run-1")
        registry.append(
            "recall",
            model.id,
            {"project": "digits", "artifact": model.id, "reason": "x", "descendants": []},
        )
        report = registry.export_bundle("digits/v1", tmp_path / "bundle").report

    assert (report["ok"], report["kind"]) == (False, "refused")
    assert "was recalled" in report["problem"]


def test_the_verifiers_signatures_agree_with_those_of_a_library() -> None:
    for number in range(20):
        private = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        public, message = private.public_key().public_bytes_raw(), bytes([number]) * number
        signature = private.sign(message)
        more = (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")

        assert verify.signed_by(public, signature, message)
        assert not verify.signed_by(public, signature, message + b"x")
        assert not verify.signed_by(public, signature[:32] + more, message)
        assert not verify.signed_by(public, signature[:-1], message)
        assert not verify.signed_by(bytes([number]) * 32, signature, message)


@pytest.mark.parametrize(
    "point",
    [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ],
)
def test_keys_under_which_anything_passes_are_refused(point: str) -> None:
    identity = bytes.fromhex("01" + "00" * 31) + bytes(32)

    assert not verify.signed_by(bytes.fromhex(point), identity, b"anything")


def test_the_first_published_vector_verifies() -> None:
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )

    assert verify.signed_by(bytes.fromhex(public), bytes.fromhex(signature), b"")


def test_repeated_keys_in_a_bundle_are_refused(bundle: Evidence, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "copy")
    said = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text('{"seq":0,' + said[1:])

    assert json.loads((folder / "bundle.json").read_text())["seq"] > 0
    assert verify.check(folder)["kind"] == "edited"


@pytest.mark.parametrize(
    "subject", ["churn@staging", "churn/v9", None, "churn@production\nVERIFIED"]
)
def test_a_bundle_under_another_name_is_refused(
    bundle: Evidence, tmp_path: Path, subject: str | None
) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "copy")
    about = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**about, "subject": subject}))
    said = run(folder, "--key", bundle.key.public.hex)

    assert about["subject"] != subject
    assert said.returncode == 1
    assert said.stdout.endswith("NOT VERIFIED: edited\n")


def test_a_head_that_cannot_be_read_is_a_wrong_use(bundle: Evidence, tmp_path: Path) -> None:
    said = run(bundle.folder, "--head", str(tmp_path / "nowhere"))

    assert said.returncode == 2
    assert "nowhere" in said.stderr
    with pytest.raises(SourceError, match="cannot be read"):
        verify_bundle(bundle.folder, head=tmp_path)


def test_a_forgotten_artifact_is_proven_without_its_bytes(tmp_path: Path) -> None:
    with open_registry(tmp_path / "home", actor="tester") as registry:
        registry.set_policy(building.PROJECT, building.POLICY)
        first = building.run(registry, "run-1")[0]
        plan = registry.plan_retention(building.PROJECT)
        registry.approve_plan(plan.id)
        registry.apply_plan(plan.id)
        with pytest.raises(GoneError, match="run it again with --no-bytes"):
            registry.export_bundle(first.reference, tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()
        found = registry.export_bundle(first.reference, tmp_path / "bundle", with_bytes=False)

    assert found.ok, found.report


def test_a_bundle_has_the_names_and_the_statement_for_others_tools(bundle: Evidence) -> None:
    report = verify.check(bundle.folder, bundle.key.public.hex)
    text = bundle.files[f"objects/{report['provenance']}"]
    service = bundle.service.public
    key = SSlibKey(service.key_id, "ed25519", "ed25519", {"public": service.hex})
    envelope = Envelope.from_dict(json.loads(text))
    envelope.verify([key], 1)
    subject = json.loads(envelope.payload)["subject"]

    assert report["by"] == "tester"
    assert {f"files/{one['name']}": one["digest"]["sha256"] for one in subject} == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in bundle.files.items()
        if name.startswith("files/")
    }
    assert not any(b"intern" in data for data in bundle.files.values())


@pytest.mark.parametrize("name", ["bundle.json", "proof.json", "heads.jsonl", "leaves.jsonl"])
def test_a_file_has_one_way_to_be_written(bundle: Evidence, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(bundle.folder, tmp_path / "bundle")
    (folder / name).write_bytes(bundle.files[name].replace(b'":', b'": ', 1))
    report = verify.check(folder)

    assert report["kind"] == "edited"
    assert "is not canonical JSON" in report["problem"]
