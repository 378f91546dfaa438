"""What is signed here is read by the code and the formats of others."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pymerkle  # type: ignore[import-untyped]
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from artifact_pipelines.catalog import ledger
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests import building


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    opened = open_registry(tmp_path / "home", actor="tester")
    building.promoted(opened, "run-1")
    return opened


def test_the_tree_of_the_ledger_is_pymerkles_tree(registry: Registry) -> None:
    head = registry.sign_head()
    rows = registry.catalog.read(ledger.leaves, 0, head.size)
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for row in rows:
        tree.append_entry(bytes(row.envelope))

    assert tree.get_root() == head.root
    for size in range(1, head.size + 1):
        mine = registry.catalog.read(ledger.root, size)
        pymerkle.verify_consistency(mine, head.root, tree.prove_consistency(size, head.size))
        pymerkle.verify_inclusion(
            bytes(rows[size - 1].hash), head.root, tree.prove_inclusion(size, head.size)
        )


def test_a_tree_head_is_a_signed_note_as_c2sp_has_it(registry: Registry) -> None:
    registry.sign_head()
    newest = registry.newest_head()
    assert newest is not None
    origin, key = read_note(newest[1], "log", registry.log_key().raw)

    assert origin == [newest[0].origin, str(newest[0].size), newest[0].root]
    with pytest.raises(InvalidSignature):
        read_note(newest[1].replace("\n", "\nx", 1), "log", key)


def read_note(note: str, name: str, public: bytes) -> tuple[list[object], bytes]:
    """Read a note by c2sp.org/signed-note and c2sp.org/tlog-checkpoint, strictly."""
    raw = note.encode()
    assert raw.endswith(b"\n")
    assert not re.search(rb"[\x00-\x09\x0b-\x1f]", raw)
    text, signatures = note.split("\n\n")
    text += "\n"
    vkey = hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    for line in signatures.splitlines():
        found = re.fullmatch(r"\u2014 ([^\s+]+) ([A-Za-z0-9+/=]+)", line)
        assert found
        data = base64.b64decode(found[2], validate=True)
        if found[1] == name and data[:4] == vkey:
            Ed25519PublicKey.from_public_bytes(public).verify(data[4:], text.encode())
    lines = text.splitlines()
    assert re.fullmatch(r"0|[1-9][0-9]*", lines[1])
    root = base64.b64decode(lines[2], validate=True)
    assert len(root) == 32
    assert all(lines)
    return [lines[0], lines[1], root], public


def test_a_models_provenance_is_verified_by_securesystemslib(registry: Registry) -> None:
    envelope = Envelope.from_dict(registry.provenance("digits@production"))
    service = registry.keys.load("service")
    key = SSlibKey(service.key_id, "ed25519", "ed25519", {"public": service.public.hex})
    other = registry.keys.load("owner")
    wrong = SSlibKey(service.key_id, "ed25519", "ed25519", {"public": other.public.hex})

    assert list(envelope.verify([key], 1)) == [service.key_id]
    with pytest.raises(VerificationError):
        envelope.verify([wrong], 1)
    statement = json.loads(envelope.payload)
    model = registry.find("digits@production")
    assert envelope.payload_type == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [
        {"name": entry.path, "digest": {"sha256": entry.sha256}}
        for entry in registry.files(model.id)
    ]
    predicate = statement["predicate"]
    assert {one["name"] for one in predicate["buildDefinition"]["resolvedDependencies"]} == {
        "digits/images@1",
        "digits/run-1",
        "digits/run-1@2",
    }
    assert predicate["runDetails"]["byproducts"][-1]["name"] == "promote to production"
