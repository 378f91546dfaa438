"""The registry of schemas: versions of layouts that a project's consumers rely on."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import naming
from artifact_pipelines.domain.schema import Layout, Mode, incompatible
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.errors import SchemaRefusedError, UnknownArtifactError
from artifact_pipelines.registry.keys import OWNER
from artifact_pipelines.registry.reading import Reading


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of a layout.

    Attributes:
        project: Its project.
        name: Its name.
        version: Its number, from 1.
        digest: The digest of its document.
        mode: What it was checked for against the version before it.
        seq: The leaf that registered it.
    """

    project: str
    name: str
    version: int
    digest: str
    mode: Mode
    seq: int

    @property
    def reference(self) -> str:
        """The text that finds it in its project."""
        return f"{self.name}@{self.version}"


class Describing(Reading):
    """The registry, as far as it says what models look like."""

    def register_schema(
        self, project: str, name: str, layout: Layout, mode: Mode | None = None
    ) -> Schema:
        """Return a new version of a schema, or the newest one where it is the same.

        Args:
            project: The project.
            name: The schema's name.
            layout: What models of this version look like.
            mode: Which consumers must still be able to read; by default what was asked of the
                version before, and FULL of the first.

        Raises:
            SchemaRefusedError: An earlier version does not allow it.
        """
        naming.check_own_project(project)
        naming.check_schema(name)
        while True:
            known = self.schemas(project, name)
            newest = known[-1] if known else None
            if newest is not None and newest.digest == layout.digest:
                return newest
            asked = mode or (newest.mode if newest else Mode.FULL)
            reasons = self.check_schema(project, name, layout, asked)
            if reasons:
                what = f"version {len(known) + 1} of the schema {project}/{name}"
                raise SchemaRefusedError(f"{what} was not registered", reasons)
            self.store.put_object(layout.encode())
            statement = self.keys.load(OWNER).sign_statement(
                {
                    "type": "schema",
                    "origin": self.origin,
                    "project": project,
                    "name": name,
                    "version": len(known) + 1,
                    "layout": layout.digest,
                    "mode": asked.value,
                }
            )
            place = f"{project}/{name}"
            if self.catalog.write(_register, place, len(known), statement, self.actor):
                self.export_leaves()
                return self.schemas(project, name)[len(known)]
            # Somebody registered another one meanwhile, which this one has to follow.

    def check_schema(
        self, project: str, name: str, layout: Layout, mode: Mode | None = None
    ) -> tuple[str, ...]:
        """Return why a layout may not be the next version of a schema; nothing if it may."""
        known = self.schemas(project, name)
        if not known:
            return ()
        newest, asked = known[-1], mode or known[-1].mode
        reasons = list(incompatible(layout, self.layout(newest), asked))
        if asked.transitive:
            for one in reversed(known[:-1]):
                found = incompatible(layout, self.layout(one), asked)
                reasons += [f"{one.reference}: {reason}" for reason in found]
        return tuple(reasons)

    def schemas(self, project: str | None = None, name: str | None = None) -> list[Schema]:
        """Return the versions of one project's schemas or of all, by name and number."""
        return self.catalog.read(_select, project, name)

    def schema(self, project: str, reference: str) -> Schema:
        """Return the version of a schema that `name@version` names, or the newest of a name.

        Raises:
            UnknownArtifactError: There is none.
        """
        name, _, number = reference.partition("@")
        found = [
            one for one in self.schemas(project, name) if not number or str(one.version) == number
        ]
        if not found:
            raise UnknownArtifactError(
                f"the project {project!r} has no schema {reference}; register it with: "
                f"artifact-pipelines schema register {project} {name} FILE"
            )
        return found[-1]

    def layout(self, schema: Schema) -> Layout:
        """Return what a version of a schema says."""
        return Layout.decode(self.store.get_object(schema.digest))


def _select(conn: Connection, project: str | None, name: str | None) -> list[Schema]:
    table = tables.layout
    statement = sa.select(table)
    if project is not None:
        statement = statement.where(table.c.project == project)
    if name is not None:
        statement = statement.where(table.c.name == name)
    rows = conn.execute(statement.order_by(table.c.project, table.c.name, table.c.version))
    return [
        Schema(row.project, row.name, row.version, row.digest, Mode(row.mode), row.seq)
        for row in rows
    ]


def _register(
    tx: Transaction, place: str, known: int, statement: SignedStatement, actor: str
) -> bool:
    """Append a version if it is still the next one, and return whether it was."""
    ledger.lock(tx)
    project, _, name = place.partition("/")
    if len(_select(tx.conn, project, name)) != known:
        return False
    ledger.append(
        tx, action="schema_register", subject=place, body=statement.as_body(), actor=actor
    )
    return True
