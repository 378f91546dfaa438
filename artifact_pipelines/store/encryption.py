"""Encryption at rest: data keys beside their packs, wrapped by the key of their scope.

A scope is a project. Its key file holds a secret, from which its chunk keys are derived, and the
keys that wrap. Each pack is encrypted with a data key of its own, kept beside it as
`datakeys/<pack>`: JSON of format, pack, scope, the wrapping key's id, a nonce and the wrapped key
(AES-256-GCM, bound to pack and scope). Rotation wraps the data keys anew; shredding destroys the
key file, and with it every way to the data keys.

What is encrypted is cut into frames of 1 MiB. A frame is AES-256-GCM under its data key; its nonce
is its offset in the pack, and it is bound to the pack, to its number and to whether it is the last,
so that frames can neither be moved nor left out.
"""

import json
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from artifact_pipelines.domain import digest
from artifact_pipelines.errors import CodecError, KeyGoneError, MissingObjectError
from artifact_pipelines.store.backend import Backend
from artifact_pipelines.store.chunking import MIB

FORMAT: Final = "artifact-pipelines/datakey/v1"
FRAME: Final = MIB
TAG: Final = 16

_CONTEXT: Final = "artifact-pipelines 2026 chunk keys"
_KEPT: Final = 256  # data keys that are held in memory

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ScopeKey:
    """What a scope's key file holds.

    Attributes:
        id: The id of the scope, which chunks are marked with.
        project: The project that it is for.
        secret: What chunk keys are derived from; it never changes.
        wrapping: The keys that wrap data keys, by id, the newest last.
    """

    id: str
    project: str
    secret: bytes
    wrapping: dict[str, bytes]

    @classmethod
    def generate(cls, project: str) -> "ScopeKey":
        """Return a new key."""
        new = {secrets.token_hex(8): secrets.token_bytes(32)}
        return cls(secrets.token_hex(8), project, secrets.token_bytes(32), new)

    def chunk_secret(self) -> bytes:
        """Return the key of this scope's chunk keys."""
        return blake3(self.secret, derive_key_context=_CONTEXT).digest()

    def encode(self) -> bytes:
        """Return the bytes of the key file."""
        wrapping = [[name, key.hex()] for name, key in self.wrapping.items()]
        return json.dumps(
            {
                "format": "artifact-pipelines/scope/v1",
                "id": self.id,
                "project": self.project,
                "secret": self.secret.hex(),
                "wrapping": wrapping,
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> "ScopeKey":
        """Return the key that a file holds."""
        found = json.loads(data)
        wrapping = {name: bytes.fromhex(key) for name, key in found["wrapping"]}
        return cls(found["id"], found["project"], bytes.fromhex(found["secret"]), wrapping)


class Scopes(Protocol):
    """Where the keys of scopes are."""

    def scope(self, scope: str) -> ScopeKey:
        """Return the key of a scope.

        Raises:
            KeyGoneError: It is not there.
        """
        ...


@dataclass(frozen=True, slots=True)
class DataKey:
    """The key of one pack.

    Attributes:
        pack: The pack.
        scope: The scope that it belongs to.
        key: The key.
    """

    pack: str
    scope: str
    key: bytes

    def seal(self, data: Bytes, offset: int) -> bytes:
        """Return bytes encrypted in frames for a place in the pack."""
        cipher, view, out = AESGCM(self.key), memoryview(data), bytearray()
        count = _frames(len(view))
        for number in range(count):
            piece = view[number * FRAME : (number + 1) * FRAME]
            bound = self._bound(number, last=number == count - 1)
            out += cipher.encrypt(_nonce(offset + len(out)), bytes(piece), bound)
        return bytes(out)

    def open(self, stored: Bytes, offset: int) -> bytes:
        """Return bytes that were encrypted for a place in the pack.

        Raises:
            CodecError: They are not, or were changed.
        """
        cipher, view, out = AESGCM(self.key), memoryview(stored), bytearray()
        count = max(-(-len(view) // (FRAME + TAG)), 1)
        for number in range(count):
            start = number * (FRAME + TAG)
            bound = self._bound(number, last=number == count - 1)
            try:
                out += cipher.decrypt(
                    _nonce(offset + start), bytes(view[start : start + FRAME + TAG]), bound
                )
            except InvalidTag:
                raise CodecError("an encrypted frame does not open: it was changed.") from None
        return bytes(out)

    def _bound(self, number: int, *, last: bool) -> bytes:
        return f"{self.pack}/{number}/{int(last)}".encode()


class Keyring:
    """The data keys of packs, as far as the keys of their scopes are at hand."""

    def __init__(self, backend: Backend, scopes: Scopes) -> None:
        """Use the data keys of a store and the keys of a folder."""
        self._backend = backend
        self._scopes = scopes
        self._known: OrderedDict[str, DataKey] = OrderedDict()
        self._lock = threading.Lock()

    def create(self, pack: str, scope: str) -> DataKey:
        """Return the data key of a new pack, durable in the store."""
        key = DataKey(pack, scope, secrets.token_bytes(32))
        self._backend.put(data_key(pack), self._wrapped(key))
        return key

    def of(self, pack: str) -> DataKey:
        """Return the data key of a pack.

        Raises:
            KeyGoneError: It cannot be unwrapped.
        """
        with self._lock:
            if pack in self._known:
                self._known.move_to_end(pack)
                return self._known[pack]
        key = self._unwrapped(pack)
        with self._lock:
            self._known[pack] = key
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return key

    def chunk_secret(self, scope: str | None) -> bytes | None:
        """Return the key of the chunk keys of a scope, or nothing outside of any."""
        return None if scope is None else self._scopes.scope(scope).chunk_secret()

    def rewrap(self, pack: str) -> bool:
        """Wrap the data key of a pack with the newest key, and return whether it was not yet."""
        found = self._read(pack)
        newest = next(reversed(self._scopes.scope(found["scope"]).wrapping))
        if found["wrapping"] == newest:
            return False
        self._backend.put(data_key(pack), self._wrapped(self._unwrapped(pack)))
        return True

    def scope_of(self, pack: str) -> str:
        """Return the scope that a pack's data key names."""
        return str(self._read(pack)["scope"])

    def forget(self) -> None:
        """Drop the data keys that are held in memory."""
        with self._lock:
            self._known.clear()

    def _read(self, pack: str) -> dict[str, Any]:
        try:
            found = digest.parse(self._backend.get(data_key(pack)))
        except MissingObjectError:
            raise KeyGoneError(f"the data key of pack {pack} is not in the store.") from None
        if found.get("format") != FORMAT or found.get("pack") != pack:
            raise KeyGoneError(f"the data key of pack {pack} is damaged.")
        return found

    def _wrapped(self, key: DataKey) -> bytes:
        wrapping, by = next(reversed(self._scopes.scope(key.scope).wrapping.items()))
        nonce = secrets.token_bytes(12)
        return digest.canonical(
            {
                "format": FORMAT,
                "pack": key.pack,
                "scope": key.scope,
                "wrapping": wrapping,
                "nonce": nonce.hex(),
                "key": AESGCM(by).encrypt(nonce, key.key, f"{key.pack}/{key.scope}".encode()).hex(),
            }
        )

    def _unwrapped(self, pack: str) -> DataKey:
        found = self._read(pack)
        scope = self._scopes.scope(str(found["scope"]))
        by = scope.wrapping.get(str(found["wrapping"]))
        if by is None:
            raise KeyGoneError(
                f"pack {pack} of {scope.project!r} is wrapped with the key {found['wrapping']}, "
                "which its key file no longer has; bring the former file back."
            )
        try:
            plain = AESGCM(by).decrypt(
                bytes.fromhex(found["nonce"]),
                bytes.fromhex(found["key"]),
                f"{pack}/{scope.id}".encode(),
            )
        except (InvalidTag, KeyError, ValueError):
            raise KeyGoneError(f"the data key of pack {pack} is damaged.") from None
        return DataKey(pack, scope.id, plain)


def data_key(pack: str) -> str:
    """Return the store key of a pack's wrapped data key."""
    return f"datakeys/{pack}"


def sealed_length(length: int) -> int:
    """Return how many bytes some bytes take once they are encrypted."""
    return length + _frames(length) * TAG


def _frames(length: int) -> int:
    return max(-(-length // FRAME), 1)


def _nonce(offset: int) -> bytes:
    return offset.to_bytes(12, "big")
