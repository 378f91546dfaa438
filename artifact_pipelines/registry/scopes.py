"""Encrypted projects: their key files, rotation and shredding."""

import secrets
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import naming
from artifact_pipelines.errors import ConflictError, HeldError, KeyGoneError, UnknownArtifactError
from artifact_pipelines.registry.keys import ScopeFolder
from artifact_pipelines.registry.reading import Reading
from artifact_pipelines.store.encryption import ScopeKey

_ACTIVE: Final = "active"


@dataclass(frozen=True, slots=True)
class ScopeView:
    """An encrypted project.

    Attributes:
        project: The project.
        id: The id of its scope.
        state: `active` or `shredded`.
        at_hand: Whether its key is in the folder of keys.
        trouble: What stands in the way of its bytes, or nothing.
    """

    project: str
    id: str
    state: str
    at_hand: bool
    trouble: str


class Encrypting(Reading):
    """The registry, as far as projects are encrypted."""

    def encrypt(self, project: str) -> ScopeView:
        """Encrypt a project from its first artifact on.

        Raises:
            ConflictError: It has artifacts already, or was shredded.
        """
        naming.check_own_project(project)
        there = {found.project: found for found in self.scopes()}
        if project in there and there[project].state == _ACTIVE:
            return there[project]
        key = self._scope_folder.create(project)
        self.catalog.write(_create, project, key.id, self.actor)
        self.export_leaves()
        return next(found for found in self.scopes() if found.project == project)

    def scopes(self) -> list[ScopeView]:
        """Return the encrypted projects, and whether their keys are at hand."""
        found = []
        for row in self.catalog.read(_scopes):
            trouble = ""
            if row.state == _ACTIVE:
                try:
                    self._scope_folder.scope(row.id)
                except KeyGoneError as error:
                    trouble = str(error)
            else:
                trouble = f"the key of {row.project!r} was destroyed; nobody can read its bytes."
            found.append(ScopeView(row.project, row.id, row.state, not trouble, trouble))
        return found

    def rotate(self, project: str) -> int:
        """Wrap the data keys of a project with a new key, and return how many there were.

        The former key goes when no data key needs it; begun again, a rotation goes on.

        Raises:
            UnknownArtifactError: The project is not encrypted.
            KeyGoneError: Its key is not at hand.
        """
        scope = self._active(project)
        keyring, folder = self.keyring, self._scope_folder
        key = folder.scope(scope)
        if len(key.wrapping) == 1:
            new = {secrets.token_hex(8): secrets.token_bytes(32)}
            key = ScopeKey(key.id, key.project, key.secret, {**key.wrapping, **new})
            folder.put(key)
        wrapped = 0
        # A pack that is begun meanwhile is wrapped with the new key, which is in the file.
        for name in self.store.backend.keys("datakeys/"):
            pack = name.rpartition("/")[2]
            if keyring.scope_of(pack) == scope:
                wrapped += keyring.rewrap(pack)
        newest = dict([list(key.wrapping.items())[-1]])
        folder.put(ScopeKey(key.id, key.project, key.secret, newest))
        return wrapped

    def shred(self, project: str, reason: str) -> ScopeView:
        """Destroy the key of a project, so that nobody can read its bytes again.

        Raises:
            UnknownArtifactError: The project is not encrypted.
            HeldError: A stage points at a model of it, or something of it is on hold.
        """
        known = {found.project: found for found in self.scopes()}
        if project not in known:
            raise UnknownArtifactError(f"the project {project!r} is not encrypted.")
        if known[project].state == _ACTIVE:
            self.catalog.write(_shred, project, known[project].id, reason, self.actor)
            self.export_leaves()
        self._scope_folder.destroy(project)
        self.keyring.forget()
        return next(found for found in self.scopes() if found.project == project)

    @property
    def _scope_folder(self) -> ScopeFolder:
        return self.keys.scopes

    def _active(self, project: str) -> str:
        scope = self.scope_of(project)
        if scope is None:
            raise UnknownArtifactError(f"the project {project!r} is not encrypted.")
        return scope


def _create(tx: Transaction, project: str, scope: str, actor: str) -> None:
    ledger.lock(tx)
    artifact, table = tables.artifact, tables.scope
    known = tx.conn.execute(sa.select(table).where(table.c.project == project)).first()
    if known is not None and (known.id == scope and known.state == _ACTIVE):
        return
    if known is not None:
        raise ConflictError(
            f"the project {project!r} was encrypted before; choose another name for a new one."
        )
    if tx.conn.execute(sa.select(artifact.c.id).where(artifact.c.project == project)).first():
        raise ConflictError(
            f"the project {project!r} has artifacts that are not encrypted; a project is encrypted "
            "from its first artifact on, so choose a new one."
        )
    body = {"project": project, "scope": scope}
    ledger.append(tx, action="scope_create", subject=project, body=body, actor=actor)


def _shred(tx: Transaction, project: str, scope: str, reason: str, actor: str) -> None:
    ledger.lock(tx)
    stage, hold, artifact = tables.stage, tables.hold, tables.artifact
    held = [
        f"{project}@{name} points at one of its models"
        for name in tx.conn.execute(
            sa.select(stage.c.stage).where(stage.c.project == project).order_by(stage.c.stage)
        ).scalars()
    ]
    on_hold = (
        sa.select(hold.c.name)
        .join(artifact, artifact.c.id == hold.c.artifact)
        .where(artifact.c.project == project, hold.c.lifted.is_(None))
    )
    held += [f"the hold {name!r} is on it" for name in tx.conn.execute(on_hold).scalars()]
    if held:
        raise HeldError(f"the project {project!r} may not be shredded", held)
    body = {"project": project, "scope": scope, "reason": reason}
    ledger.append(tx, action="scope_shred", subject=project, body=body, actor=actor)


def _scopes(conn: Connection) -> list[sa.Row[tuple[str, str, str]]]:
    table = tables.scope
    statement = sa.select(table.c.id, table.c.project, table.c.state)
    return list(conn.execute(statement.order_by(table.c.project)))
