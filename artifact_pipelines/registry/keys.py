"""The folder of signing keys, and what the log's signer remembers outside the database."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from artifact_pipelines.domain import naming
from artifact_pipelines.domain.signing import SigningKey
from artifact_pipelines.errors import KeyMissingError

LOG = "log"
OWNER = "owner"
SERVICE = "service"
_SUFFIX = ".key"
_NEXT = ".next"
_FORMER = ".former"
_SEEN = "seen.json"
_MEMORY = "signer.json"


class KeyFolder:
    """Ed25519 keys, one file each, readable by their owner only."""

    def __init__(self, root: Path) -> None:
        """Use a folder; it is made when the first key is."""
        self.root = root

    def create(self, name: str) -> SigningKey:
        """Return the key of a name, made now unless it is there."""
        return self._make(name, _SUFFIX)

    def prepare(self, name: str) -> SigningKey:
        """Return the key that is to follow that of a name, made now unless it is there."""
        return self._make(name, _NEXT)

    def is_prepared(self, name: str) -> bool:
        """Return whether a key is to follow that of a name."""
        return self._path(name, _NEXT).is_file()

    def adopt(self, name: str, former: str) -> None:
        """Put the prepared key in the place of a former one, of which the public half stays."""
        if former not in self.former(name):
            with self._path(name, _FORMER).open("a") as stream:
                stream.write(former + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        self._path(name, _NEXT).rename(self._path(name))

    def former(self, name: str) -> list[str]:
        """Return the public halves of the keys that had a name before, the oldest first."""
        try:
            return self._path(name, _FORMER).read_text().split()
        except FileNotFoundError:
            return []

    def _make(self, name: str, suffix: str) -> SigningKey:
        naming.check_project(name)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = SigningKey.generate()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            file = os.open(self._path(name, suffix), flags, 0o600)
        except FileExistsError:
            return self.load(name, suffix)
        with os.fdopen(file, "w") as stream:
            stream.write(key.seed.hex() + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return key

    def load(self, name: str, suffix: str = _SUFFIX) -> SigningKey:
        """Return the key of a name.

        Raises:
            KeyMissingError: The folder has no such key.
        """
        try:
            return SigningKey.from_seed(bytes.fromhex(self._path(name, suffix).read_text().strip()))
        except FileNotFoundError:
            raise KeyMissingError(
                f"there is no key {name!r} in {self.root}; make one with: "
                f"artifact-pipelines key create {name}"
            ) from None
        except ValueError as error:
            raise KeyMissingError(f"the key {name!r} in {self.root} is damaged.") from error

    def has(self, name: str) -> bool:
        """Return whether the folder has a key of a name."""
        return self._path(name).is_file()

    def names(self) -> list[str]:
        """Return the names of the keys in the folder."""
        return sorted(path.stem for path in self.root.glob("*" + _SUFFIX))

    def recall(self) -> dict[str, Any] | None:
        """Return what the signer remembered last, or None."""
        return self._read(_MEMORY)

    def remember(self, memory: dict[str, Any]) -> None:
        """Replace what the signer remembers."""
        self._write(_MEMORY, memory)

    def seen(self) -> dict[str, Any] | None:
        """Return the greatest tree head that was seen here, or None."""
        return self._read(_SEEN)

    def see(self, head: dict[str, Any]) -> None:
        """Remember a tree head as the greatest that was seen here."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write(_SEEN, head)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.root / name).read_text())
        except FileNotFoundError:
            return None
        return found

    def _write(self, name: str, memory: dict[str, Any]) -> None:
        temporary = self.root / f".{name}.{secrets.token_hex(6)}"
        with temporary.open("x") as stream:
            json.dump(memory, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(self.root / name)

    def _path(self, name: str, suffix: str = _SUFFIX) -> Path:
        return self.root / (name + suffix)
