"""What the registry can be asked: artifacts by reference, their bytes, runs and lineage."""

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import lineage, packs, search, tables
from artifact_pipelines.catalog.catalog import Transaction, batches
from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.manifest import FileEntry
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import (
    AmbiguousReferenceError,
    ConflictError,
    DigestMismatchError,
    GoneError,
    QuarantinedError,
    StoreError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import pointers
from artifact_pipelines.registry.opened import Opened
from artifact_pipelines.store.pack import Location

READ_LEASE = 3600.0


def reference_of(kind: Kind, project: str, name: str, number: int | None) -> str:
    """Return the text that finds an artifact again; a checkpoint's number is its step."""
    if kind is Kind.MODEL:
        return f"{project}/v{number}"
    if kind is Kind.TRAINING_RUN:
        return f"{project}/{name}"
    return f"{project}/{name}@{number}"


@dataclass(frozen=True)
class Artifact:
    """A registered artifact.

    Attributes:
        id: The digest of its record.
        seq: The leaf that published it.
        kind: The kind of artifact.
        project: Its project.
        name: The dataset's, run's or project's name.
        step: The step of a checkpoint.
        version: The number of a dataset or model.
        content: The digest of its manifest.
        encoded: The exact bytes of its record.
        size: Its bytes.
        published: When, as RFC 3339 text.
        state: `live` or `forgotten`.
        recalled: Whether it was withdrawn.
        tier: `hot`, or `cold` once it was archived.
        session: The session that wrote its publish object.
    """

    id: str
    seq: int
    kind: Kind
    project: str
    name: str
    step: int | None
    version: int | None
    content: str
    encoded: bytes = field(repr=False)
    size: int
    published: str
    state: str
    recalled: bool
    tier: str
    session: str

    @cached_property
    def record(self) -> Record:
        """What it is and what it was made from; read when it is asked for, as lists are long."""
        return Record.decode(self.encoded)

    @property
    def reference(self) -> str:
        """The text that finds this artifact again."""
        number = self.step if self.kind is Kind.CHECKPOINT else self.version
        return reference_of(self.kind, self.project, self.name, number)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that were recorded with it."""
        found: Mapping[str, Any] = self.record.facts.get("metrics", {})
        return {name: float(value) for name, value in found.items()}

    @classmethod
    def of(cls, row: sa.Row[Any]) -> "Artifact":
        """Return the artifact in a row of the catalog."""
        return cls(
            id=row.id,
            seq=row.seq,
            kind=Kind(row.kind),
            project=row.project,
            name=row.name,
            step=row.step,
            version=row.version,
            content=row.content,
            encoded=bytes(row.record),
            size=row.size,
            published=row.published,
            state=row.state,
            recalled=row.recalled,
            tier=row.tier,
            session=row.object,
        )


@dataclass(frozen=True, slots=True)
class RunView:
    """A training run with what it has produced.

    Attributes:
        artifact: The run.
        state: `running`, `finished` or `failed`.
        reason: Why it failed.
        checkpoints: Its checkpoints, by step.
    """

    artifact: Artifact
    state: str
    reason: str
    checkpoints: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """One step of an artifact's lineage.

    Attributes:
        child: What was made.
        parent: What it was made from.
        role: What the parent was used as.
        kind: `observed`, `declared` or `rederivable`.
        depth: How far from the artifact that was asked about.
    """

    child: Artifact
    parent: Artifact
    role: str
    kind: str
    depth: int


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether an artifact's bytes are what its record says.

    Attributes:
        reference: The artifact.
        files: How many files were read.
        size: How many bytes were read.
        damaged: What is wrong, one sentence each.
    """

    reference: str
    files: int
    size: int
    damaged: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged


class Reading(Opened):
    """The registry, as far as it is read."""

    def projects(self) -> list[str]:
        """Return the names of the projects that have anything."""
        return [name for name in self.catalog.read(search.projects) if name != naming.CANARY]

    def datasets(self, project: str, name: str | None = None) -> list[Artifact]:
        """Return the dataset versions of a project, oldest first."""
        return self._select(project, Kind.DATASET, name)

    def checkpoints(self, project: str, run: str | None = None) -> list[Artifact]:
        """Return the checkpoints of a project or of one run, by run and step."""
        return self._select(project, Kind.CHECKPOINT, run)

    def models(
        self, project: str, run: str | None = None, *, above: int | None = None
    ) -> list[Artifact]:
        """Return the models of a project, by number.

        Args:
            project: The project.
            run: Only those made from this run's checkpoints.
            above: Only those with a higher number.
        """
        return self.catalog.read(_models, project, run, above)

    def runs(self, project: str) -> list[RunView]:
        """Return the training runs of a project, oldest first."""
        table = tables.run
        statement = sa.select(table).where(table.c.project == project)
        states = {
            row.id: row for row in self.catalog.read(lambda conn: list(conn.execute(statement)))
        }
        made: dict[str, list[Artifact]] = {}
        for checkpoint in self.checkpoints(project):
            made.setdefault(checkpoint.name, []).append(checkpoint)
        return [
            RunView(run, states[run.id].state, states[run.id].reason, tuple(made.get(run.name, ())))
            for run in self._select(project, Kind.TRAINING_RUN, None)
        ]

    def run(self, project: str, name: str) -> RunView:
        """Return a training run.

        Raises:
            UnknownArtifactError: There is none of that name.
        """
        found = self._select(project, Kind.TRAINING_RUN, name)
        if not found:
            raise UnknownArtifactError(f"the project {project!r} has no run {name!r}.")
        artifact = found[-1]
        table = tables.run
        statement = sa.select(table.c.state, table.c.reason).where(table.c.id == artifact.id)
        state, reason = self.catalog.read(lambda conn: conn.execute(statement).one())
        return RunView(artifact, state, reason, tuple(self.checkpoints(project, name)))

    def get(self, artifact: str) -> Artifact:
        """Return the artifact of an id.

        Raises:
            UnknownArtifactError: There is none.
        """
        found = self.by_ids([artifact])
        if not found:
            raise UnknownArtifactError(f"there is no artifact {artifact[:16]}.")
        return found[artifact]

    def by_ids(self, ids: Iterable[str]) -> dict[str, Artifact]:
        """Return the artifacts of some ids, by id; one that nobody knows is left out."""
        return {found.id: found for found in self.catalog.read(_by_ids, sorted(set(ids)))}

    def find(self, reference: str) -> Artifact:
        """Return what a reference names.

        Raises:
            InvalidNameError: The text is no reference.
            UnknownArtifactError: It names nothing.
            AmbiguousReferenceError: It names several artifacts.
            LedgerError: A stage points elsewhere than the ledger says.
        """
        parsed = naming.parse(reference)
        table = tables.artifact
        statement = sa.select(table)
        match parsed:
            case naming.StageRef(project, stage):
                pointed, _ = self.catalog.read(pointers.pointer, project, stage)
                alias = tables.alias
                named = sa.select(alias.c.artifact).where(
                    alias.c.project == project, alias.c.name == stage
                )
                found = named.scalar_subquery() if pointed is None else sa.literal(pointed)
                statement = statement.where(table.c.id == found)
            case naming.ModelRef(project, version):
                statement = statement.where(
                    table.c.project == project,
                    table.c.kind == Kind.MODEL.value,
                    table.c.version == version,
                )
            case naming.NameRef(project, name):
                statement = statement.where(
                    table.c.project == project,
                    table.c.kind == Kind.TRAINING_RUN.value,
                    table.c.name == name,
                )
            case naming.NumberedRef(project, name, number):
                ids = [
                    _numbered(project, kind, name, place, number)
                    for kind, place in (
                        (Kind.CHECKPOINT, table.c.step),
                        (Kind.DATASET, table.c.version),
                    )
                ]
                place = sa.func.coalesce(table.c.step, table.c.version)
                statement = (
                    statement.where(table.c.id.in_(sa.union_all(*ids)))
                    .order_by(place.desc(), table.c.attempt.desc())
                    .limit(1)
                )
            case naming.DigestRef(prefix):
                end = prefix + "g"  # one beyond the last hexadecimal digit
                statement = statement.where(
                    sa.or_(
                        table.c.id.between(prefix, end),
                        table.c.content.between(prefix, end),
                    )
                ).limit(2)
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        if not rows:
            raise UnknownArtifactError(f"there is no artifact {reference!r}{self._hint(parsed)}.")
        if len(rows) > 1:
            raise AmbiguousReferenceError(
                f"{reference!r} names {rows[0].id[:16]} and others; write more digits."
            )
        return Artifact.of(rows[0])

    def _hint(self, parsed: naming.Reference) -> str:
        """Return what there is in place of what a reference names."""
        match parsed:
            case naming.StageRef(project):
                names = ", ".join(self.catalog.read(_pointers, project))
                return f"; {project} has {names or 'no stage in use yet'}"
            case naming.ModelRef(project):
                made = [model.version or 0 for model in self.models(project)]
                has = f"v1 to v{max(made)}" if made[1:] else "v1" if made else "no model yet"
                return f"; {project} has {has}"
            case _:
                return ""

    def files(self, reference: str) -> list[FileEntry]:
        """Return the files of an artifact, whether or not their bytes are still kept."""
        artifact = self.find(reference)
        table = tables.artifact_file
        statement = sa.select(table).where(table.c.artifact == artifact.id).order_by(table.c.path)
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        return [FileEntry(row.path, row.size, row.sha256, row.media_type) for row in rows]

    def file_states(self, artifact: Artifact) -> dict[str, str]:
        """Return what became of the bytes of each file: present, archived or removed."""
        return self.catalog.read(_file_states, artifact.id)

    def fetch(self, reference: str, to: Path, paths: Sequence[str] | None = None) -> Path:
        """Write an artifact's files to a folder, verified, all or nothing.

        Files whose bytes were removed on purpose are left out, unless they are asked for.

        Raises:
            GoneError: The bytes that were asked for were removed on purpose.
        """
        artifact = self.find(reference)
        with self._reading(artifact) as publication:
            entries = self._chosen(artifact, publication, paths)
            wanted = [(entry, publication.chunks[entry.sha256]) for entry in entries]
            return self.store.fetch(wanted, self.locate, to)

    def read(self, reference: str, path: str) -> bytes:
        """Return the bytes of one file of an artifact, verified."""
        artifact = self.find(reference)
        with self._reading(artifact) as publication:
            (entry,) = self._chosen(artifact, publication, [path])
            chunks = publication.chunks[entry.sha256]
            return b"".join(self.store.read_file(chunks, self.locate, entry.sha256))

    def verify(self, reference: str) -> Verification:
        """Read every byte that is kept of an artifact again and say what is wrong."""
        artifact = self.find(reference)
        damaged, size = [], 0
        with self._reading(artifact) as publication:
            if publication.record.content != artifact.content:
                damaged.append("the record in the store cites another manifest.")
            entries = self._chosen(artifact, publication, None, damaged=True)
            for entry in entries:
                chunks = publication.chunks[entry.sha256]
                try:
                    for data in self.store.read_file(chunks, self.locate, entry.sha256):
                        size += len(data)
                except (DigestMismatchError, StoreError) as error:
                    damaged.append(f"{artifact.reference}, file {entry.path!r}: {error}")
        return Verification(artifact.reference, len(entries), size, tuple(damaged))

    def lineage(self, reference: str, *, down: bool = False) -> list[LineageEdge]:
        """Return what an artifact was made from, or with `down` what was made from it.

        The lineage of a forgotten artifact still answers.
        """
        start = self.find(reference)
        edges = self.catalog.read(lineage.edges, start.seq, down=down)
        ids = {start.id, *(row.child for row, _ in edges), *(row.parent for row, _ in edges)}
        known = self.by_ids(ids)
        return [
            LineageEdge(known[row.child], known[row.parent], row.role, row.kind, depth)
            for row, depth in edges
        ]

    def scope_of(self, project: str) -> str | None:
        """Return the scope that a project is encrypted in, or nothing.

        Raises:
            ConflictError: Its key was destroyed.
        """
        if self.catalog.read(_is_shredded, project):
            raise ConflictError(
                f"the key of {project!r} was destroyed, so that nothing more can be written for "
                "it; choose another name."
            )
        return self.catalog.read(active_scope, project)

    def locate(self, keys: Sequence[str]) -> Mapping[str, Location]:
        """Return where chunks are."""
        rows = self.catalog.read(packs.locate, keys)
        return {key: to_location(row) for key, row in rows.items()}

    def _chosen(
        self,
        artifact: Artifact,
        publication: Publication,
        paths: Sequence[str] | None,
        *,
        damaged: bool = False,
    ) -> list[FileEntry]:
        there = {entry.path: entry for entry in publication.manifest.files}
        removed = self.removed(artifact)
        for path in paths or ():
            if path not in there:
                raise UnknownArtifactError(
                    f"{artifact.reference} has no file {path!r}; it has {', '.join(sorted(there))}."
                )
            if path in removed:
                why = self.catalog.read(_slimmed, artifact.id, path)
                raise GoneError(
                    f"the bytes of {path!r} of {artifact.reference} were removed {why}. "
                    "Its digest and the other files remain."
                )
        chosen = [there[path] for path in paths or there if path not in removed]
        if not damaged:
            self._check_whole(artifact, publication, chosen)
        return chosen

    def _check_whole(
        self, artifact: Artifact, publication: Publication, chosen: Sequence[FileEntry]
    ) -> None:
        """Refuse to hand over what a scrub found damaged.

        Raises:
            QuarantinedError: It found one of these files damaged.
        """
        hurt = self.catalog.read(_quarantined, artifact.id)
        for entry in chosen if hurt else ():
            for key, _ in publication.chunks[entry.sha256]:
                if key in hurt:
                    raise QuarantinedError(
                        f"the file {entry.path!r} of {artifact.reference} is quarantined: "
                        f"{hurt[key]} Bring it back from a copy: "
                        "artifact-pipelines storage scrub --replica URL"
                    )

    def removed(self, artifact: Artifact) -> set[str]:
        """Return the files whose bytes were removed on purpose."""
        return {path for path, state in self.file_states(artifact).items() if state == "removed"}

    @contextlib.contextmanager
    def _reading(self, artifact: Artifact) -> Iterator[Publication]:
        """Keep an artifact from being forgotten while it is read."""
        lease = secrets.token_hex(16)
        self.catalog.write(_begin_reading, lease, artifact)
        try:
            yield self.publication_of(artifact.id, artifact.session)
        finally:
            reader = tables.reader
            self.catalog.write(
                lambda tx: tx.conn.execute(sa.delete(reader).where(reader.c.id == lease))
            )

    def _select(self, project: str, kind: Kind, name: str | None) -> list[Artifact]:
        table = tables.artifact
        statement = sa.select(table).where(table.c.project == project, table.c.kind == kind.value)
        if name is not None:
            statement = statement.where(table.c.name == name)
        order = (table.c.name, table.c.step) if kind is Kind.CHECKPOINT else (table.c.seq,)
        rows = self.catalog.read(lambda conn: list(conn.execute(statement.order_by(*order))))
        return [Artifact.of(row) for row in rows]


def active_scope(conn: Connection, project: str) -> str | None:
    """Return the scope that a project is encrypted in, or nothing."""
    table = tables.scope
    statement = sa.select(table.c.id).where(table.c.project == project, table.c.state == "active")
    return conn.execute(statement).scalar()


def _is_shredded(conn: Connection, project: str) -> bool:
    table = tables.scope
    statement = sa.select(table.c.id).where(table.c.project == project, table.c.state == "shredded")
    return conn.execute(statement).first() is not None


def to_location(row: sa.Row[Any]) -> Location:
    """Return where a chunk is by its row."""
    return Location(row.pack, row.offset, row.stored, row.length, row.codec, row.base, row.key_id)


def _quarantined(conn: Connection, artifact: str) -> dict[str, str]:
    table = tables.quarantine
    statement = sa.select(table.c.key, table.c.what).where(table.c.artifact == artifact)
    return {row.key: row.what for row in conn.execute(statement)}


def _file_states(conn: Connection, artifact: str) -> dict[str, str]:
    table = tables.artifact_file
    statement = sa.select(table.c.path, table.c.state).where(table.c.artifact == artifact)
    return {row.path: row.state for row in conn.execute(statement)}


def _slimmed(conn: Connection, artifact: str, path: str) -> str:
    """Return by which rule and why a file's bytes were removed."""
    leaf = tables.leaf
    statement = sa.select(leaf.c.body).where(leaf.c.subject == artifact, leaf.c.action == "slim")
    for body in conn.execute(statement.order_by(leaf.c.seq)).scalars():
        said = {} if body is None else digest.parse(bytes(body))
        if path in said.get("files", ()):
            return f"by the rule {said['rule']!r}: {said['reason']}"
    return "on purpose"


def _begin_reading(tx: Transaction, lease: str, artifact: Artifact) -> None:
    rows = tx.lock_rows(tables.artifact, "id", [artifact.id])
    if rows[0].state == "forgotten":
        tomb = tables.tombstone
        found = tx.conn.execute(sa.select(tomb).where(tomb.c.artifact == artifact.id)).one()
        raise GoneError(
            f"{artifact.reference} was forgotten by the rule {found.rule!r}: {found.reason}. "
            "Its record and lineage remain; its bytes cannot be read."
        )
    if _is_shredded(tx.conn, artifact.project):
        raise GoneError(
            f"the key of {artifact.project!r} was destroyed: the bytes of {artifact.reference} "
            "cannot be read by anybody. Its record and lineage remain."
        )
    tx.conn.execute(
        sa.insert(tables.reader).values(
            id=lease, artifact=artifact.id, lease_until=tx.now() + READ_LEASE
        )
    )


def _numbered(
    project: str, kind: Kind, name: str, place: sa.Column[Any], number: int | str
) -> sa.Select[Any]:
    """Return the id of what has a number, or the highest one, read at its place in an index."""
    table = tables.artifact
    found = sa.select(table.c.id).where(
        table.c.project == project,
        table.c.kind == kind.value,
        table.c.name == name,
        place.is_not(None) if number == "latest" else place == number,
    )
    newest = found.order_by(place.desc(), table.c.attempt.desc()).limit(1)
    return sa.select(newest.subquery().c.id)


def _models(conn: Connection, project: str, run: str | None, above: int | None) -> list[Artifact]:
    model = tables.artifact
    statement = (
        sa.select(model)
        .where(model.c.project == project, model.c.kind == Kind.MODEL.value)
        .order_by(model.c.version)
    )
    if above is not None:
        statement = statement.where(model.c.name == project, model.c.version > above)
    if run is not None:
        # Through the run that stands behind each model: through its edges, Postgres reads all.
        named = sa.select(tables.run.c.id).where(
            tables.run.c.project == project, tables.run.c.name == run
        )
        statement = statement.where(model.c.run.in_(named))
    return [Artifact.of(row) for row in conn.execute(statement)]


def _pointers(conn: Connection, project: str) -> list[str]:
    """Return the stages and aliases of a project that point at a model."""
    found = (
        sa.select(table.c[column]).where(table.c.project == project, table.c.artifact.is_not(None))
        for table, column in ((tables.stage, "stage"), (tables.alias, "name"))
    )
    return [name for one in found for name in sorted(conn.execute(one).scalars())]


def _by_ids(conn: Connection, ids: Sequence[str]) -> list[Artifact]:
    table = tables.artifact
    found = []
    for part in batches(list(ids)):
        found += [
            Artifact.of(row) for row in conn.execute(sa.select(table).where(table.c.id.in_(part)))
        ]
    return found
