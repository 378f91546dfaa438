"""What a codec makes of a chunk comes back as it was, and nothing else is believed."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.errors import CodecError, StoreError
from artifact_pipelines.store import codec
from artifact_pipelines.store.chunking import MAX_CHUNK, MIB

CODED = [f"{kind}/{width}" for kind in ("planes", "difference") for width in (1, 2, 4, 8)]


def weights(seed: int, count: int = 50_000) -> bytes:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(count) * 0.02).astype("<f4").tobytes()


def stepped(data: bytes, size: float = 1e-5) -> bytes:
    """Return weights after a small step of training."""
    found = np.frombuffer(data, "<f4")
    step = np.random.default_rng(9).standard_normal(len(found)) * size
    return (found + step).astype("<f4").tobytes()


def stored(name: str, data: bytes, base: bytes) -> bytes:
    kind, _, width = name.partition("/")
    other = np.frombuffer(base, np.uint8) if kind == "difference" else None
    return bytes(codec._encoded(np.frombuffer(data, np.uint8), other, int(width)))


@given(st.binary(max_size=300))
def test_every_codec_gives_back_what_it_was_given(data: bytes) -> None:
    base = bytes(reversed(data))

    for name in CODED:
        assert bytes(codec.decode(name, stored(name, data, base), len(data), base)) == data


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_what_is_encoded_decodes_and_is_never_larger(data: bytes, base: bytes) -> None:
    found = codec.encode(data, base)

    assert len(found.data) <= len(data)
    assert found.differs == codec.needs_base(found.codec)
    assert bytes(codec.decode(found.codec, found.data, len(data), base)) == data


@pytest.mark.parametrize("length", [codec.BLOCK - 3, codec.BLOCK, codec.BLOCK + 5, 9 * MIB + 1])
def test_a_chunk_of_several_blocks_comes_back(length: int) -> None:
    data = (weights(1, length // 4 + 1))[:length]
    near = stepped(data[: length // 4 * 4]) + data[length // 4 * 4 :]
    found = codec.encode(near, data)

    assert found.differs
    assert bytes(codec.decode(found.codec, found.data, length, data)) == near


def test_the_smallest_form_is_kept() -> None:
    data = weights(1)
    noise = np.random.default_rng(3).bytes(100_000)

    assert codec.encode(data).codec in {"planes/4", "planes/8"}
    assert codec.encode(stepped(data), data).differs
    assert codec.encode(data, weights(2)).codec in {"planes/4", "planes/8"}
    assert codec.encode(noise) == codec.Encoded("raw", noise)
    assert codec.encode(b"\0" * 100_000).codec.startswith("planes/")


def test_a_step_of_training_is_stored_in_two_thirds_of_its_bytes() -> None:
    data = weights(1)
    near = codec.encode(stepped(data), data)

    assert len(codec.encode(data).data) < 0.87 * len(data)
    assert len(near.data) < 0.67 * len(data)


def test_half_precision_is_found_by_its_width() -> None:
    half = (np.frombuffer(weights(1), "<u4") >> 16).astype("<u2").tobytes()

    assert codec.encode(half).codec in {"planes/2", "planes/4"}


def test_a_writer_who_waits_codes_what_a_small_sample_promises() -> None:
    noise = np.random.default_rng(3).bytes(MIB)
    for data, expected in (
        (weights(1, MIB // 4), {"planes/4", "planes/8"}),
        (b"to be or not to be, " * 60_000, {"planes/1"}),
        (noise, {"raw"}),
        (weights(1, 1_000) + noise, {"raw"}),
    ):
        found = codec.encode_quickly(data)

        assert found.codec in expected
        assert len(found.data) <= 0.9 * len(data) or found.codec == "raw"
        assert bytes(codec.decode(found.codec, found.data, len(data))) == data


@pytest.mark.parametrize("encode", [codec.encode, codec.encode_quickly])
def test_what_does_not_come_back_is_not_stored(
    monkeypatch: pytest.MonkeyPatch, encode: Callable[[bytes], codec.Encoded]
) -> None:
    real = codec._encoded

    def wrong(view: codec._Array, other: codec._Array | None, width: int) -> bytearray:
        return real(view[::-1].copy(), other, width)

    monkeypatch.setattr(codec, "_encoded", wrong)
    with pytest.raises(CodecError, match="does not come back from the codec"):
        encode(weights(1))


def test_a_base_of_another_length_is_not_used() -> None:
    assert not codec.encode(weights(1), weights(1)[:-4]).differs


@pytest.mark.parametrize("name", CODED)
def test_stored_bytes_that_were_changed_never_decode_beyond_their_length(name: str) -> None:
    data, base = weights(1, 2_000), weights(2, 2_000)
    good = stored(name, data, base)
    rng = np.random.default_rng(5)
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        if rng.random() < 0.3:
            del bad[rng.integers(len(bad)) :]
        try:
            found = codec.decode(name, bytes(bad), len(data), base)
        except CodecError:
            continue

        assert len(found) == len(data)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
    frame = struct.pack("<I", len(bomb) | 1 << 31) + bomb

    with pytest.raises(CodecError, match="a compressed plane is not as long"):
        codec.decode("planes/1", frame, 1_000)


def test_a_frame_that_hides_its_size_is_refused() -> None:
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1_000))
    frame = struct.pack("<I", len(hidden) | 1 << 31) + hidden

    with pytest.raises(CodecError, match="a compressed plane is not as long"):
        codec.decode("planes/1", frame, 1_000)


def test_a_declared_length_is_bounded() -> None:
    with pytest.raises(CodecError, match="longer than any chunk"):
        codec.decode("raw", b"", MAX_CHUNK + 1)


def test_what_follows_a_chunk_is_refused() -> None:
    data = weights(1)
    found = codec.encode(data)

    with pytest.raises(CodecError, match="follow the end"):
        codec.decode(found.codec, bytes(found.data) + b"x", len(data))


def test_a_difference_without_its_base_is_refused() -> None:
    data = weights(1)
    found = codec.encode(stepped(data), data)

    with pytest.raises(CodecError, match="needs a base"):
        codec.decode(found.codec, found.data, len(data))


def test_an_unknown_codec_asks_for_a_newer_version() -> None:
    with pytest.raises(StoreError, match="use a newer version"):
        codec.decode("planes/3", b"", 0)
