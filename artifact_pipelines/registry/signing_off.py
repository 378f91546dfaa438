"""Signed tree heads: the log's signer, and the proofs that rest on its heads."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest, governance, merkle
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.signing import PublicKey, TreeHead, open_head, sign_head
from artifact_pipelines.errors import LedgerError
from artifact_pipelines.registry import deciding
from artifact_pipelines.registry.keys import LOG, OWNER
from artifact_pipelines.registry.reading import Reading

_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Proof:
    """That a leaf is in a log whose head was signed.

    Attributes:
        envelope: The leaf's exact bytes.
        body: Its body's exact bytes.
        path: The inclusion proof.
        note: The signed tree head.
        pointers: The pointers that the head commits to, canonical JSON.
    """

    envelope: bytes
    body: bytes
    path: tuple[bytes, ...]
    note: str
    pointers: str

    @property
    def size(self) -> int:
        """The number of leaves that the head says it covers."""
        return int(self.note.split("\n")[1])

    def verify(self, key: PublicKey) -> tuple[Leaf, dict[str, Any], Mapping[str, int]]:
        """Return the leaf, its body and the signed pointers.

        Raises:
            LedgerError: Any part is not what the signature covers.
        """
        return self.under(open_head(self.note, LOG, key))

    def under(self, head: TreeHead) -> tuple[Leaf, dict[str, Any], Mapping[str, int]]:
        """Return the leaf, its body and the pointers under a head whose signature was verified.

        Raises:
            LedgerError: Any part is not what the head covers.
        """
        leaf = Leaf.decode(self.envelope)
        if not merkle.verify_inclusion(
            merkle.leaf_hash(self.envelope), leaf.seq, head.size, self.path, head.root
        ):
            raise LedgerError(f"leaf {leaf.seq} is not in the log of {head.size} leaves.")
        if digest.sha256(self.body) != leaf.body:
            raise LedgerError(f"the body of leaf {leaf.seq} is not the one it cites.")
        if digest.sha256(self.pointers.encode()) != head.pointers:
            raise LedgerError("the pointers are not the ones that the tree head commits to.")
        return leaf, digest.parse(self.body), digest.parse(self.pointers.encode())


class SigningOff(Reading):
    """The registry, as far as its log is signed."""

    def sign_head(self) -> TreeHead:
        """Return a signed head over every leaf, after replaying the new ones through the rules.

        Raises:
            GovernanceError: A new leaf breaks a rule; nothing is signed.
            LedgerError: The log is not the one that was signed before.
            KeyMissingError: The log's key is not here.
        """
        *former, current = [key for _, key in self.catalog.read(deciding.log_keys)]
        if self.keys.is_prepared(LOG) and self.keys.prepare(LOG).public.hex == current:
            # The log names the next key already, so it is time to use it.
            self.keys.adopt(LOG, former[-1])
        key = self.keys.load(LOG)
        self.export_leaves()
        # An owner of somebody else's making, in a log replaced whole, is refused at its first leaf.
        owner = self.keys.load(OWNER).public.hex if self.keys.has(OWNER) else None
        owner = next(iter(self.keys.former(OWNER)), owner)
        memory = self.keys.recall() or {"size": 0, "peaks": [], "state": governance.begin(owner)}
        state = memory["state"]
        peaks = [bytes.fromhex(peak) for peak in memory["peaks"]]
        target = self.catalog.read(ledger.head).size
        if target < memory["size"]:
            raise LedgerError(
                f"the log has {target} leaves, but its signer has signed {memory['size']}: "
                "leaves were cut off, or an older catalog was restored."
            )
        for start in range(memory["size"], target, _BATCH):
            for row in self.catalog.read(ledger.leaves, start, min(start + _BATCH, target)):
                leaf = _checked(row)
                _grow(peaks, leaf.seq, merkle.leaf_hash(bytes(row.envelope)))
                body = None if row.body is None else digest.parse(bytes(row.body))
                governance.replay(state, leaf, body, self.store.get_object)
        if state["log_key"] != key.public.hex:
            raise LedgerError("the key folder holds another log key than the log was begun with.")
        root = _bag(peaks)
        if root != self.catalog.read(ledger.root, target):
            raise LedgerError("leaves that were signed before have been changed in the catalog.")
        pointers = digest.canonical(governance.pointers(state)).decode()
        head = TreeHead(state["origin"], target, root, digest.sha256(pointers.encode()))
        note = sign_head(head, LOG, key)
        stored = digest.canonical({"note": note, "pointers": pointers})
        # The signer's memory first: a head that it forgot could be contradicted by the next.
        self.keys.remember(
            {"size": target, "peaks": [peak.hex() for peak in peaks], "state": state}
        )
        self.store.backend.put(f"heads/{target:016d}", stored, if_absent=True)
        self.catalog.write(_keep_head, target, note, pointers)
        return head

    def check_signer(self) -> None:
        """Refuse to go on where the signer would: what it keeps is damaged.

        Where the log's key is not here, somebody else signs, and what is written meanwhile waits.

        Raises:
            KeyMissingError: The key or the memory of the signer cannot be read.
        """
        self.keys.recall()
        if self.keys.has(LOG):
            self.keys.load(LOG)

    def log_key(self, size: int | None = None) -> PublicKey:
        """Return the key that signs the heads of a size, or the newest.

        Where the folder has the log's key, no other is believed than it and its predecessors.

        Raises:
            LedgerError: The log names a key that never was in the folder.
        """
        return self._trusted(self.catalog.read(deciding.log_keys), size)

    def _trusted(self, known: Sequence[tuple[int, str]], size: int | None = None) -> PublicKey:
        """Return the key that the heads of a size are believed by."""
        public = [key for since, key in known if size is None or since < size][-1]
        if self.keys.has(LOG):
            mine = self.keys.load(LOG).public
            if public == known[-1][1]:
                return mine
            if public not in {mine.hex, *self.keys.former(LOG)}:
                raise LedgerError("the log names a key for its heads that never was its own.")
        return PublicKey.from_hex(public)

    def newest_head(self) -> tuple[TreeHead, str, str] | None:
        """Return the newest signed head with its note and pointers, or None.

        Raises:
            LedgerError: It does not continue the greatest head that was seen here.
        """
        table = tables.tree_head
        statement = sa.select(table).order_by(table.c.size.desc()).limit(1)
        row = self.catalog.read(lambda conn: conn.execute(statement).first())
        if row is None:
            return None
        return self._opened(row, self.catalog.read(deciding.log_keys)), row.note, row.pointers

    def _opened(self, row: sa.Row[Any], log_keys: Sequence[tuple[int, str]]) -> TreeHead:
        """Return the newest signed head in a row, once its signature and the past agree."""
        head = open_head(row.note, LOG, self._trusted(log_keys, row.size))
        self._see(head, row.note)
        return head

    def _see(self, head: TreeHead, note: str) -> None:
        """Remember a head, unless it contradicts the greatest that was seen here."""
        seen = self.keys.seen()
        if seen is not None and seen["note"] == note:
            return
        if seen is not None:
            size, root = seen["size"], bytes.fromhex(seen["root"])
            if size > head.size:
                raise LedgerError(
                    f"the newest head has {head.size} leaves, but one of {size} was seen here: an "
                    "older catalog was put in place."
                )
            path = self.catalog.read(ledger.consistency, size, head.size)
            if not merkle.verify_consistency(size, head.size, root, head.root, path):
                raise LedgerError(
                    f"the head of {head.size} leaves does not continue the one of {size} that was "
                    f"seen here: the log has forked; both are evidence. Seen:\n{seen['note']}"
                )
        with contextlib.suppress(OSError):
            self.keys.see({"size": head.size, "root": head.root.hex(), "note": note})

    def prove(self, seq: int, newest: tuple[TreeHead, str, str] | None = None) -> Proof:
        """Return the proof of a leaf under the newest signed head, where that is not given.

        Raises:
            LedgerError: No signed head covers the leaf.
        """
        newest = newest or self.newest_head()
        if newest is None or newest[0].size <= seq:
            raise LedgerError(f"no signed tree head covers leaf {seq} yet.")
        head, note, pointers = newest

        def proof(conn: Connection) -> Proof:
            rows = ledger.leaves(conn, seq, seq + 1)
            if not rows:
                raise LedgerError(f"the ledger lacks leaf {seq}.")
            row = rows[0]
            if row.body is None:
                raise LedgerError(f"the body of leaf {seq} was erased.")
            path = tuple(ledger.inclusion(conn, seq, head.size))
            return Proof(bytes(row.envelope), bytes(row.body), path, note, pointers)

        return self.catalog.read(proof)


def _checked(row: sa.Row[Any]) -> Leaf:
    leaf = Leaf.decode(bytes(row.envelope))
    if leaf.seq != row.seq:
        raise LedgerError(f"row {row.seq} of the ledger holds leaf {leaf.seq}.")
    if row.body is not None and digest.sha256(bytes(row.body)) != leaf.body:
        raise LedgerError(f"the body of leaf {leaf.seq} was changed.")
    return leaf


def _grow(peaks: list[bytes], index: int, node: bytes) -> None:
    while index % 2:
        node = merkle.node_hash(peaks.pop(), node)
        index //= 2
    peaks.append(node)


def _bag(peaks: list[bytes]) -> bytes:
    """Return the root over the complete subtrees of a log."""
    if not peaks:
        return merkle.root([])
    node = peaks[-1]
    for peak in reversed(peaks[:-1]):
        node = merkle.node_hash(peak, node)
    return node


def _keep_head(tx: Transaction, size: int, note: str, pointers: str) -> None:
    table = tables.tree_head
    if tx.conn.execute(sa.select(table.c.size).where(table.c.size == size)).first() is None:
        tx.conn.execute(sa.insert(table).values(size=size, note=note, pointers=pointers))
