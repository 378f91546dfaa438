"""Ed25519 keys, signed statements and signed tree heads.

A statement is canonical JSON that says what somebody decided and in which log. A tree
head is a checkpoint in the C2SP signed-note format (c2sp.org/tlog-checkpoint), so that
witnesses of other makers can read it.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from artifact_pipelines.domain import digest
from artifact_pipelines.errors import LedgerError

STATEMENT_CONTEXT = b"artifact-pipelines/statement/v1\n"
_KEY_ID_CHARACTERS = 16
_NOTE_HASH_BYTES = 4
_ED25519 = b"\x01"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of an Ed25519 key.

    Attributes:
        raw: Its 32 bytes.
    """

    raw: bytes

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Return the key that hexadecimal text spells."""
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
        """Return the statement in a leaf body."""
        try:
            return cls(str(body["statement"]), str(body["key"]), str(body["signature"]))
        except KeyError as error:
            raise LedgerError(f"a signed statement lacks the field {error}.") from error

    def verify(self, public: PublicKey) -> None:
        """Check the signature.

        Raises:
            LedgerError: The key is another one, or the signature is not its.
        """
        if public.key_id != self.key:
            raise LedgerError(f"a statement cites key {self.key}, not {public.key_id}.")
        try:
            signature = base64.b64decode(self.signature, validate=True)
        except binascii.Error as error:
            raise LedgerError("the signature of a statement is not base64.") from error
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

    @property
    def key_id(self) -> str:
        """The id of the public half."""
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message."""
        return self._private.sign(message)

    def sign_statement(self, payload: Mapping[str, Any]) -> SignedStatement:
        """Return a payload as a signed statement."""
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

    def text(self) -> str:
        """Return the text that is signed."""
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\npointers {self.pointers}\n"


def sign_head(head: TreeHead, name: str, key: SigningKey) -> str:
    """Return a tree head as a signed note under a key's name."""
    text = head.text()
    signature = base64.b64encode(_note_hash(name, key.public) + key.sign(text.encode())).decode()
    return f"{text}\n— {name} {signature}\n"


def open_head(note: str, name: str, public: PublicKey) -> TreeHead:
    """Return the tree head in a note.

    Raises:
        LedgerError: The note is malformed, or carries no valid signature of the key.
    """
    text, blank, signatures = note.partition("\n\n")
    text += "\n"
    try:
        origin, size, encoded, pointers, *rest = text.splitlines()
        root = base64.b64decode(encoded, validate=True)
        head = TreeHead(origin, int(size), root, pointers.removeprefix("pointers "))
    except (ValueError, binascii.Error) as error:
        raise LedgerError("a tree head is not a well-formed note.") from error
    if rest or not blank or head.text() != text:
        raise LedgerError("a tree head is not a well-formed note.")
    expected = _note_hash(name, public)
    for line in signatures.splitlines():
        mark, _, rest_of_line = line.partition(" ")
        signer, _, coded = rest_of_line.partition(" ")
        if mark != "—" or signer != name:
            continue
        try:
            signature = base64.b64decode(coded, validate=True)
        except binascii.Error:
            continue
        if signature[:_NOTE_HASH_BYTES] == expected and public.verify(
            signature[_NOTE_HASH_BYTES:], text.encode()
        ):
            return head
    raise LedgerError(f"the tree head of {head.size} leaves carries no valid signature of {name}.")


def _note_hash(name: str, public: PublicKey) -> bytes:
    """Return the key hash of the signed-note format."""
    named = name.encode() + b"\n" + _ED25519 + public.raw
    return hashlib.sha256(named).digest()[:_NOTE_HASH_BYTES]
