"""Ed25519 keys, signed statements and signed tree heads.

A statement is canonical JSON that says what somebody decided and in which log. A tree
head is a checkpoint in the C2SP signed-note format (c2sp.org/tlog-checkpoint), so that
witnesses of other makers can read it.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from artifact_pipelines.domain import digest, naming
from artifact_pipelines.errors import InvalidFormatError, LedgerError

STATEMENT_CONTEXT: Final = b"artifact-pipelines/statement/v1\n"
STATEMENTS: Final = (
    "approval",
    "key",
    "log_key",
    "pointer",
    "policy",
    "revocation",
    "rotation",
    "schema",
    "verdict",
)
"""The types of statement."""

_KEY_BYTES: Final = 32
_KEY_ID_CHARACTERS: Final = 16
_NOTE_HASH_BYTES: Final = 4
_ED25519: Final = b"\x01"
_COSIGNATURE: Final = b"\x04"
_HEX_KEY: Final = re.compile(r"[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"— (\S+) ([A-Za-z0-9+/]+=*)")
_ORIGIN: Final = re.compile(r"[!-*,-~]{1,200}")
# The y coordinates of the points of small order: such a key signs everything at once.
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(text)
    for text in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


def check_origin(origin: str) -> str:
    """Return the name of a log or of a signer of tree heads.

    Raises:
        LedgerError: It is not of visible ASCII characters without '+', as C2SP asks.
    """
    if not naming.matches(_ORIGIN, origin):
        raise LedgerError(
            f"{origin!r} cannot name a log or its signer: use visible ASCII characters without '+'."
        )
    return origin


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of an Ed25519 key.

    Attributes:
        raw: Its 32 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        """Refuse bytes that are no key."""
        if len(self.raw) != _KEY_BYTES:
            raise LedgerError(f"an Ed25519 key has {_KEY_BYTES} bytes, not {len(self.raw)}.")
        if self.raw[:-1] + bytes([self.raw[-1] & 0x7F]) in _SMALL_ORDER:
            raise LedgerError(
                "a public key is a point of small order, under which anything passes."
            )

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Return the key that 64 lowercase hexadecimal digits spell.

        Raises:
            LedgerError: They spell no key.
        """
        if not naming.matches(_HEX_KEY, text):
            raise LedgerError(f"{text!r} is no public key of 64 lowercase hexadecimal digits.")
        return cls(bytes.fromhex(text))

    @property
    def hex(self) -> str:
        """The key in hexadecimal."""
        return self.raw.hex()

    @property
    def key_id(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256."""
        return digest.sha256(self.raw)[:_KEY_ID_CHARACTERS]

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether a signature over a message is this key's."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement with the signature of whoever made it.

    Attributes:
        statement: The exact text that was signed.
        key: The id of the key.
        signature: The signature in base64.
    """

    statement: str
    key: str
    signature: str

    @property
    def payload(self) -> dict[str, Any]:
        """What the statement says."""
        return digest.parse(self.statement.encode())

    def as_body(self) -> dict[str, str]:
        """Return the statement as fields of a leaf body."""
        return {"statement": self.statement, "key": self.key, "signature": self.signature}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Return the statement in a leaf body.

        Raises:
            LedgerError: The body has no statement, key and signature as text.
        """
        fields = [body.get(name) for name in ("statement", "key", "signature")]
        if not all(isinstance(value, str) for value in fields):
            raise LedgerError("a signed statement needs the texts statement, key and signature.")
        return cls(*map(str, fields))

    def verify(self, public: PublicKey) -> None:
        """Check the signature.

        Raises:
            LedgerError: The key is another one, or the signature is not its.
        """
        if public.key_id != self.key:
            raise LedgerError(f"a statement cites key {self.key}, not {public.key_id}.")
        signature = _decoded(self.signature)
        if not public.verify(signature, STATEMENT_CONTEXT + self.statement.encode()):
            raise LedgerError(f"the signature of key {self.key} under a statement is not valid.")


class SigningKey:
    """An Ed25519 key that can sign."""

    def __init__(self, seed: bytes) -> None:
        """Take the key from its 32-byte seed."""
        self.seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(self._private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Return the key of a 32-byte seed."""
        return cls(seed)

    def __repr__(self) -> str:
        """Return the key's id; the seed stays out of logs."""
        return f"SigningKey({self.key_id})"

    @property
    def key_id(self) -> str:
        """The id of the public half."""
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message."""
        return self._private.sign(message)

    def sign_statement(self, payload: Mapping[str, Any]) -> SignedStatement:
        """Return a payload as a signed statement.

        Raises:
            LedgerError: The payload has no known type, or names no log.
        """
        if payload.get("type") not in STATEMENTS:
            raise LedgerError(f"{payload.get('type')!r} is no type of statement.")
        check_origin(payload.get("origin", ""))
        text = digest.canonical(payload)
        signature = base64.b64encode(self.sign(STATEMENT_CONTEXT + text)).decode()
        return SignedStatement(text.decode(), self.key_id, signature)


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The state of a log that its signer vouches for.

    Attributes:
        origin: The name of the log.
        size: The number of leaves.
        root: The root of the tree over them.
        pointers: The SHA-256 of the canonical {project/stage: seq} at that size.
    """

    origin: str
    size: int
    root: bytes
    pointers: str

    def __post_init__(self) -> None:
        """Refuse what no head may say."""
        check_origin(self.origin)
        if type(self.size) is not int or not 0 <= self.size <= digest.MAX_INTEGER:
            raise LedgerError(f"a tree head has no valid size: {self.size!r}.")
        if len(self.root) != _KEY_BYTES or not digest.is_sha256(self.pointers):
            raise LedgerError("a tree head needs two SHA-256 digests: its root and its pointers.")

    def text(self) -> str:
        """Return the text that is signed."""
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\npointers {self.pointers}\n"


def sign_head(head: TreeHead, name: str, key: SigningKey) -> str:
    """Return a tree head as a signed note under a key's name."""
    check_origin(name)
    text = head.text()
    signature = base64.b64encode(_note_hash(name, key.public) + key.sign(text.encode())).decode()
    return f"{text}\n— {name} {signature}\n"


def open_head(note: str, name: str, public: PublicKey) -> TreeHead:
    """Return the tree head in a note; signatures of others are passed over.

    Raises:
        LedgerError: The note is malformed, or carries no valid signature of the key.
    """
    text, blank, signatures = note.partition("\n\n")
    text += "\n"
    try:
        origin, size, encoded, pointers = text.removesuffix("\n").split("\n")
        head = TreeHead(origin, int(size), _decoded(encoded), pointers.removeprefix("pointers "))
    except (ValueError, InvalidFormatError, LedgerError) as error:
        raise LedgerError("a tree head is not a well-formed note.") from error
    lines = [_SIGNATURE.fullmatch(line) for line in signatures.removesuffix("\n").split("\n")]
    if not blank or head.text() != text or not signatures.endswith("\n") or None in lines:
        raise LedgerError("a tree head is not a well-formed note.")
    expected = _note_hash(name, public)
    for line in lines:
        if line is None or line[1] != name:
            continue
        signature = _decoded(line[2])
        if signature[:_NOTE_HASH_BYTES] == expected and public.verify(
            signature[_NOTE_HASH_BYTES:], text.encode()
        ):
            return head
    raise LedgerError(f"the tree head of {head.size} leaves carries no valid signature of {name}.")


def cosign_head(note: str, name: str, key: SigningKey, seconds: int) -> str:
    """Return a note with a witness's cosignature (c2sp.org/tlog-cosignature, version 1)."""
    check_origin(name)
    text = note.partition("\n\n")[0] + "\n"
    signature = key.sign(_cosigned(text, seconds))
    data = _note_hash(name, key.public, _COSIGNATURE) + seconds.to_bytes(8) + signature
    return f"{note}— {name} {base64.b64encode(data).decode()}\n"


def cosigned_at(note: str, name: str, public: PublicKey) -> int:
    """Return when a witness saw the head in a note, in seconds since 1970.

    Raises:
        LedgerError: The note carries no valid cosignature of the witness.
    """
    text, _, signatures = note.partition("\n\n")
    for line in map(_SIGNATURE.fullmatch, signatures.splitlines()):
        data = b"" if line is None or line[1] != name else _decoded(line[2])
        if data[:_NOTE_HASH_BYTES] == _note_hash(name, public, _COSIGNATURE):
            seconds = int.from_bytes(data[_NOTE_HASH_BYTES : _NOTE_HASH_BYTES + 8])
            if public.verify(data[_NOTE_HASH_BYTES + 8 :], _cosigned(text + "\n", seconds)):
                return seconds
    raise LedgerError(f"the tree head carries no valid cosignature of {name}.")


def _cosigned(text: str, seconds: int) -> bytes:
    """Return what a witness signs."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _decoded(text: str) -> bytes:
    """Return the bytes of base64 in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LedgerError("a signature or root is not base64.") from error
    if base64.b64encode(data).decode() != text:
        raise LedgerError("a signature or root is not in canonical base64.")
    return data


def _note_hash(name: str, public: PublicKey, kind: bytes = _ED25519) -> bytes:
    """Return the key hash of the signed-note format."""
    named = name.encode() + b"\n" + kind + public.raw
    return hashlib.sha256(named).digest()[:_NOTE_HASH_BYTES]
