"""What has become of artifacts since they were registered, and what they came from, in words."""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import batches
from artifact_pipelines.domain import digest
from artifact_pipelines.registry.reading import Artifact, Reading

_NAMED = 6  # of many artifacts, in one line


class Lifecycle(Reading):
    """The registry, as far as artifacts tell their story."""

    def references_of(self, artifact: Artifact) -> dict[str, str]:
        """Return the references of what an artifact was made from, by id."""
        return {item.id: self.get(item.id).reference for item in artifact.record.inputs}

    def checkpoint_of(self, model: Artifact) -> Artifact:
        """Return the checkpoint that a model was made from."""
        (found,) = (item.id for item in model.record.inputs if item.role == "checkpoint")
        return self.get(found)

    def lifecycle(self, artifacts: Sequence[Artifact]) -> dict[str, str]:
        """Return what has become of some artifacts in words, one line for each thing to say.

        That is which were forgotten, archived, slimmed, recalled, quarantined and held, their
        tags and notes.
        """
        names = {artifact.id: artifact.reference for artifact in artifacts}
        facts = self.catalog.read(_facts, list(names))
        files: dict[str, set[str]] = {}
        for row in facts["files"]:
            files.setdefault(row.artifact, set()).add(row.state)
        damaged = {row.artifact for row in facts["damaged"]}
        live = [artifact for artifact in artifacts if artifact.state != "forgotten"]
        which = {
            "forgotten": [one.id for one in artifacts if one.state == "forgotten"],
            "archived": [
                one.id for one in live if files.get(one.id, set()) - {"removed"} == {"archived"}
            ],
            "slimmed": [one.id for one in live if "removed" in files.get(one.id, set())],
            "recalled": [one.id for one in artifacts if one.recalled],
            "quarantined": [one.id for one in live if one.id in damaged],
        }
        said = {
            what: f"{len(ids)} of {len(artifacts)}: {_named([names[one] for one in ids])}"
            for what, ids in which.items()
            if ids
        }
        held = [f"{names[row.artifact]} for {row.name}" for row in facts["holds"]]
        tags = [f"{names[row.artifact]} {row.name}={row.value}" for row in facts["labels"]]
        notes = {row.subject: str(digest.parse(bytes(row.body))["text"]) for row in facts["notes"]}
        lines = {
            "held": held,
            "tags": tags,
            "notes": [f"{names[one]}: {text}" for one, text in notes.items()],
        }
        return said | {what: _named(found) for what, found in lines.items() if found}


def _named(found: Sequence[str]) -> str:
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def _facts(conn: Connection, ids: list[str]) -> dict[str, list[sa.Row[Any]]]:
    file, hold, label, leaf = tables.artifact_file, tables.hold, tables.label, tables.leaf
    damaged = tables.quarantine
    statements: dict[str, Callable[[list[str]], sa.Select[Any]]] = {
        "files": lambda part: sa.select(file.c.artifact, file.c.state).where(
            file.c.artifact.in_(part)
        ),
        "damaged": lambda part: sa.select(damaged.c.artifact).where(damaged.c.artifact.in_(part)),
        "holds": lambda part: (
            sa.select(hold.c.artifact, hold.c.name)
            .where(hold.c.artifact.in_(part), hold.c.lifted.is_(None))
            .order_by(hold.c.seq)
        ),
        "labels": lambda part: (
            sa.select(label.c.artifact, label.c.name, label.c.value)
            .where(label.c.artifact.in_(part))
            .order_by(label.c.seq)
        ),
        "notes": lambda part: (
            sa.select(leaf.c.subject, leaf.c.body)
            .where(leaf.c.subject.in_(part), leaf.c.action == "annotate", leaf.c.body.is_not(None))
            .order_by(leaf.c.seq)
        ),
    }
    return {
        name: [row for part in batches(ids) for row in conn.execute(made(part))]
        for name, made in statements.items()
    }
