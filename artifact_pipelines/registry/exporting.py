"""Going elsewhere: plain files with their records, model cards, OpenLineage events."""

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain import card
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import ConflictError, UnknownArtifactError
from artifact_pipelines.registry.differing import Differing
from artifact_pipelines.registry.evaluating import measured
from artifact_pipelines.registry.promoting import Promoting
from artifact_pipelines.registry.reading import Artifact


class Exporting(Differing, Promoting):
    """The registry, as far as what it holds is handed on."""

    def export(self, what: str, to: Path) -> list[Artifact]:
        """Write an artifact, or all of a project that are not forgotten, as plain files.

        Each is a folder with its `files`, its `record.json` and `manifest.json`, whose SHA-256
        are its artifact id and content digest, and the edges it has.

        Raises:
            ConflictError: The folder is there and holds something.
        """
        chosen = self._project(what) if what in self.projects() else [self.find(what)]
        if to.exists() and any(to.iterdir()):
            raise ConflictError(f"the folder {str(to)!r} is not empty; choose a new one.")
        to.mkdir(parents=True, exist_ok=True)
        for artifact in chosen:
            folder = to / artifact.kind.value / artifact.reference.replace("/", "_")
            folder.mkdir(parents=True)
            if self.files(artifact.id):
                self.fetch(artifact.id, folder / "files")
            publication = self.publication_of(artifact.id, artifact.session)
            (folder / "record.json").write_bytes(artifact.record.encode())
            (folder / "manifest.json").write_bytes(publication.manifest.encode())
            edges = [edge for edge in self.lineage(artifact.id) if edge.child.id == artifact.id]
            shown = [
                {
                    "parent": edge.parent.reference,
                    "parent_id": edge.parent.id,
                    "role": edge.role,
                    "kind": edge.kind,
                }
                for edge in edges
            ]
            (folder / "edges.json").write_text(json.dumps(shown, indent=2))
        return chosen

    def model_card(self, reference: str) -> str:
        """Return the Hugging Face model card of a model or checkpoint."""
        artifact = self.find(reference)
        datasets = {
            edge.parent.reference: edge.parent.record.facts.get("licence")
            for edge in self.lineage(artifact.id)
            if edge.parent.kind is Kind.DATASET
        }
        origin = self.drawing(artifact.id).folded().tree()
        verdicts = self.verdicts(artifact)
        held_out = sorted({one.evaluation for one in verdicts if one.evaluation is not None})
        return card.model_card(
            artifact.reference,
            artifact.id,
            artifact.content,
            artifact.metrics,
            sorted(datasets.items()),
            origin,
            evaluated=measured(verdicts),
            evaluation=", ".join(self.get(one).reference for one in held_out),
        )

    def run_events(self, reference: str) -> list[dict[str, Any]]:
        """Return the OpenLineage events of a training run.

        Raises:
            UnknownArtifactError: The reference names no run.
        """
        artifact = self.find(reference)
        if artifact.kind is not Kind.TRAINING_RUN:
            raise UnknownArtifactError(f"{artifact.reference} is no training run.")
        view = self.run(artifact.project, artifact.name)
        leaf = tables.leaf
        statement = sa.select(sa.func.max(leaf.c.time)).where(
            leaf.c.subject == artifact.id, leaf.c.action == "run_finish"
        )
        ended = self.catalog.read(lambda conn: conn.execute(statement).scalar())
        done = view.state in {"finished", "failed"} and ended is not None
        inputs = [self.get(item.id) for item in artifact.record.inputs]
        return card.run_events(
            artifact.project,
            artifact.name,
            artifact.id,
            artifact.published,
            (str(ended), view.state) if done else None,
            [(item.reference, item.content) for item in inputs],
            [(item.reference, item.content) for item in view.checkpoints],
        )

    def _project(self, project: str) -> list[Artifact]:
        table = tables.artifact
        statement = (
            sa.select(table)
            .where(table.c.project == project, table.c.state == "live")
            .order_by(table.c.seq)
        )
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        return [Artifact.of(row) for row in rows]
