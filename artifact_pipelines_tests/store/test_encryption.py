"""Encrypted bytes open where they were put, with their key, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.errors import CodecError, CorruptPackError, KeyGoneError
from artifact_pipelines.store.encryption import (
    FRAME,
    DataKey,
    Keyring,
    ScopeKey,
    data_key,
    sealed_length,
)
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines.store.pack import PackWriter, chunk_key, object_key, read_footer
from artifact_pipelines.store.store import Store

PACK, OTHER = "ab" * 16, "cd" * 16


class Folder:
    """The keys of scopes, in memory."""

    def __init__(self, *keys: ScopeKey) -> None:
        self.keys = {key.id: key for key in keys}

    def scope(self, scope: str) -> ScopeKey:
        if scope not in self.keys:
            raise KeyGoneError("the key is not there")
        return self.keys[scope]


@given(st.binary(max_size=200), st.integers(0, 1 << 40))
def test_what_is_sealed_opens_at_its_place(data: bytes, offset: int) -> None:
    key = DataKey(PACK, "s", b"k" * 32)
    sealed = key.seal(data, offset)

    assert len(sealed) == sealed_length(len(data))
    assert key.open(sealed, offset) == data


@pytest.mark.parametrize("length", [FRAME - 1, FRAME, FRAME + 1, 3 * FRAME])
def test_frames_can_neither_be_moved_nor_left_out(length: int) -> None:
    key = DataKey(PACK, "s", b"k" * 32)
    data = bytes(range(256)) * (length // 256) + b"x" * (length % 256)
    sealed = key.seal(data, 8)

    assert key.open(sealed, 8) == data
    changed = [
        (key, sealed, 9),
        (DataKey(OTHER, "s", b"k" * 32), sealed, 8),
        (DataKey(PACK, "s", b"q" * 32), sealed, 8),
        (key, sealed[: len(sealed) - 1], 8),
        (key, sealed + b"x", 8),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), 8),
        (key, b"", 8),
    ]
    if length > FRAME:
        one = FRAME + 16
        changed += [(key, sealed[:one], 8), (key, sealed[one:], 8)]
        changed.append((key, sealed[one : 2 * one] + sealed[:one] + sealed[2 * one :], 8))
    for with_key, stored, offset in changed:
        with pytest.raises(CodecError, match="does not open"):
            with_key.open(stored, offset)


def encrypted(backend: MemoryBackend, scope: ScopeKey, data: bytes, pack: str = PACK) -> str:
    """Write a pack of one chunk, and return the key of the chunk."""
    keyring = Keyring(backend, Folder(scope))
    writer = PackWriter(backend, pack, keyring.create(pack, scope.id))
    key = chunk_key(data, scope.chunk_secret())
    writer.add(key, data)
    writer.seal()
    return key


def test_an_encrypted_pack_shows_nothing_of_what_it_holds() -> None:
    backend, scope = MemoryBackend(), ScopeKey.generate("digits")
    key = encrypted(backend, scope, b"a secret " * 100)
    stored = backend.get(object_key(PACK))

    assert b"secret" not in stored
    assert key.encode() not in stored
    with pytest.raises(KeyGoneError, match="no keys are at hand"):
        read_footer(backend, PACK)
    footer = read_footer(backend, PACK, Keyring(backend, Folder(scope)))
    assert Store(backend, Keyring(backend, Folder(scope))).read_chunk(key, footer[key]) == (
        b"a secret " * 100
    )


def test_chunk_keys_of_two_scopes_never_meet() -> None:
    one, two = ScopeKey.generate("a"), ScopeKey.generate("b")
    keys = {
        chunk_key(b"same", None),
        chunk_key(b"same", one.chunk_secret()),
        chunk_key(b"same", two.chunk_secret()),
    }

    assert len(keys) == 3


def test_the_same_bytes_in_two_packs_are_encrypted_by_two_keys() -> None:
    backend, scope = MemoryBackend(), ScopeKey.generate("digits")
    encrypted(backend, scope, b"same" * 100, PACK)
    encrypted(backend, scope, b"same" * 100, OTHER)
    keyring = Keyring(backend, Folder(scope))

    assert keyring.of(PACK).key != keyring.of(OTHER).key
    assert backend.get(object_key(PACK))[8:400] != backend.get(object_key(OTHER))[8:400]


def test_packs_that_were_swapped_are_found() -> None:
    backend, scope = MemoryBackend(), ScopeKey.generate("digits")
    encrypted(backend, scope, b"one" * 100, PACK)
    encrypted(backend, scope, b"two" * 100, OTHER)
    backend.put(object_key(PACK), backend.get(object_key(OTHER)))

    with pytest.raises(CorruptPackError, match="does not open with its key"):
        read_footer(backend, PACK, Keyring(backend, Folder(scope)))


def test_data_keys_that_were_swapped_are_found() -> None:
    backend, scope = MemoryBackend(), ScopeKey.generate("digits")
    encrypted(backend, scope, b"one" * 100, PACK)
    encrypted(backend, scope, b"two" * 100, OTHER)
    text = backend.get(data_key(OTHER)).replace(OTHER.encode(), PACK.encode())
    backend.put(data_key(PACK), text)

    with pytest.raises(KeyGoneError, match="is damaged"):
        Keyring(backend, Folder(scope)).of(PACK)


def test_rotation_wraps_the_same_key_anew() -> None:
    backend, scope = MemoryBackend(), ScopeKey.generate("digits")
    encrypted(backend, scope, b"one" * 100)
    before = Keyring(backend, Folder(scope)).of(PACK)
    both = ScopeKey(scope.id, scope.project, scope.secret, {**scope.wrapping, "new": b"n" * 32})
    keyring = Keyring(backend, Folder(both))
    only = ScopeKey(scope.id, scope.project, scope.secret, {"new": b"n" * 32})

    assert (keyring.rewrap(PACK), keyring.rewrap(PACK)) == (True, False)
    assert Keyring(backend, Folder(only)).of(PACK) == before
    with pytest.raises(KeyGoneError, match="which its key file no longer has"):
        Keyring(backend, Folder(scope)).of(PACK)


def test_a_scope_key_survives_its_file() -> None:
    key = ScopeKey.generate("digits")

    assert ScopeKey.decode(key.encode()) == key
