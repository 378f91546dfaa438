"""A witness: somebody else who keeps the tree heads, and refuses one that forks."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from artifact_pipelines.catalog import ledger
from artifact_pipelines.domain import digest, merkle
from artifact_pipelines.domain.signing import (
    PublicKey,
    TreeHead,
    check_origin,
    cosign_head,
    open_head,
)
from artifact_pipelines.errors import LedgerError
from artifact_pipelines.registry.keys import LOG, KeyFolder
from artifact_pipelines.registry.signing_off import SigningOff

_KEY: Final = "witness"
_LOG: Final = "log.json"


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A tree head that a witness keeps.

    Attributes:
        head: The head.
        note: The note with the witness's cosignature.
        cosigned: Whether it was new.
        witness: The witness's public key in hexadecimal.
    """

    head: TreeHead
    note: str
    cosigned: bool
    witness: str


class Witness:
    """A folder with a key of its own and every head that was found to continue the last.

    It needs nothing of the registry but to read its log, and keeps what it has seen where
    the registry's operators cannot reach.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Use a folder; its key is made when it first observes."""
        self.folder = folder
        self.name = check_origin(name)
        self.keys = KeyFolder(folder)

    def observe(self, registry: SigningOff, seconds: int, key: str | None = None) -> Witnessed:
        """Cosign the newest head of a log, if it continues the last that was seen.

        Args:
            registry: The log.
            seconds: The witness's own time, since 1970.
            key: The log's public key; needed once it was rotated, else that of the first time.

        Raises:
            LedgerError: The head is another log's, or does not continue the last one; both
                notes are kept as evidence.
        """
        newest = registry.newest_head()
        if newest is None:
            raise LedgerError("the log has no signed tree head to witness yet.")
        note = newest[1]
        public = self._log_key(registry, key)
        head = open_head(note, LOG, public)
        last = self._last()
        signer = self.keys.create(_KEY)
        if last is not None:
            former = open_head(last, LOG, self._key_of(last, public))
            if former.origin != head.origin:
                raise LedgerError(f"this witness keeps {former.origin}, not {head.origin}.")
            if former == head:
                return Witnessed(head, last, cosigned=False, witness=signer.public.hex)
            self._check_continues(registry, former, head, last, note)
        cosigned = cosign_head(note, self.name, signer, seconds)
        self._keep(head.size, cosigned, public)
        return Witnessed(head, cosigned, cosigned=True, witness=signer.public.hex)

    def _check_continues(
        self, registry: SigningOff, former: TreeHead, head: TreeHead, last: str, note: str
    ) -> None:
        whole = former.size <= head.size
        if whole:
            path = registry.catalog.read(ledger.consistency, former.size, head.size)
            whole = merkle.verify_consistency(former.size, head.size, former.root, head.root, path)
        if not whole:
            place = self.folder / "evidence" / f"{former.size}-{head.size}-{head.root.hex()[:12]}"
            place.mkdir(parents=True, exist_ok=True)
            (place / "seen").write_text(last, encoding="utf-8")
            (place / "shown").write_text(note, encoding="utf-8")
            raise LedgerError(
                f"the head of {head.size} leaves does not continue the one of {former.size} that "
                f"this witness saw; both are in {place}."
            )

    def _log_key(self, registry: SigningOff, given: str | None) -> PublicKey:
        """Return the log's key: the one that is given, or that of the first time."""
        if given is not None:
            return PublicKey.from_hex(given)
        known = self._known()
        return registry.log_key() if known is None else PublicKey.from_hex(known["keys"][-1])

    def _key_of(self, note: str, newest: PublicKey) -> PublicKey:
        """Return the key that signed a note which is kept here."""
        for public in [newest.hex, *reversed((self._known() or {"keys": []})["keys"])]:
            try:
                open_head(note, LOG, PublicKey.from_hex(public))
            except LedgerError:
                continue
            return PublicKey.from_hex(public)
        raise LedgerError("a head that this witness keeps was changed.")

    def _known(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / _LOG).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def _last(self) -> str | None:
        kept = sorted((self.folder / "heads").glob("*"))
        return kept[-1].read_text(encoding="utf-8") if kept else None

    def _keep(self, size: int, note: str, public: PublicKey) -> None:
        keys = (self._known() or {"keys": []})["keys"]
        if public.hex not in keys:
            fresh = digest.canonical({"keys": [*keys, public.hex]})
            (self.folder / _LOG).write_bytes(fresh)
        heads = self.folder / "heads"
        heads.mkdir(exist_ok=True)
        (heads / f"{size:016d}").write_text(note, encoding="utf-8")
