"""What people say about artifacts: aliases, tags, notes and banners, and how words are erased.

None of it is proof: an alias serves for finding, and moves without gates.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import (
    ConfigurationError,
    ConflictError,
    UnknownArtifactError,
)
from artifact_pipelines.registry.opened import leaf_key
from artifact_pipelines.registry.reading import Artifact, Reading

ERASABLE = ("annotate", "banner_set")
"""The leaves whose bodies may be erased: nothing is decided by them."""

_LONGEST = 10_000


@dataclass(frozen=True, slots=True)
class Annotation:
    """Something that somebody said about an artifact.

    Attributes:
        seq: Its leaf.
        time: When.
        actor: Who, by name where the name is still known.
        text: What.
        reason: Why.
    """

    seq: int
    time: str
    actor: str
    text: str
    reason: str


class Annotating(Reading):
    """The registry, as far as people talk about its artifacts."""

    def set_alias(self, reference: str, name: str, reason: str = "") -> Artifact:
        """Have an alias such as `champion` name a model; it moves without proof.

        Raises:
            ConflictError: The name is a stage's.
        """
        model = self.find(reference)
        if model.kind is not Kind.MODEL:
            raise UnknownArtifactError(f"{reference} is no model, and an alias names models only.")
        self._check_alias(model.project, name)
        if self.aliases(model.project).get(name) != model:
            self._alias(model.project, name, model.id, reason)
        return model

    def remove_alias(self, project: str, name: str, reason: str = "") -> None:
        """Take an alias away.

        Raises:
            UnknownArtifactError: There is none.
        """
        if name not in self.aliases(project):
            raise UnknownArtifactError(f"the project {project!r} has no alias {name!r}.")
        self._alias(project, name, None, reason)

    def aliases(self, project: str) -> dict[str, Artifact]:
        """Return what the aliases of a project name."""
        table = tables.alias
        statement = sa.select(table).where(table.c.project == project).order_by(table.c.name)
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        models = self.by_ids(row.artifact for row in rows)
        return {row.name: models[row.artifact] for row in rows}

    def tag(self, reference: str, name: str, value: str | None, reason: str = "") -> Artifact:
        """Give an artifact a tag, or take it away with no value; the same again changes nothing."""
        artifact = self.find(reference)
        naming.check_project(name)
        if self.tags(artifact.id).get(name) != value:
            self.append(
                "tag",
                artifact.id,
                {
                    "project": artifact.project,
                    "name": name,
                    "value": None if value is None else _short(value),
                    "reason": reason,
                },
            )
        return artifact

    def tags(self, artifact: str) -> dict[str, str]:
        """Return the tags of an artifact."""
        table = tables.label
        statement = sa.select(table).where(table.c.artifact == artifact).order_by(table.c.name)
        return self.catalog.read(
            lambda conn: {row.name: row.value for row in conn.execute(statement)}
        )

    def annotate(self, reference: str, text: str, reason: str = "") -> Artifact:
        """Add a note to an artifact."""
        artifact = self.find(reference)
        body = {"project": artifact.project, "text": _short(text), "reason": reason}
        self.append("annotate", artifact.id, body)
        return artifact

    def annotations(self, artifact: str) -> list[Annotation]:
        """Return the notes on an artifact that were not erased, oldest first."""
        return self.catalog.read(_notes, tables.annotation, artifact)

    def set_banner(self, subject: str, text: str | None, reason: str = "") -> str:
        """Show a line with an artifact or a whole project until another, or none, is set."""
        about, project = self._banner_of(subject)
        said = None if text is None else _short(text)
        self.append("banner_set", about, {"project": project, "text": said, "reason": reason})
        return about

    def banners(self, artifact: Artifact) -> list[Annotation]:
        """Return the banners over an artifact: its project's, then its own."""
        found: list[Annotation] = []
        for about in (artifact.project, artifact.id):
            found += self.catalog.read(_notes, tables.banner, about)
        return found

    def banner(self, project: str) -> Annotation | None:
        """Return the banner over a project, or None."""
        return next(iter(self.catalog.read(_notes, tables.banner, project)), None)

    # Erasing

    def erase_body(self, seq: int, reason: str) -> None:
        """Erase what a note or banner said; that it was said, when and by whom stays provable.

        Raises:
            UnknownArtifactError: There is no such leaf.
            ConflictError: The leaf decides something.
        """
        rows = self.catalog.read(ledger.leaves, seq, seq + 1)
        if not rows:
            raise UnknownArtifactError(f"the ledger has no leaf {seq}.")
        if rows[0].action not in ERASABLE:
            raise ConflictError(
                f"leaf {seq} ({rows[0].action}) decides something, so its body has to stay; "
                f"erasable are {', '.join(ERASABLE)}, annexes and names of actors."
            )
        if rows[0].body is not None:
            self._erase("leaf", str(seq), reason)
        envelope = bytes(rows[0].envelope).decode()
        # Put, not created: an export by another process that still had the body is replaced.
        self.store.backend.put(
            leaf_key(seq), digest.canonical({"envelope": envelope, "body": None})
        )

    def erase_annex(self, reference: str, reason: str) -> None:
        """Erase on which machine, where and by whom an artifact was made.

        Raises:
            UnknownArtifactError: It has no annex.
        """
        artifact = self.find(reference)
        table = tables.artifact
        statement = sa.select(table.c.annex).where(table.c.id == artifact.id)
        annex = self.catalog.read(lambda conn: conn.execute(statement).scalar())
        if annex is None:
            raise UnknownArtifactError(f"{artifact.reference} has no annex.")
        self._erase("annex", annex, reason)
        self.store.backend.delete(f"annexes/{annex}")

    def erase_actor(self, name: str, reason: str) -> None:
        """Erase the name behind a pseudonym; what it did stays under the pseudonym.

        Raises:
            UnknownArtifactError: Nobody of this name did anything.
        """
        pseudonym = self._find_actor(name)
        if pseudonym is None:
            raise UnknownArtifactError(f"nobody called {name!r} is in the ledger.")
        self._erase("actor", pseudonym, reason)
        self.store.backend.delete(f"actors/{pseudonym}")
        if name == self.who:
            self._actor = None

    def _erase(self, what: str, target: str, reason: str) -> None:
        self.append("erase", f"{what}/{target}", {"what": what, "reason": reason})

    def _alias(self, project: str, name: str, artifact: str | None, reason: str) -> None:
        body = {"project": project, "name": name, "artifact": artifact, "reason": reason}
        self.append("alias_set", f"{project}/{name}", body)

    def _check_alias(self, project: str, name: str) -> None:
        naming.check_stage(name)
        stage, policy = tables.stage, tables.policy
        pointed = sa.select(stage.c.seq).where(stage.c.project == project, stage.c.stage == name)
        set_ = sa.select(policy.c.digest).where(policy.c.project == project)
        taken = self.catalog.read(lambda conn: conn.execute(pointed).first() is not None)
        found = self.catalog.read(lambda conn: conn.execute(set_).scalar())
        if found is not None:
            taken |= name in digest.parse(self.store.get_object(found)).get("promotion", {})
        if taken or name in {"development", "staging", "production"}:
            raise ConflictError(
                f"{name!r} is a stage, which moves with proof only; choose another alias."
            )

    def _banner_of(self, subject: str) -> tuple[str, str]:
        """Return what a banner is over, and its project."""
        if subject in self.projects():
            return subject, subject
        artifact = self.find(subject)
        return artifact.id, artifact.project


def _notes(conn: Connection, table: sa.Table, about: str) -> list[Annotation]:
    leaf, actor = tables.leaf, tables.actor
    statement = (
        sa.select(table, leaf.c.time, leaf.c.actor, actor.c.name)
        .join(leaf, leaf.c.seq == table.c.seq)
        .outerjoin(actor, actor.c.id == leaf.c.actor)
        .where(table.c.subject == about)
        .order_by(table.c.seq)
    )
    return [
        Annotation(row.seq, row.time, row.name or row.actor, row.text, row.reason)
        for row in conn.execute(statement)
    ]


def _short(text: str) -> str:
    """Return a text that is fit to be kept for ever.

    Raises:
        ConfigurationError: It is empty, longer than ten thousand characters, or has a NUL.
    """
    if "\0" in text:
        raise ConfigurationError("a tag, note or banner cannot hold the character NUL.")
    if not text.strip() or len(text) > _LONGEST:
        raise ConfigurationError(f"a tag, note or banner has 1 to {_LONGEST:,} characters.")
    return text
