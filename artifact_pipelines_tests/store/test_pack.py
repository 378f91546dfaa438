"""Packs give back what was put in, and no damage goes unnoticed."""

import json

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.errors import (
    CorruptChunkError,
    CorruptPackError,
    InvalidFormatError,
    MissingObjectError,
    StoreError,
)
from artifact_pipelines.store import pack as packing
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines.store.pack import (
    FORMAT,
    MAGIC,
    Location,
    PackWriter,
    chunk_key,
    object_key,
    read_footer,
)
from artifact_pipelines.store.store import Store

PACK = "ab" * 16
CHUNKS = [b"first chunk", b"", b"third chunk, which is longer"]


def packed(chunks: list[bytes], pack: str = PACK) -> MemoryBackend:
    """Return a backend with one pack."""
    backend = MemoryBackend()
    writer = PackWriter(backend, pack)
    for data in chunks:
        writer.add(chunk_key(data), data)
    writer.seal()
    return backend


def crafted(footer: object, body: bytes = b"body") -> MemoryBackend:
    """Return a backend with a pack whose footer says anything, under a right digest."""
    encoded = footer if isinstance(footer, bytes) else json.dumps(footer).encode()
    trailer = blake3(encoded).digest() + len(encoded).to_bytes(8, "little") + MAGIC
    backend = MemoryBackend()
    backend.put(object_key(PACK), MAGIC + body + encoded + trailer)
    return backend


@given(chunks=st.lists(st.binary(max_size=50), max_size=20))
def test_a_pack_gives_back_its_chunks(chunks: list[bytes]) -> None:
    backend = packed(chunks)
    found = read_footer(backend, PACK)

    assert list(found) == list(dict.fromkeys(chunk_key(data) for data in chunks))
    for data in chunks:
        key = chunk_key(data)
        assert Store(backend).read_chunk(key, found[key]) == data


def test_the_layout_is_the_documented_one() -> None:
    """Magic, chunks, footer, trailer: what a reader of another language has to know."""
    data = packed([b"one", b"three"]).get(f"packs/ab/{PACK}")
    footer = json.dumps(
        {
            "chunks": [
                [blake3(b"one").hexdigest(), 8, 3, 3, "raw", None, None],
                [blake3(b"three").hexdigest(), 11, 5, 5, "raw", None, None],
            ],
            "format": "artifact-pipelines/pack/v1",
            "pack": PACK,
        },
        separators=(",", ":"),
    ).encode()

    assert data == (
        b"APPACK\x00\x01onethree"
        + footer
        + blake3(footer).digest()
        + len(footer).to_bytes(8, "little")
        + b"APPACK\x00\x01"
    )


def test_a_writer_says_what_the_footer_says() -> None:
    backend = MemoryBackend()
    writer = PackWriter(backend, PACK)
    places = {chunk_key(data): writer.add(chunk_key(data), data) for data in CHUNKS}
    size = writer.seal()

    assert size == backend.size(object_key(PACK)) == writer.size
    assert read_footer(backend, PACK) == places == writer.chunks
    assert places[chunk_key(CHUNKS[2])] == Location(PACK, 19, 28, 28)


def test_a_chunk_is_stored_once() -> None:
    backend = MemoryBackend()
    writer = PackWriter(backend, PACK)
    first = writer.add(chunk_key(b"twin"), b"twin")
    second = writer.add(chunk_key(b"twin"), b"twin")
    writer.seal()

    assert first == second
    assert backend.get(object_key(PACK)).count(b"twin") == 1


def test_an_aborted_pack_is_not_there() -> None:
    backend = MemoryBackend()
    writer = PackWriter(backend, PACK)
    writer.add(chunk_key(b"one"), b"one")
    writer.abort()

    assert list(backend.keys()) == []
    with pytest.raises(MissingObjectError):
        read_footer(backend, PACK)


def test_a_truncated_pack_is_found_at_every_length() -> None:
    whole = packed(CHUNKS).get(object_key(PACK))
    backend = MemoryBackend()
    for length in range(len(whole)):
        backend.put(object_key(PACK), whole[:length])
        with pytest.raises(CorruptPackError):
            read_footer(backend, PACK)


def test_every_flipped_byte_is_found() -> None:
    """A byte belongs to a chunk, or to what the footer's check covers."""
    sound = packed(CHUNKS)
    whole, places = sound.get(object_key(PACK)), read_footer(sound, PACK)
    backend = MemoryBackend()
    store = Store(backend)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        backend.put(object_key(PACK), bytes(damaged))
        hit = [
            key
            for key, place in places.items()
            if place.offset <= position < place.offset + place.stored
        ]
        for key, place in places.items():
            if key in hit:
                with pytest.raises(CorruptChunkError, match=f"chunk {key[:16]} in pack {PACK}"):
                    store.read_chunk(key, place)
            else:
                store.read_chunk(key, place)
        if hit:
            assert read_footer(backend, PACK) == places
        else:
            with pytest.raises(CorruptPackError):
                read_footer(backend, PACK)


def test_a_zeroed_pack_is_found() -> None:
    backend = packed(CHUNKS)
    backend.put(object_key(PACK), bytes(backend.size(object_key(PACK)) or 0))
    with pytest.raises(CorruptPackError):
        read_footer(backend, PACK)


def test_a_pack_in_the_place_of_another_is_found() -> None:
    other = "cd" * 16
    backend = packed(CHUNKS, other)
    backend.put(object_key(PACK), backend.get(object_key(other)))
    with pytest.raises(CorruptPackError, match="of another pack or format"):
        read_footer(backend, PACK)


KEY = chunk_key(b"body")
SOUND = [KEY, 8, 4, 4, "raw", None, None]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(None, id="no list"),
        pytest.param([[]], id="no fields"),
        pytest.param([SOUND[:6]], id="six fields"),
        pytest.param([[*SOUND, None]], id="eight fields"),
        pytest.param([{"key": KEY}], id="an object"),
        pytest.param([["short", *SOUND[1:]]], id="no key"),
        pytest.param([[KEY.upper(), *SOUND[1:]]], id="an uppercase key"),
        pytest.param([[7, *SOUND[1:]]], id="a number as key"),
        pytest.param([[KEY, 0, *SOUND[2:]]], id="over the magic"),
        pytest.param([[KEY, -8, *SOUND[2:]]], id="before the pack"),
        pytest.param([[KEY, 9, *SOUND[2:]]], id="a gap"),
        pytest.param([[KEY, 8, 3, 3, "raw", None, None]], id="a byte unaccounted for"),
        pytest.param([[KEY, 8, 5, 5, "raw", None, None]], id="into the footer"),
        pytest.param([[KEY, 8, 2**52, 4, "raw", None, None]], id="far beyond the end"),
        pytest.param([[KEY, 8, -4, 4, "raw", None, None]], id="a negative length"),
        pytest.param([[KEY, 8, 4.0, 4, "raw", None, None]], id="a fraction"),
        pytest.param([[KEY, 8, True, 4, "raw", None, None]], id="a truth value"),
        pytest.param([[KEY, 8, "4", 4, "raw", None, None]], id="a text as length"),
        pytest.param([[KEY, 8, 4, None, "raw", None, None]], id="no raw length"),
        pytest.param([[KEY, 8, 4, 4, None, None, None]], id="no codec"),
        pytest.param([[KEY, 8, 4, 4, "raw", 1, None]], id="a number as base"),
        pytest.param([SOUND, [KEY, 12, 0, 0, "raw", None, None]], id="one chunk twice"),
        pytest.param([], id="chunks forgotten"),
    ],
)
def test_a_malformed_footer_is_refused_though_its_digest_is_right(rows: object) -> None:
    footer = {"format": FORMAT, "pack": PACK, "chunks": rows}
    with pytest.raises(CorruptPackError):
        read_footer(crafted(footer), PACK)


@pytest.mark.parametrize(
    "footer",
    [b"", b"null", b"[]", b"{", b"\xff", b'{"format":1,"format":2}', b"[" * 5000, {"pack": PACK}],
)
def test_a_footer_of_another_kind_is_refused(footer: object) -> None:
    with pytest.raises(CorruptPackError) as raised:
        read_footer(crafted(footer), PACK)

    assert isinstance(raised.value, InvalidFormatError)
    assert raised.value.pack == PACK


def test_a_crafted_footer_that_is_sound_is_read() -> None:
    """What the refusals above are compared with."""
    footer = {"format": FORMAT, "pack": PACK, "chunks": [SOUND]}

    assert read_footer(crafted(footer), PACK) == {KEY: Location(PACK, 8, 4, 4)}


@pytest.mark.parametrize("length", [5, 2**31, 2**63, 2**64 - 1])
def test_a_footer_is_not_read_beyond_its_pack(length: int) -> None:
    backend = MemoryBackend()
    backend.put(
        object_key(PACK), MAGIC + b"body" + bytes(32) + length.to_bytes(8, "little") + MAGIC
    )
    with pytest.raises(CorruptPackError, match=f"claims {length} bytes"):
        read_footer(backend, PACK)


def test_a_footer_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = packed(CHUNKS)
    monkeypatch.setattr(packing, "MAX_FOOTER", 100)
    with pytest.raises(CorruptPackError, match="its footer claims"):
        read_footer(backend, PACK)


def test_no_pack_gets_a_footer_that_is_too_long() -> None:
    """The longest entry that has a base and a key, as often as a pack has room for it."""
    longest = [KEY, packing.MAX_PACK, packing.MAX_PACK, packing.MAX_PACK, "raw", KEY, "k" * 16]
    entry = len(json.dumps(longest, separators=(",", ":"))) + 1

    assert entry * packing.MAX_CHUNKS + 200 < packing.MAX_FOOTER


def test_a_full_pack_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_PACK", 20)
    monkeypatch.setattr(packing, "MAX_CHUNKS", 3)
    large = PackWriter(MemoryBackend(), PACK)

    assert large.has_room(1000)
    large.add(chunk_key(b"12345678"), b"12345678")
    assert large.has_room(4)
    assert not large.has_room(5)

    many = PackWriter(MemoryBackend(), PACK)
    for data in (b"1", b"2", b"3"):
        assert many.has_room(1)
        many.add(chunk_key(data), data)
    assert not many.has_room(1)
    with pytest.raises(StoreError, match="is full: it has 3 chunks"):
        many.add(chunk_key(b"4"), b"4")
    assert many.add(chunk_key(b"1"), b"1") == many.chunks[chunk_key(b"1")]
