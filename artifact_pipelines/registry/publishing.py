"""How artifacts come to be: one protocol for datasets, runs, checkpoints and models."""

import contextlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, packs, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.manifest import FileEntry, Manifest
from artifact_pipelines.domain.publication import ChunkMap, Publication
from artifact_pipelines.domain.record import Input, Kind, Record
from artifact_pipelines.errors import (
    ConflictError,
    InvalidFormatError,
    SessionLostError,
    SourceError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import steps
from artifact_pipelines.registry.reading import Artifact, Reading, active_scope
from artifact_pipelines.registry.sessions import Session
from artifact_pipelines.registry.steps import Steps
from artifact_pipelines.store.scanning import Buffers, Scan

Files = Mapping[str, Path | bytes]

NO_FILES = Manifest(()).digest
"""What a draft's record cites until its files have been read."""

_VERSIONED = {Kind.DATASET, Kind.MODEL}
# As JSON writes it: the backslash before it is not itself behind an odd number of them.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_TRAINING_ONLY = ("optimizer.", "state.json", "metrics.jsonl")


@dataclass(frozen=True, slots=True)
class Draft:
    """An artifact that is about to be published.

    Attributes:
        record: Its record but for the content digest.
        files: New files, by path.
        reused: Files that are in the store already, with their chunk maps.
        annex: What may have to be erased later, or nothing.
    """

    record: Record
    files: Files
    reused: tuple[tuple[FileEntry, ChunkMap], ...] = ()
    annex: Mapping[str, Any] | None = None


class Publishing(Reading):
    """The registry, as far as artifacts are published."""

    def publish_dataset(
        self,
        project: str,
        name: str,
        files: Files,
        *,
        facts: Mapping[str, Any] | None = None,
        inputs: Sequence[Input] = (),
        annex: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Return a dataset version, registered unless the same one is there."""
        naming.check_own_project(project)
        naming.check_dataset(name)
        self._check_free(project, name, Kind.TRAINING_RUN)
        record = Record(
            Kind.DATASET, project, name, content=NO_FILES, inputs=tuple(inputs), facts=facts or {}
        )
        return steps.run(self.publish(Draft(record, files, annex=annex)))

    def start_run(
        self,
        project: str,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        inputs: Sequence[Input] = (),
        code: Mapping[str, Any] | None = None,
        files: Files | None = None,
        facts: Mapping[str, Any] | None = None,
        annex: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Return the training run of a name, begun now or begun before.

        A run that was interrupted is running again; one that finished is returned as it is.

        Raises:
            ConflictError: A run of this name has other parameters or inputs.
        """
        naming.check_own_project(project)
        naming.check_run(name)
        self._check_free(project, name, Kind.DATASET)
        lock = (files or {}).get("environment.txt")
        record = Record(
            Kind.TRAINING_RUN,
            project,
            name,
            content=NO_FILES,
            inputs=tuple(inputs),
            params=params or {},
            code=code or {},
            lock=digest.sha256(lock) if isinstance(lock, bytes) else None,
            nonce=secrets.token_hex(16),
            facts=facts or {},
        )
        with contextlib.suppress(UnknownArtifactError):
            return self._continue(self.run(project, name).artifact, record)
        try:
            return steps.run(self.publish(Draft(record, files or {}, annex=annex)))
        except ConflictError:
            # Another process began the run of this name meanwhile.
            return self._continue(self.run(project, name).artifact, record)

    def publish_checkpoint(
        self,
        run: Artifact,
        files: Files,
        *,
        step: int,
        facts: Mapping[str, Any] | None = None,
        inputs: Sequence[Input] = (),
        attempt: int = 1,
    ) -> Artifact:
        """Return a checkpoint of a run, registered unless the same one is there.

        Raises:
            ConflictError: The step has other content.
        """
        if not files:
            raise SourceError(f"checkpoint {run.reference}@{step} has no files.")
        record = Record(
            Kind.CHECKPOINT,
            run.project,
            run.name,
            content=NO_FILES,
            inputs=tuple(inputs),
            run=run.id,
            step=step,
            attempt=attempt,
            facts=facts or {},
        )
        return steps.run(self.publish(Draft(record, files)))

    def publish_model(self, checkpoint: Artifact, evaluation: Sequence[Input] = ()) -> Artifact:
        """Return the model that puts a checkpoint forward, without its training state.

        No bytes are written: the model's files are the checkpoint's.
        """
        publication = self.publication_of(checkpoint.id, checkpoint.session)
        reused = tuple(
            (entry, publication.chunks[entry.sha256])
            for entry in publication.manifest.files
            if not entry.path.startswith(_TRAINING_ONLY)
        )
        record = Record(
            Kind.MODEL,
            checkpoint.project,
            checkpoint.project,
            content=NO_FILES,
            inputs=(Input("checkpoint", checkpoint.id), *evaluation),
            facts={"step": checkpoint.step, "metrics": checkpoint.metrics},
        )
        return steps.run(self.publish(Draft(record, {}, reused)))

    def finish_run(
        self,
        run: Artifact,
        outcome: str,
        reason: str = "",
        *,
        annex: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how a run ended; the same end twice is one."""
        view = self.run(run.project, run.name)
        if view.state == outcome and view.reason == reason:
            return
        body = {
            "project": run.project,
            "name": run.name,
            "outcome": outcome,
            "reason": reason,
            "annex": self._put_annex(annex),
        }
        self.append("run_finish", run.id, body)

    def publish(self, draft: Draft) -> Steps[Artifact]:
        """Publish a draft, step by step.

        Packs come first, then the publish object, then the one transaction that makes the
        artifact visible, then its leaf in the store.
        """
        record = draft.record
        about = {"project": record.project, "name": record.name, "step": record.step}
        return (
            yield from steps.observed_steps(
                self._publish(draft), "publish", kind=str(record.kind), **about
            )
        )

    def _publish(self, draft: Draft) -> Steps[Artifact]:
        naming.check_paths([*draft.files, *(entry.path for entry, _ in draft.reused)])
        if _NUL.search(draft.record.encode()):
            raise InvalidFormatError(
                f"{draft.record.project}/{draft.record.name} holds a text with the character NUL, "
                "which not every database keeps; leave it out of names and values."
            )
        self._check_inputs(draft.record)
        scope = self.scope_of(draft.record.project)
        secret = self.keyring.chunk_secret(scope)
        session = Session(self, secrets.token_hex(16), scope)
        try:
            yield "session_opened"
            scans = []
            with Buffers() as buffers:
                for path, source in sorted(draft.files.items()):
                    scans.append(Scan(path, source, secret, buffers))
                    for window in scans[-1].windows():
                        session.take(window)
            entries = [scan.entry() for scan in scans]
            chunks = {scan.sha256: tuple(scan.chunk_map) for scan in scans}
            for entry, chunk_map in draft.reused:
                session.rely_on([key for key, _ in chunk_map])
                entries.append(entry)
                chunks[entry.sha256] = tuple(chunk_map)
            yield "chunks_written"
            session.seal()
            yield "packs_sealed"
            manifest = Manifest(tuple(entries))
            record = replace(draft.record, content=manifest.digest)
            publication = Publication(record, manifest, chunks)
            data = publication.encode()
            annex = self._put_annex(draft.annex)
            self.store.backend.put(Publication.key(record.id, session.id), data)
            yield "object_written"
            body = {
                "kind": record.kind,
                "project": record.project,
                "name": record.name,
                "step": record.step,
                "attempt": record.attempt,
                "content": record.content,
                "object": session.id,
                "object_sha256": digest.sha256(data),
                "annex": annex,
            }
            self.catalog.write(_commit, session, publication, body, self.actor)
            session.ended = True
            yield "committed"
        finally:
            session.abandon()
        self.export_leaves()
        yield "exported"
        return self.get(record.id)

    def _continue(self, run: Artifact, asked: Record) -> Artifact:
        same = digest.canonical({"params": run.record.params}) == digest.canonical(
            {"params": asked.params}
        )
        if not same or run.record.inputs != asked.inputs:
            what = "inputs" if same else "parameters"
            raise ConflictError(
                f"the run {run.reference} was begun with other {what}; "
                "a run name trains once, so choose a new name."
            )
        if self.run(run.project, run.name).state == "failed":
            self.append("run_resume", run.id, {"project": run.project, "name": run.name})
        return run

    def _check_free(self, project: str, name: str, kind: Kind) -> None:
        if self._select(project, kind, name):
            raise ConflictError(
                f"the name {name!r} is a {kind.value.replace('_', ' ')} of {project!r} already; "
                "datasets and runs of a project share their names, so choose another."
            )

    def _check_inputs(self, record: Record) -> None:
        for item in record.inputs:
            try:
                self.get(item.id)
            except UnknownArtifactError:
                raise UnknownArtifactError(
                    f"the input {item.role!r} ({item.id[:16]}) of {record.project}/{record.name} "
                    "is not registered; publish it first."
                ) from None

    def _put_annex(self, annex: Mapping[str, Any] | None) -> str | None:
        if annex is None:
            return None
        sealed = digest.seal(annex)
        self.store.backend.put(f"annexes/{digest.sha256(sealed)}", sealed)
        return digest.sha256(sealed)


def _commit(
    tx: Transaction,
    session: Session,
    publication: Publication,
    body: Mapping[str, Any],
    actor: str,
) -> None:
    """Make an artifact visible: the only publish point."""
    record = publication.record
    hurt = packs.damaged(tx.conn, session.placed)
    used = packs.seal(
        tx, session.id, session.sealed, list(session.placed.items()), publication.keys()
    )
    ledger.lock(tx)
    if active_scope(tx.conn, record.project) != session.scope:
        raise SessionLostError(
            f"the project {record.project!r} came to be encrypted, or shredded, while this was "
            "written, so nothing of it was published."
        )
    _heal(tx, session, hurt, actor)
    table = tables.artifact
    if tx.conn.execute(sa.select(table.c.id).where(table.c.id == record.id)).first() is None:
        version = None
        if record.kind in _VERSIONED:
            version = _newest(tx.conn, record) + 1
        else:
            _check_slot(tx.conn, record)
        ledger.append(
            tx,
            action="publish",
            subject=record.id,
            body={**body, "version": version},
            actor=actor,
            publication=publication,
        )
        packs.attach(tx, record.id, used)
    packs.close(tx, session.id)


def _heal(tx: Transaction, session: Session, hurt: Mapping[str, Sequence[str]], actor: str) -> None:
    """Give the artifacts of damaged chunks the whole ones that this session wrote."""
    whole: dict[str, list[str]] = {}
    for key, artifacts in hurt.items():
        for artifact in artifacts:
            whole.setdefault(artifact, []).append(key)
    project = tables.artifact.c.project
    for artifact, keys in sorted(whole.items()):
        packs.attach(tx, artifact, sorted({session.placed[key].pack for key in keys}))
        of = tx.conn.execute(sa.select(project).where(tables.artifact.c.id == artifact)).scalar()
        body = {"project": of, "chunks": sorted(keys)}
        ledger.append(tx, action="heal", subject=artifact, body=body, actor=actor)


def _newest(conn: Connection, record: Record) -> int:
    table = tables.artifact
    statement = sa.select(sa.func.max(table.c.version)).where(
        table.c.project == record.project,
        table.c.kind == record.kind.value,
        table.c.name == record.name,
    )
    return conn.execute(statement).scalar() or 0


def _check_slot(conn: Connection, record: Record) -> None:
    table = tables.artifact
    statement = sa.select(table.c.id).where(
        table.c.project == record.project,
        table.c.kind == record.kind.value,
        table.c.name == record.name,
        table.c.attempt == record.attempt,
        table.c.step.is_(None) if record.step is None else table.c.step == record.step,
    )
    if conn.execute(statement).first() is not None:
        place = "" if record.step is None else f"@{record.step}"
        raise ConflictError(
            f"{record.project}/{record.name}{place} is registered with other content; "
            "choose a new run name, or publish it as another attempt."
        )
