"""Manifests."""

import hashlib
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain import digest
from artifact_pipelines.domain.manifest import FORMAT, FileEntry, Manifest
from artifact_pipelines.errors import InvalidFormatError, InvalidNameError

A = "a" * 64
B = "b" * 64
GOLDEN = (
    b'{"files":[{"media_type":"application/json","path":"Z.json","sha256":"' + B.encode() + b'",'
    b'"size":0},{"media_type":"application/octet-stream","path":"model.safetensors","sha256":"'
    + A.encode()
    + b'","size":12}],"format":"artifact-pipelines/manifest/v1"}'
)
ENTRIES = st.lists(
    st.builds(
        FileEntry,
        st.from_regex(r"[a-z]{1,4}(/[a-z]{5,8})?", fullmatch=True),
        st.integers(0, 2**53 - 1),
        st.sampled_from([A, B]),
    ),
    max_size=5,
    unique_by=lambda entry: entry.path.partition("/")[0],
)


def test_the_bytes_of_a_manifest_are_final() -> None:
    manifest = Manifest(
        [FileEntry("model.safetensors", 12, A), FileEntry("Z.json", 0, B, "application/json")]
    )

    assert manifest.encode() == GOLDEN
    assert manifest.digest == hashlib.sha256(GOLDEN).hexdigest()
    assert manifest.size == 12
    assert Manifest.decode(GOLDEN) == manifest


def test_an_artifact_may_have_no_files() -> None:
    assert Manifest([]).encode() == b'{"files":[],"format":"artifact-pipelines/manifest/v1"}'


@given(ENTRIES, st.randoms())
def test_the_order_in_which_files_are_given_does_not_matter(
    entries: list[FileEntry], random: Random
) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)

    assert Manifest(shuffled) == Manifest(entries)
    assert Manifest.decode(Manifest(entries).encode()) == Manifest(entries)


def test_a_digest_is_of_the_bytes_as_they_are_stored() -> None:
    spaced = GOLDEN.replace(b'{"files"', b'{ "files"')
    manifest = Manifest.decode(spaced)

    assert manifest.encode() == spaced
    assert manifest.digest == hashlib.sha256(spaced).hexdigest()
    assert manifest != Manifest.decode(GOLDEN)


def test_files_that_cannot_lie_side_by_side_are_refused() -> None:
    with pytest.raises(InvalidNameError):
        Manifest([FileEntry("a", 1, A), FileEntry("A", 1, A)])


@pytest.mark.parametrize(
    "fields",
    [
        {"size": -1},
        {"size": True},
        {"size": 2**53},
        {"size": "1"},
        {"sha256": "A" * 64},
        {"sha256": None},
        {"media_type": "text"},
        {"media_type": "Text/Plain"},
        {"media_type": "text/plain; charset=utf-8"},
        {"media_type": None},
        {"path": "../a"},
        {"path": 5},
        {"path": None},
        {"extra": 1},
    ],
)
def test_a_wrong_field_of_a_file_is_refused(fields: dict[str, Any]) -> None:
    entry = {"path": "a", "size": 1, "sha256": A, "media_type": "text/plain"} | fields
    data = digest.canonical({"format": FORMAT, "files": [entry]})

    with pytest.raises((InvalidFormatError, InvalidNameError)):
        Manifest.decode(data)


def test_a_size_is_a_whole_number() -> None:
    with pytest.raises(InvalidFormatError, match="size"):
        FileEntry("a", 1.0, A)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"format": FORMAT},
        {"format": "artifact-pipelines/manifest/v2", "files": []},
        {"format": FORMAT, "files": {}},
        {"format": FORMAT, "files": None},
        {"format": FORMAT, "files": ["a"]},
        {"format": FORMAT, "files": [{}]},
        {"format": FORMAT, "files": [], "more": 1},
    ],
)
def test_what_is_no_manifest_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidFormatError):
        Manifest.decode(digest.canonical(document))


def test_a_manifest_out_of_order_is_refused() -> None:
    files = [
        {"path": path, "size": 1, "sha256": A, "media_type": "text/plain"} for path in ("b", "a")
    ]

    with pytest.raises(InvalidFormatError, match="order"):
        Manifest.decode(digest.canonical({"format": FORMAT, "files": files}))
