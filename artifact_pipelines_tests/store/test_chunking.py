"""Where files are cut: laws over every file, and what deduplication needs."""

import io
import json
import struct
import tracemalloc
import zipfile
from contextlib import AbstractContextManager
from typing import Any
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
    return list(cuts(reading(data), len(data)))


def reading(data: bytes) -> chunking.Read:
    """Return what reads a file that is in memory."""
    return lambda start, length: data[start : start + length]


def keys(data: bytes) -> list[str]:
    """Return the chunk keys of a file."""
    return [chunk_key(data[at.offset : at.offset + at.length]) for at in cut(data)]


def small_constants() -> AbstractContextManager[object]:
    """Return a patch under which a few bytes are a large tensor."""
    return mock.patch.multiple(
        chunking,
        MIN_OWN=16,
        MAX_CHUNK=64,
        MAX_HEADER=4096,
        MAX_TENSORS=64,
        MIN_CONTENT=16,
        MAX_CONTENT=64,
        _BLOCK=16,
        _LIMIT=np.uint64(1 << 60),
    )


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


@given(data=st.binary(max_size=600))
def test_cuts_by_content_cover_a_file_within_their_bounds(data: bytes) -> None:
    with small_constants(), mock.patch.object(chunking, "MAX_HEADER", -1):
        found = cut(data)
        check_cover(data, found)

        assert all(16 <= at.length <= 64 for at in found[:-1])


@given(data=st.binary(min_size=200, max_size=600), prefix=st.binary(min_size=1, max_size=100))
def test_a_cut_by_content_depends_on_what_is_near_it(data: bytes, prefix: bytes) -> None:
    """Once one cut is the same after something was inserted, all later ones are."""
    with small_constants(), mock.patch.object(chunking, "MAX_HEADER", -1):
        before = {at.offset + len(prefix) for at in cut(data)}
        after = [at.offset for at in cut(prefix + data)]
    common = [place for place in after if place in before]

    if common:
        assert {place for place in after if place >= common[0]} == {
            place for place in before if place >= common[0]
        }


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

    first = next(cuts(read, 1 << 40))

    assert sum(asked) < 4 * MIB
    assert first.length <= chunking.MAX_CONTENT


def test_more_tensors_than_are_kept_are_not_kept() -> None:
    """A file whose header has too many tensors is cut like a file of no format."""
    few, many = (framed(b"{" + b'"data_offsets":[0,20]' * count, bytes(40)) for count in (64, 65))
    with small_constants():
        assert [at.length for at in cut(few)][-2:] == [20, 20]
        assert cut(many) == list(chunking._by_content(reading(many), len(many)))


# Archives


def archive(
    members: dict[str, bytes], comment: bytes = b"", method: int = zipfile.ZIP_STORED
) -> bytes:
    """Return a zip archive as `torch.save` writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
        opened.comment = comment
    return file.getvalue()


def storages(seed: int = 0) -> dict[str, bytes]:
    """Return members as of a checkpoint: a pickle, large storages and small ones."""
    named = tensors(seed)
    return {"model/data.pkl": b"\x80\x02}q\x00.", "model/version": b"3\n"} | {
        f"model/data/{number}": data.tobytes() for number, data in enumerate(named.values())
    }


@given(
    sizes=st.lists(st.integers(0, 200), max_size=8),
    compressed=st.booleans(),
    damage=st.lists(st.tuples(st.integers(0, 1 << 12), st.binary(min_size=1, max_size=9))),
    wide=st.booleans(),
)
def test_cuts_cover_every_archive_whatever_its_directory_says(
    sizes: list[int],
    compressed: bool,
    damage: list[tuple[int, bytes]],
    wide: bool,
) -> None:
    members = {str(number): bytes(size) for number, size in enumerate(sizes)}
    with mock.patch.object(zipfile, "ZIP64_LIMIT", 10 if wide else zipfile.ZIP64_LIMIT):
        method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        file = bytearray(archive(members, method=method))
    for back, change in damage:
        # The directory stands at the end.
        start = max(len(file) - back % 400, 4)
        file[start : start + len(change)] = change
    with small_constants():
        check_cover(bytes(file), cut(bytes(file)))


def test_a_large_member_is_a_chunk_wherever_it_stands() -> None:
    before, after = storages(), storages()
    after["model/data.pkl"] += b"x" * 12_345
    moved = dict(reversed(after.items()))
    for data in (archive(after), archive(moved), archive(after, b"a comment")):
        check_cover(data, cut(data))

        assert stored_twice(archive(before), data) >= 5 * MIB


def test_an_archive_and_a_safetensors_file_share_their_tensors() -> None:
    assert stored_twice(save(tensors()), archive(storages())) >= 5 * MIB


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_of_numpy_are_cut_by_member(compressed: bool) -> None:
    chance = np.random.default_rng(1)
    arrays = {name: chance.integers(0, 255, 2 * MIB, np.uint8) for name in "abc"}
    files = []
    for changed in (False, True):
        if changed:
            arrays["aa"] = chance.integers(0, 255, 12_345, np.uint8)
            arrays["b"] = arrays["b"] ^ 1
        file = io.BytesIO()
        write: Any = np.savez_compressed if compressed else np.savez
        write(file, **dict(sorted(arrays.items())))
        files.append(file.getvalue())

    assert stored_twice(*files) > 4 * MIB


def test_a_member_of_more_than_4_gib_is_found() -> None:
    """Its length and place are in the 64-bit form; nothing of it is read."""
    large = 5 << 30
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 1, 20)
    field = struct.pack("<2H2Q", 1, 16, large, large)
    head = local + b"m" + field
    place = len(head) + large
    entry = struct.pack(
        "<4s6H3I5H2I",
        *(b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, 1, 28, 0, 0, 0, 0, 0xFFFFFFFF),
    )
    directory = entry + b"m" + struct.pack("<2H3Q", 1, 24, large, large, 0)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(directory), place)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, place + len(directory), 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), 0xFFFFFFFF, 0)
    tail = directory + end64 + locator + end

    def read(start: int, length: int) -> bytes:
        if start < len(head):
            return head[start : start + length]
        between = bytes(max(min(place - start, length), 0))
        return between + tail[max(start - place, 0) :][: length - len(between)]

    found = list(cuts(read, place + len(tail)))

    assert found[0] == Cut(0, len(head))
    assert sum(at.length for at in found[1:-1]) == large
    assert found[-1] == Cut(place, len(tail))


def test_a_zip_bomb_is_a_small_file() -> None:
    """What a member claims to hold is not what is stored."""
    bomb = archive({"bomb": bytes(64 * MIB)}, method=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    found = cut(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    check_cover(bomb, found)
    assert peak < MIB


def test_a_gigantic_directory_is_not_read() -> None:
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, (1 << 32) - 2, 100, 0)
    size = 1 << 33
    asked = []

    def read(start: int, length: int) -> bytes:
        asked.append(length)
        data = b"PK\3\4" + bytes(length) if start == 0 else bytes(length)
        return end.rjust(length, b"\0") if start + length == size else data[:length]

    next(cuts(read, size))

    assert sum(asked) < 4 * MIB


def test_a_directory_of_many_entries_takes_little_memory() -> None:
    entry = struct.pack(
        "<4s6H3I5H2I",
        *(b"PK\1\2", 0, 0, 0, 0, 0, 0, 0, 2 * MIB, 2 * MIB, 0, 0, 0, 0, 0, 0, 0),
    )
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0, 0, 0, 0, 0, 2 * MIB, 2 * MIB, 0, 0)
    count = 1 << 14
    directory = entry * count
    start = len(local) + 2 * MIB
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), start, 0)
    file = local + bytes(2 * MIB) + directory + end
    tracemalloc.start()
    found = cut(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    check_cover(file, found)
    assert peak < 4 * len(directory)


# Files of no format that is known


def stored_twice(one: bytes, other: bytes) -> int:
    """Return how many bytes of the second file are chunks of the first one."""
    there = set(keys(one))
    spans = cut(other)
    return sum(at.length for at, key in zip(spans, keys(other), strict=True) if key in there)


def opaque(size: int = 6 * MIB, seed: int = 3) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def test_inserted_and_removed_bytes_move_the_cuts_beside_them_only() -> None:
    data = opaque()
    for place in (0, 1_000_000, 3_000_000):
        inserted = data[:place] + b"some more" + data[place:]
        removed = data[:place] + data[place + 1000 :]

        assert stored_twice(data, inserted) > 0.6 * len(data)
        assert stored_twice(data, removed) > 0.6 * len(data)


def test_parts_in_another_order_still_deduplicate() -> None:
    data = opaque()
    turned = data[3 * MIB :] + data[: 3 * MIB]

    assert stored_twice(data, turned) > 0.6 * len(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(opaque(16 * MIB), id="random"),
        pytest.param(bytes(16 * MIB), id="zeros"),
        pytest.param(b"0.125,17\n" * 1_800_000, id="one line"),
        pytest.param(b"".join(b"%d,%.6f\n" % (n, n / 7) for n in range(700_000)), id="table"),
    ],
)
def test_chunks_of_any_content_are_a_quarter_of_a_mebibyte_or_more(data: bytes) -> None:
    found = cut(data)
    check_cover(data, found)

    assert all(at.length >= MIB // 4 for at in found[:-1])
    assert len(found) <= len(data) // (MIB // 4) + 1


def test_random_bytes_are_cut_at_half_a_mebibyte_on_average() -> None:
    average = 16 * MIB / len(cut(opaque(16 * MIB)))

    assert MIB // 3 < average < MIB


def test_shards_with_their_index_deduplicate_with_other_shards() -> None:
    """A checkpoint that is split elsewhere has the same tensors."""
    named = tensors()
    first = [save({"body": named["body"]}), save({"head": named["head"], "x": named["x"]})]
    second = [save({"head": named["head"]}), save({"body": named["body"], "x": named["x"]})]
    there = {key for shard in first for key in keys(shard)}
    found = sum(
        at.length
        for shard in second
        for at, key in zip(cut(shard), keys(shard), strict=True)
        if key in there
    )

    assert 5 * MIB <= found < 5 * MIB + 1000
