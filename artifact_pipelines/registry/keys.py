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
_MEMORY = "signer.json"


class KeyFolder:
    """Ed25519 keys, one file each, readable by their owner only."""

    def __init__(self, root: Path) -> None:
        """Use a folder; it is made when the first key is."""
        self.root = root

    def create(self, name: str) -> SigningKey:
        """Return the key of a name, made now unless it is there."""
        naming.check_project(name)
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = SigningKey.generate()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            file = os.open(self._path(name), flags, 0o600)
        except FileExistsError:
            return self.load(name)
        with os.fdopen(file, "w") as stream:
            stream.write(key.seed.hex() + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return key

    def load(self, name: str) -> SigningKey:
        """Return the key of a name.

        Raises:
            KeyMissingError: The folder has no such key.
        """
        try:
            return SigningKey.from_seed(bytes.fromhex(self._path(name).read_text().strip()))
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
        try:
            found: dict[str, Any] = json.loads((self.root / _MEMORY).read_text())
        except FileNotFoundError:
            return None
        return found

    def remember(self, memory: dict[str, Any]) -> None:
        """Replace what the signer remembers."""
        temporary = self.root / f".{_MEMORY}.{secrets.token_hex(6)}"
        with temporary.open("x") as stream:
            json.dump(memory, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(self.root / _MEMORY)

    def _path(self, name: str) -> Path:
        return self.root / (name + _SUFFIX)
