"""The folder of signing keys, and what the log's signer remembers outside the database."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from artifact_pipelines.domain import naming
from artifact_pipelines.domain.signing import SigningKey
from artifact_pipelines.errors import KeyGoneError, KeyMissingError, LedgerError
from artifact_pipelines.store.encryption import ScopeKey
from artifact_pipelines.store.files import sync_folder

LOG = "log"
OWNER = "owner"
SERVICE = "service"
_SUFFIX = ".key"
_NEXT = ".next"
_FORMER = ".former"
_SEEN = "seen.json"
_MEMORY = "signer.json"
_WITHOUT = {
    _MEMORY: "move it away, and the next tree head is signed after the whole log was replayed.",
    _SEEN: "check the log against a head kept elsewhere (audit verify, audit witness), then move "
    "it away: without it an older log is not noticed here.",
}


class ScopeFolder:
    """The keys of encrypted projects, one file each, readable by their owner only."""

    def __init__(self, root: Path) -> None:
        """Use a folder; it is made when the first key is."""
        self.root = root

    def create(self, project: str) -> ScopeKey:
        """Return the key of a project, made now unless it is there."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._path(project).exists():
            key = ScopeKey.generate(project)
            staged = self._stage(key)
            try:
                os.link(staged, self._path(project))
            except FileExistsError:
                pass  # made by another process meanwhile
            finally:
                staged.unlink()
            sync_folder(self.root)
        return self._load(self._path(project))

    def put(self, key: ScopeKey) -> None:
        """Write the key of a project in the place of the former one."""
        self._stage(key).rename(self._path(key.project))
        sync_folder(self.root)

    def scope(self, scope: str) -> ScopeKey:
        """Return the key of a scope.

        Raises:
            KeyGoneError: The folder has none.
        """
        for path in sorted(self.root.glob("*.scope")):
            key = self._load(path)
            if key.id == scope:
                return key
        raise KeyGoneError(
            f"the key of the scope {scope} is not in {self.root}; what is encrypted with it cannot "
            "be read or written until its file is brought back from a backup."
        )

    def destroy(self, project: str) -> None:
        """Overwrite and remove the key of a project."""
        path = self._path(project)
        try:
            with path.open("r+b") as file:
                file.write(secrets.token_bytes(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            return
        path.unlink()
        sync_folder(self.root)

    def _stage(self, key: ScopeKey) -> Path:
        staged = self.root / f".{key.project}.{secrets.token_hex(4)}"
        file = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(key.encode())
            stream.flush()
            os.fsync(stream.fileno())
        return staged

    def _load(self, path: Path) -> ScopeKey:
        try:
            return ScopeKey.decode(path.read_bytes())
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise KeyGoneError(
                f"the key file {path} cannot be read; bring it back from a backup."
            ) from error

    def _path(self, project: str) -> Path:
        return self.root / f"{naming.check_project(project)}.scope"


class KeyFolder:
    """Ed25519 keys, one file each, readable by their owner only."""

    def __init__(self, root: Path) -> None:
        """Use a folder; it is made when the first key is."""
        self.root = root
        self.scopes = ScopeFolder(root / "scopes")

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
        naming.check_key(name)
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
                f"there is no key {name!r} in {self.root}; bring {name}{suffix} back from a "
                f"backup, or put a new one in its place: artifact-pipelines key rotate {name}"
            ) from None
        except (LedgerError, ValueError) as error:
            raise KeyMissingError(
                f"the key {name!r} in {self.root} is damaged; bring {name}{suffix} back from a "
                f"backup, or move it away and run: artifact-pipelines key rotate {name}"
            ) from error

    def has(self, name: str) -> bool:
        """Return whether the folder has a key of a name."""
        return self._path(name).is_file()

    def names(self) -> list[str]:
        """Return the names of the keys in the folder."""
        return sorted(path.stem for path in self.root.glob("*" + _SUFFIX))

    def recall(self) -> dict[str, Any] | None:
        """Return what the signer remembered last, or None.

        Raises:
            KeyMissingError: The file is damaged.
        """
        return self._read(_MEMORY, frozenset({"size", "peaks", "state"}))

    def remember(self, memory: dict[str, Any]) -> None:
        """Replace what the signer remembers."""
        self._write(_MEMORY, memory)

    def seen(self) -> dict[str, Any] | None:
        """Return the greatest tree head that was seen here, or None.

        Raises:
            KeyMissingError: The file is damaged.
        """
        return self._read(_SEEN, frozenset({"size", "root", "note"}))

    def see(self, head: dict[str, Any]) -> None:
        """Remember a tree head as the greatest that was seen here."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write(_SEEN, head)

    def _read(self, name: str, parts: frozenset[str]) -> dict[str, Any] | None:
        try:
            found = json.loads((self.root / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict) or not parts <= found.keys():
            raise KeyMissingError(f"{self.root / name} is damaged; {_WITHOUT[name]}")
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
