"""One tensor is read from the chunks that hold it, and checked as it is."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.errors import (
    CorruptChunkError,
    DigestMismatchError,
    GoneError,
    InvalidFormatError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.pack import object_key
from artifact_pipelines_tests.building import PROJECT, trained

LARGE = np.arange(600_000, dtype="<f4").reshape(600, 1000)
SMALL = np.arange(12, dtype="<i8").reshape(3, 4)


@pytest.fixture
def checkpoint(registry: Registry) -> Artifact:
    run = registry.start_run(PROJECT, "run-1")
    files: dict[str, Path | bytes] = {
        "model.safetensors": save({"large": LARGE, "other": LARGE + 1, "small": SMALL}),
        "optimizer.safetensors": save({"m": SMALL, "empty": np.zeros((0, 3), dtype="<f4")}),
        "broken.bin": b"no tensors",
    }
    made = registry.publish_checkpoint(run, files, step=1)
    registry.finish_run(run, "finished")
    return made


def test_a_tensor_is_read_with_its_type_and_shape(registry: Registry, checkpoint: Artifact) -> None:
    for name, expected in (("large", LARGE), ("small", SMALL)):
        found = registry.read_tensor(checkpoint.reference, name)

        assert found.place.shape == expected.shape
        assert found.place.dtype == {"f4": "F32", "i8": "I64"}[expected.dtype.str[1:]]
        assert found.data == expected.tobytes()
    assert registry.read_tensor(checkpoint.reference, "empty").data == b""


def test_only_the_chunks_that_hold_it_are_read(
    registry: Registry, checkpoint: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    reading = type(registry.store.backend).read

    def counted(backend: Backend, key: str, start: int, length: int) -> memoryview:
        data = reading(backend, key, start, length)
        if key.startswith("packs/"):
            read.append(len(data))
        return data

    monkeypatch.setattr(type(registry.store.backend), "read", counted)
    registry.read_tensor(checkpoint.reference, "m", "optimizer.safetensors")

    assert 0 < sum(read) < LARGE.nbytes // 100


def test_a_tensor_of_an_archived_checkpoint_is_read(registry: Registry) -> None:
    made = trained(registry)
    before = registry.read_tensor(made[0].reference, "weight").data
    registry.archive([found.reference for found in made])

    assert registry.read_tensor(made[0].reference, "weight").data == before


def test_tensors_are_fetched_into_one_file(
    registry: Registry, checkpoint: Artifact, tmp_path: Path
) -> None:
    registry.fetch_tensors(checkpoint.reference, ["small", "large", "small"], tmp_path / "out")
    found = load_file(tmp_path / "out" / "tensors.safetensors")

    assert found.keys() == {"small", "large"}
    assert np.array_equal(found["large"], LARGE)
    assert np.array_equal(found["small"], SMALL)


def test_a_tensor_that_is_not_there_is_said(
    registry: Registry, checkpoint: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(UnknownArtifactError, match="has no tensor 'nothing'; it has 5, such as"):
        registry.fetch_tensors(checkpoint.reference, ["nothing"], tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_tensor_in_two_files_must_be_told_apart(registry: Registry) -> None:
    run = registry.start_run(PROJECT, "run-1")
    files: dict[str, Path | bytes] = {
        "a.safetensors": save({"w": SMALL}),
        "b.safetensors": save({"w": SMALL + 1}),
    }
    made = registry.publish_checkpoint(run, files, step=1)

    with pytest.raises(UnknownArtifactError, match=r"in each of a.safetensors, b.safetensors"):
        registry.read_tensor(made.reference, "w")
    assert registry.read_tensor(made.reference, "w", "b.safetensors").data == (SMALL + 1).tobytes()


def test_a_file_that_holds_no_tensors_is_refused(registry: Registry, checkpoint: Artifact) -> None:
    with pytest.raises(InvalidFormatError, match="no safetensors file"):
        registry.read_tensor(checkpoint.reference, "w", "broken.bin")


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4000]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,4]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,1e300]}}',
        b'{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":5,"shape":[1],"data_offsets":[0,4]}}',
        b'{"w":7}',
        b"[1]",
        b"[" * 5_000,
    ],
)
def test_a_header_that_lies_is_refused(registry: Registry, header: bytes) -> None:
    run = registry.start_run(PROJECT, "run-1")
    file = len(header).to_bytes(8, "little") + header + bytes(8)
    made = registry.publish_checkpoint(run, {"model.safetensors": file}, step=1)

    with pytest.raises(InvalidFormatError):
        registry.read_tensor(made.reference, "w")


def test_a_damaged_tensor_is_not_handed_over(
    registry: Registry, checkpoint: Artifact, tmp_path: Path
) -> None:
    place = next(one for one in registry.tensors(checkpoint.reference) if one.name == "large")
    publication = registry.publication_of(checkpoint.id, checkpoint.session)
    entry = next(one for one in publication.manifest.files if one.path == place.path)
    key = next(key for key, size in publication.chunks[entry.sha256] if size == LARGE.nbytes)
    at = registry.locate([key])[key]
    data = bytearray(registry.store.backend.get(object_key(at.pack)))
    data[at.offset + 9] ^= 1
    registry.store.backend.put(object_key(at.pack), bytes(data))

    with pytest.raises(CorruptChunkError):
        registry.fetch_tensors(checkpoint.reference, ["large"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert registry.read_tensor(checkpoint.reference, "m").data == SMALL.tobytes()


def test_a_changed_chunk_map_is_found_without_the_whole_file(
    registry: Registry, checkpoint: Artifact
) -> None:
    publication = registry.publication_of(checkpoint.id, checkpoint.session)
    maps = {name: list(chunks) for name, chunks in publication.chunks.items()}
    entry = next(one for one in publication.manifest.files if one.path == "model.safetensors")
    maps[entry.sha256].reverse()
    changed = Publication(
        publication.record,
        publication.manifest,
        {name: tuple(chunks) for name, chunks in maps.items()},
    )
    key = Publication.key(checkpoint.id, checkpoint.session)
    registry.store.backend.put(key, changed.encode())

    with pytest.raises(DigestMismatchError, match="the publish object"):
        registry.read_tensor(checkpoint.reference, "small")


def test_a_tensor_whose_file_was_slimmed_is_gone(registry: Registry, checkpoint: Artifact) -> None:
    registry.slim(checkpoint.reference, reason="small")

    with pytest.raises(GoneError):
        registry.read_tensor(checkpoint.reference, "m", "optimizer.safetensors")
