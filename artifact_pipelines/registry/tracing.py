"""Where artifacts came from: annexes, declared edges and how complete a lineage is."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from artifact_pipelines.catalog import lineage as ancestry
from artifact_pipelines.catalog import search, tables
from artifact_pipelines.domain import digest, lineage
from artifact_pipelines.domain.lineage import Ancestry, Completeness, Edge, EdgeKind, Node
from artifact_pipelines.domain.record import Input, Kind
from artifact_pipelines.errors import ConflictError, MissingObjectError, RefusedError
from artifact_pipelines.registry.reading import Artifact, Reading

Rederive = Callable[[Path, Path], object]


class Tracing(Reading):
    """The registry, as far as it says where artifacts came from."""

    def annex(self, artifact: Artifact) -> Mapping[str, Any] | None:
        """Return where an artifact was made: host, user, machine; nothing once it was erased."""
        table = tables.artifact
        statement = sa.select(table.c.annex).where(table.c.id == artifact.id)
        found = self.catalog.read(lambda conn: conn.execute(statement).scalar())
        return None if found is None else self.sealed(f"annexes/{found}")

    def sealed(self, key: str) -> Mapping[str, Any] | None:
        """Return a sealed object of the store without its salt, or nothing once it was erased."""
        try:
            body = digest.parse(self.store.backend.get(key))
        except MissingObjectError:
            return None
        return {name: value for name, value in body.items() if name != "salt"}

    def ancestry(self, reference: str) -> Ancestry:
        """Return an artifact and all that it was made from."""
        start = self.find(reference)
        edges = self.lineage(start.id)
        found = {start.id: start}
        for edge in edges:
            found |= {edge.child.id: edge.child, edge.parent.id: edge.parent}
        nodes = {
            identity: Node(
                artifact.reference,
                artifact.record,
                artifact.kind is Kind.TRAINING_RUN and self._has_annex(artifact),
            )
            for identity, artifact in found.items()
        }
        return Ancestry(
            start.id,
            nodes,
            [Edge(edge.child.id, edge.parent.id, edge.role, EdgeKind(edge.kind)) for edge in edges],
        )

    def completeness(self, reference: str) -> Completeness:
        """Return how completely it is known where an artifact came from, and what is missing."""
        found = self.ancestry(reference)
        return lineage.completeness(found.start, found.nodes, found.edges)

    def search(self, query: str, limit: int | None = None) -> list[Artifact]:
        """Return the artifacts that a query finds; `domain.query` has its grammar.

        Raises:
            QueryError: The text is no query; the error says where.
            UnknownArtifactError: It names a dataset that is not there.
        """

        def find(reference: str) -> str:
            return self.find(reference).id

        rows = self.catalog.read(search.search, query, find, limit)
        return [Artifact.of(row) for row in rows]

    def unheard(self, query: str) -> list[str]:
        """Return which names in a query nothing here has, a sentence each, with what is like them.

        Raises:
            QueryError: The text is no query.
        """
        return self.catalog.read(search.unheard, query)

    def declare(self, child: str, parent: str, role: str) -> None:
        """Record that one artifact was made from another, on the word of whoever says so.

        Raises:
            ConflictError: The parent was made from the child.
        """
        self._declare(self.find(child), self.find(parent), role, EdgeKind.DECLARED, None)

    def declare_rederived(self, child: str, parent: str, role: str, how: str) -> None:
        """Record that one artifact was made again from another, and that the same files came out.

        Raises:
            ConflictError: The parent was made from the child.
        """
        self._declare(self.find(child), self.find(parent), role, EdgeKind.REDERIVABLE, how)

    def rederive(self, child: str, parent: str, role: str, how: str, make: Rederive) -> None:
        """Record that one artifact follows from another, after making it again and comparing.

        Args:
            child: What was made: a conversion, a merge, a quantization.
            parent: What it was made from.
            role: What the parent was used as, such as `converted_from`.
            how: The name of the function, as `module:function`.
            make: The function: it is given the parent's folder and an empty one to fill.

        Raises:
            RefusedError: Other files came out.
        """
        made, source = self.find(child), self.find(parent)
        with tempfile.TemporaryDirectory(prefix="artifact-pipelines-") as folder:
            out = Path(folder) / "made"
            out.mkdir()
            make(self.fetch(source.id, Path(folder) / "parent"), out)
            again = {file.relative_to(out).as_posix(): _sha256(file) for file in _files(out)}
        recorded = {entry.path: entry.sha256 for entry in self.files(made.id)}
        if again != recorded:
            different = sorted(
                path for path in again | recorded if again.get(path) != recorded.get(path)
            )
            raise RefusedError(
                f"{made.reference} does not follow from {source.reference} by {how}",
                [f"the file {path!r} came out otherwise" for path in different[:5]],
            )
        self._declare(made, source, role, EdgeKind.REDERIVABLE, how)

    def _declare(
        self, child: Artifact, parent: Artifact, role: str, kind: EdgeKind, how: str | None
    ) -> None:
        Input(role, parent.id)  # what no record may cite, no leaf may
        above = self.catalog.read(ancestry.reach, parent.seq)
        if child.id == parent.id or child.seq in above:
            raise ConflictError(
                f"{parent.reference} was made from {child.reference}, and not the other way round."
            )
        table = tables.edge
        statement = sa.select(table).where(table.c.child == child.id)
        known = {
            (row.parent, row.role): EdgeKind(row.kind)
            for row in self.catalog.read(lambda conn: list(conn.execute(statement)))
        }
        if known.get((parent.id, role)) in {EdgeKind.OBSERVED, kind}:
            return
        body = {
            "project": child.project,
            "parent": parent.id,
            "role": role,
            "kind": kind.value,
            "how": how,
        }
        self.append("declare", child.id, body)

    def _has_annex(self, artifact: Artifact) -> bool:
        table = tables.artifact
        statement = sa.select(table.c.annex).where(table.c.id == artifact.id)
        found = self.catalog.read(lambda conn: conn.execute(statement).scalar())
        return found is not None and self.store.backend.size(f"annexes/{found}") is not None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
