"""Where files are cut: laws over every file, and what deduplication needs."""

import json
from contextlib import AbstractContextManager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from artifact_pipelines.store import chunking
from artifact_pipelines.store.chunking import MIB, Cut, cuts
from artifact_pipelines.store.pack import chunk_key


def cut(data: bytes) -> list[Cut]:
    """Return the cuts of a file."""
    return list(cuts(lambda start, length: data[start : start + length], len(data)))


def keys(data: bytes) -> list[str]:
    """Return the chunk keys of a file."""
    return [chunk_key(data[at.offset : at.offset + at.length]) for at in cut(data)]


def small_constants() -> AbstractContextManager[object]:
    """Return a patch under which a few bytes are a large tensor."""
    return mock.patch.multiple(chunking, MIN_OWN=16, MAX_CHUNK=64, MAX_HEADER=4096, MAX_TENSORS=64)


def check_cover(data: bytes, found: list[Cut]) -> None:
    """Fail unless the cuts are the file, in order and without gaps."""
    assert [at.offset for at in found] == [
        sum(before.length for before in found[:number]) for number in range(len(found))
    ]
    assert sum(at.length for at in found) == len(data)
    assert all(0 < at.length <= chunking.MAX_CHUNK for at in found)


def framed(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with any header at all."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Return two tensors that are chunks of their own and three that share."""
    chance = np.random.default_rng(seed)
    sizes = {"body": 3 * MIB, "head": 2 * MIB, "x": 100, "y": 200, "z": 300}
    return {name: chance.integers(0, 255, size, np.uint8) for name, size in sizes.items()}


entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "U8", 3]),
        "data_offsets": st.lists(
            st.one_of(st.integers(-5, 500), st.integers(2**60, 2**70), st.none()), max_size=3
        ),
    },
)
headers = st.one_of(
    st.dictionaries(st.text(max_size=3), entries, max_size=8).map(lambda h: json.dumps(h).encode()),
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda junk: b'{"data_offsets":[0,40]' + junk),
)


@given(
    header=headers,
    data=st.binary(max_size=600),
    length=st.one_of(st.none(), st.integers(0, 700), st.integers(2**63, 2**64 - 1)),
)
def test_cuts_cover_every_file_whatever_its_header_says(
    header: bytes, data: bytes, length: int | None
) -> None:
    file = framed(header, data, length)
    with small_constants():
        found = cut(file)
        check_cover(file, found)

        # Few enough cuts that a chunk map stays small.
        assert len(found) <= 2 * len(file) / chunking.MIN_OWN + 4


@given(data=st.binary(max_size=300))
def test_cuts_cover_a_file_of_another_format_in_windows(data: bytes) -> None:
    with small_constants(), mock.patch.object(chunking, "MAX_HEADER", -1):
        found = cut(data)
        check_cover(data, found)

        assert all(at.length == 64 for at in found[:-1])


@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=12),
    padding=st.integers(0, 40),
)
def test_a_large_tensor_is_cut_out_alone(sizes: list[int], padding: int) -> None:
    """Its cuts begin and end with it, wherever it stands, so its bytes decide its keys."""
    header: dict[str, object] = {"__metadata__": {"note": "x" * padding}}
    position, large = 0, []
    for number, size in enumerate(sizes):
        header[str(number)] = {"data_offsets": [position, position + size]}
        if size >= 16:
            large.append((position, position + size))
        position += size
    encoded = json.dumps(header).encode()
    base = 8 + len(encoded)
    with small_constants():
        found = cut(framed(encoded, bytes(position)))
    edges = {at.offset for at in found} | {base + position}

    for start, stop in large:
        assert {base + start, base + stop} <= edges
        inner = [at for at in found if base + start <= at.offset < base + stop]
        assert [at.length for at in inner[:-1]] == [64] * (len(inner) - 1)


def test_a_tensor_is_a_chunk_and_the_small_ones_share() -> None:
    data = save(tensors())
    start = 8 + int.from_bytes(data[:8], "little")
    found = cut(data)
    check_cover(data, found)

    assert found[0] == Cut(0, start)
    assert sorted(at.length for at in found[1:]) == [600, 2 * MIB, 3 * MIB]


def test_a_grown_header_still_deduplicates() -> None:
    before = keys(save(tensors()))
    after = keys(save(tensors(), {"note": "x" * 1000}))

    assert before[0] != after[0]
    assert before[1:] == after[1:]


def test_small_checkpoints_of_one_shape_share_nothing() -> None:
    """A header that is equal in all of them keeps no pack alive."""
    one, two = (save({"weight": np.full(2000, seed, np.float32)}) for seed in range(2))

    assert one[:64] == two[:64]
    assert not set(keys(one)) & set(keys(two))


def test_a_renamed_tensor_still_deduplicates() -> None:
    renamed = tensors()
    renamed["zzz"] = renamed.pop("body")

    assert set(keys(save(tensors()))[1:]) == set(keys(save(renamed))[1:])


def test_a_reordered_file_still_deduplicates() -> None:
    """The large tensors keep their keys; only small ones that shared a chunk may not."""
    named = tensors()
    header, position, parts = dict[str, object](), 0, []
    for name in ("head", "z", "x", "body", "y"):
        size = named[name].nbytes
        header[name] = {
            "dtype": "U8",
            "shape": [size],
            "data_offsets": [position, position + size],
        }
        position += size
        parts.append(named[name].tobytes())
    reordered = framed(json.dumps(header).encode(), b"".join(parts))
    expected = {chunk_key(named[name].tobytes()) for name in ("body", "head")}

    assert expected <= set(keys(reordered))
    assert expected <= set(keys(save(named)))


def test_a_changed_tensor_changes_its_own_chunk_only() -> None:
    changed = tensors()
    changed["head"] = changed["head"] ^ 1

    assert len(set(keys(save(tensors()))) - set(keys(save(changed)))) == 1


def test_a_checkpoint_in_shards_deduplicates_with_the_whole() -> None:
    named = tensors()
    whole = set(keys(save(named)))
    shards = [save({name: named[name]}) for name in ("body", "head")]

    assert all(set(keys(shard)[1:]) <= whole for shard in shards)


def test_a_format_is_known_by_its_content() -> None:
    """Nobody says that the file is a safetensors file."""
    assert len(cut(save(tensors()))) == 4


def test_a_tensor_above_the_largest_chunk_is_cut_at_it() -> None:
    with mock.patch.object(chunking, "MAX_CHUNK", MIB):
        assert [at.length for at in cut(save(tensors()))].count(MIB) == 5


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(framed(b"{" * 1000, b"x" * 100), id="nested"),
        pytest.param(framed(b'{"a":{"data_offsets":[5,3]}}', b"x" * 100), id="backwards"),
        pytest.param(framed(b'{"a":{"data_offsets":[0,999]}}', b"x" * 100), id="beyond"),
        pytest.param(framed(b'{"a":{"data_offsets":[-9,50]}}', b"x" * 100), id="negative"),
        pytest.param(
            framed(b'{"a":{"data_offsets":[0,18446744073709551621]}}', b"x" * 100), id="wrapping"
        ),
        pytest.param(
            framed(b'{"a":{"data_offsets":[0,60]},"b":{"data_offsets":[20,80]}}', b"x" * 100),
            id="overlapping",
        ),
        pytest.param(framed(b'{"a":{"data_offsets":[20,30]}}', b"x" * 100), id="gaps"),
        pytest.param(framed(b"{}", b"x" * 100, length=2**64 - 1), id="endless header"),
        pytest.param(framed(b"{}", b"x" * 100, length=0), id="no header"),
        pytest.param(framed(b"\xff\xfe", b"x" * 100), id="no text"),
        pytest.param(framed(b'{"a":{"data_offsets":[0,' + b"9" * 3000 + b"]}}", b"x"), id="digits"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x01", id="one byte"),
        pytest.param(bytes(8), id="length only"),
    ],
)
def test_a_hostile_header_is_only_cut(file: bytes) -> None:
    with small_constants():
        check_cover(file, cut(file))


def test_a_gigantic_header_is_not_read() -> None:
    asked = []

    def read(start: int, length: int) -> bytes:
        asked.append(length)
        return (b"\xff\xff\xff\x7f" + bytes(4) + b"{" * length)[start : start + length]

    found = list(cuts(read, 1 << 40))

    assert max(asked) <= 8
    assert len(found) == (1 << 40) // chunking.MAX_CHUNK


def test_more_tensors_than_are_kept_are_not_kept() -> None:
    """A header of too many tensors is cut in windows, as is the rest of its file."""
    few, many = (framed(b"{" + b'"data_offsets":[0,20]' * count, bytes(40)) for count in (64, 65))
    with small_constants():
        assert [at.length for at in cut(few)][-2:] == [20, 20]
        assert {at.length for at in cut(many)[:-1]} == {64}
