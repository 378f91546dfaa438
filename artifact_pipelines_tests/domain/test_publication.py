"""Publish objects."""

import hashlib
from typing import Any

import pytest

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.manifest import FileEntry, Manifest
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import InvalidFormatError

A, B, C = "a" * 64, "b" * 64, "c" * 64
MANIFEST = Manifest([FileEntry("model.bin", 12, A), FileEntry("twin.bin", 12, A)])
RECORD = Record(Kind.DATASET, "digits", "images", MANIFEST.digest)
PUBLICATION = Publication(RECORD, MANIFEST, {A: ((B, 8), (C, 4))})


def test_the_bytes_of_a_publish_object_are_final() -> None:
    data = PUBLICATION.encode()

    assert data == digest.canonical(
        {
            "format": "artifact-pipelines/publish/v1",
            "record": RECORD.encode().decode(),
            "manifest": MANIFEST.encode().decode(),
            "chunks": {A: [[B, 8], [C, 4]]},
        }
    )
    assert hashlib.sha256(data).hexdigest() == (
        "6c97dff79bbb2b0bc3110789d4b66934419f2746c55fc604d7643e7c952b0ff0"
    )
    assert Publication.decode(data) == PUBLICATION
    assert PUBLICATION.keys() == [B, C]
    assert Publication.key(A, "s1") == f"publish/{A}/s1"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "artifact-pipelines/publish/v2"},
        {"extra": 1},
        {"record": None},
        {"record": "{}"},
        {"record": {}},
        {"manifest": Manifest([]).encode().decode()},
        {"chunks": None},
        {"chunks": {}},
        {"chunks": {A: [[B, 12]], B: []}},
        {"chunks": {A: [[B, 11]]}},
        {"chunks": {A: [[B, 13], [C, -1]]}},
        {"chunks": {A: [[B, "12"]]}},
        {"chunks": {A: [[B, True], [C, 11]]}},
        {"chunks": {A: [["x", 12]]}},
        {"chunks": {A: [[B]]}},
        {"chunks": {A: [B]}},
        {"chunks": {A: "x"}},
    ],
)
def test_what_does_not_hold_together_is_refused(change: dict[str, Any]) -> None:
    document = digest.parse(PUBLICATION.encode()) | change

    with pytest.raises(InvalidFormatError):
        Publication.decode(digest.canonical(document))
