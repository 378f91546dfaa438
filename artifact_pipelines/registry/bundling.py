"""What an auditor takes home: a folder of evidence that checks itself."""

import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.domain import digest, naming
from artifact_pipelines.domain.signing import SignedStatement
from artifact_pipelines.errors import (
    ConflictError,
    GoneError,
    LedgerError,
    SourceError,
    UnknownArtifactError,
)
from artifact_pipelines.registry import verify
from artifact_pipelines.registry.keys import LOG
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.signing_off import SigningOff

FORMAT: Final = "artifact-pipelines/bundle/v1"

_BATCH = 10_000
_VERIFIER: Final = "verify.py"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An exported bundle.

    Attributes:
        folder: Where it is.
        subject: What it is about.
        report: What its own verifier says about it.
    """

    folder: Path
    subject: str
    report: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether it verifies."""
        return bool(self.report["ok"])


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a bundle is about.

    Attributes:
        text: As it was asked for.
        artifact: The artifact.
        stage: The stage that points at it, where the bundle is about a stage.
        seq: The leaf that moved the pointer, or that published the artifact.
    """

    text: str
    artifact: Artifact
    stage: str | None
    seq: int


class Bundling(SigningOff):
    """The registry, as far as evidence leaves it."""

    def export_bundle(self, reference: str, to: Path, *, with_bytes: bool = True) -> Bundle:
        """Write what proves an artifact, or what a stage serves, to a new folder.

        The bundle holds every envelope up to the newest signed head, the bodies that concern
        the project's stages and the artifact's lineage, and a program that checks them. The
        same log gives the same bytes.

        Raises:
            ConflictError: The folder is there and not empty.
            GoneError: The bytes were forgotten, and are asked for.
            LedgerError: No signed head covers what was asked for.
        """
        if self.keys.has(LOG):
            self.sign_head()
        heads = self.catalog.read(_heads)
        if not heads:
            raise LedgerError("the log has no signed head yet, so nothing in it can be proven.")
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise ConflictError(f"{to} is there already; name a new folder.")
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
        try:
            partial.mkdir()
            subject = self._subject(reference, heads[-1])
            if with_bytes:
                _check_kept(subject.artifact)
            self._write_bundle(partial, subject, heads, with_bytes=with_bytes)
            if to.exists():
                to.rmdir()
            partial.rename(to)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return Bundle(to, reference, verify.check(to, self.log_key().hex))

    def _subject(self, reference: str, newest: sa.Row[Any]) -> _Subject:
        """Return what a reference names, a stage as the newest signed head has it."""
        parsed = naming.parse(reference)
        pointers = digest.parse(newest.pointers.encode())
        if isinstance(parsed, naming.StageRef) and f"{parsed.project}/{parsed.stage}" in pointers:
            seq = pointers[f"{parsed.project}/{parsed.stage}"]
            history = tables.stage_history
            moved = sa.select(history.c.artifact).where(history.c.seq == seq)
            found = self.catalog.read(lambda conn: conn.execute(moved).scalar())
            if found is None:
                raise LedgerError(
                    f"the catalog does not know the move of {reference} that is signed."
                )
            named = f"{parsed.project}@{parsed.stage}"
            return _Subject(named, self.get(found), parsed.stage, seq)
        artifact = self.find(reference)
        if artifact.seq >= newest.size:
            raise LedgerError(f"no signed tree head covers {artifact.reference} yet.")
        return _Subject(artifact.reference, artifact, None, artifact.seq)

    def _write_bundle(
        self, folder: Path, subject: _Subject, heads: list[sa.Row[Any]], *, with_bytes: bool
    ) -> None:
        artifact, size = subject.artifact, heads[-1].size
        lineage = self._closure(artifact)
        judged, policies = self.catalog.read(_moved, artifact.project)
        objects = policies | self.catalog.read(_evidence, artifact.id)
        objects |= self.catalog.read(_provenances, artifact.id)
        about = {
            "format": FORMAT,
            "subject": subject.text,
            "project": artifact.project,
            "artifact": artifact.id,
            "stage": subject.stage,
            "seq": subject.seq,
            "heads": [row.size for row in heads],
            "bytes": with_bytes,
        }
        path = self.catalog.read(ledger.inclusion, subject.seq, size)
        proof = {"path": [node.hex() for node in path]}
        _write(folder / "bundle.json", [digest.canonical(about)])
        _write(folder / "proof.json", [digest.canonical(proof)])
        _write(
            folder / "heads.jsonl",
            (digest.canonical({"note": row.note}) for row in heads),
        )
        actors: set[str] = set()
        _write(
            folder / "leaves.jsonl",
            self._told(size, artifact.project, set(lineage), set(lineage) | judged, actors),
        )
        for actor in sorted(actors - self.catalog.read(_erased_actors)):
            _write_bytes(folder / "actors" / actor, self.store.backend.get(f"actors/{actor}"))
        for found in lineage.values():
            publication = self.publication_of(found.id, found.session)
            _write_bytes(folder / "records" / found.id, found.record.encode())
            _write_bytes(folder / "manifests" / found.content, publication.manifest.encode())
        for name in sorted(objects):
            _write_bytes(folder / "objects" / name, self.store.get_object(name))
        if with_bytes:
            self.fetch(artifact.id, folder / "files")
        _write_bytes(folder / _VERIFIER, Path(verify.__file__).read_bytes())

    def _closure(self, artifact: Artifact) -> dict[str, Artifact]:
        """Return everything that an artifact's record commits to, itself included."""
        found, waiting = {artifact.id: artifact}, [artifact]
        while waiting:
            record = waiting.pop().record
            cited = {item.id for item in record.inputs} | ({record.run} if record.run else set())
            for parent in self.by_ids(sorted(cited - set(found))).values():
                found[parent.id] = parent
                waiting.append(parent)
        return found

    def _told(
        self, size: int, project: str, lineage: set[str], judged: set[str], actors: set[str]
    ) -> Iterator[bytes]:
        """Yield every leaf, with its body where that concerns the project or the lineage.

        Whoever is behind a leaf with a body is added to the actors.
        """
        for start in range(0, size, _BATCH):
            for row in self.catalog.read(ledger.leaves, start, min(start + _BATCH, size)):
                concerns = verify.concerns(row.action, row.subject, project, lineage, judged)
                told = concerns and row.body is not None
                if told:
                    actors.add(row.actor)
                yield digest.canonical(
                    {
                        "envelope": bytes(row.envelope).decode(),
                        "body": bytes(row.body).decode() if told else None,
                    }
                )


def verify_bundle(folder: Path, key: str | None = None, head: Path | None = None) -> dict[str, Any]:
    """Return what this program's own verifier says about a bundle.

    The verifier inside the bundle must be the same: whoever forged the rest could have
    changed it too.

    Raises:
        UnknownArtifactError: The folder is no bundle.
        SourceError: The kept head cannot be read.
    """
    if not (folder / "bundle.json").is_file():
        raise UnknownArtifactError(f"{folder} is no bundle: it has no bundle.json.")
    try:
        kept = None if head is None else head.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SourceError(f"the tree head {head} cannot be read: {error}.") from error
    given = None if key is None else key.strip().lower()
    report: dict[str, Any] = verify.check(folder, given, kept)
    inside = folder / _VERIFIER
    if inside.is_file() and inside.read_bytes() != Path(verify.__file__).read_bytes():
        said = f"{_VERIFIER} in the bundle is another program than the one that is installed here."
        return {"ok": False, "kind": "edited", "problem": said}
    return report


def _check_kept(artifact: Artifact) -> None:
    if artifact.state == "forgotten":
        raise GoneError(
            f"the bytes of {artifact.reference} were forgotten; its record and lineage are still "
            "proven: run it again with --no-bytes."
        )


def _write(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("xb") as stream:
        for line in lines:
            stream.write(line + b"\n")


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def _heads(conn: Connection) -> list[sa.Row[Any]]:
    """Return every signed head, the oldest first."""
    return list(conn.execute(sa.select(tables.tree_head).order_by(tables.tree_head.c.size)))


def _moved(conn: Connection, project: str) -> tuple[set[str], set[str]]:
    """Return the models that a project's stages ever pointed at, and the policies behind it."""
    table = tables.stage_history
    rows = list(
        conn.execute(
            sa.select(table.c.artifact, table.c.policy, table.c.action).where(
                table.c.project == project
            )
        )
    )
    return {row.artifact for row in rows}, {row.policy for row in rows}


def _evidence(conn: Connection, artifact: str) -> set[str]:
    """Return the digests of the evidence behind a model's verdicts."""
    table = tables.verdict
    statements = conn.execute(sa.select(table.c.statement).where(table.c.artifact == artifact))
    found = {digest.parse(text.encode())["evidence"] for text in statements.scalars()}
    return found - {None}


def _provenances(conn: Connection, artifact: str) -> set[str]:
    """Return the digests of the provenance statements that a model was promoted with."""
    history, leaf = tables.stage_history, tables.leaf
    bodies = conn.execute(
        sa.select(leaf.c.body)
        .join(history, history.c.seq == leaf.c.seq)
        .where(history.c.artifact == artifact, history.c.action == "promote")
    ).scalars()
    statements = [SignedStatement.from_body(digest.parse(bytes(body))) for body in bodies]
    return {statement.payload["provenance"] for statement in statements}


def _erased_actors(conn: Connection) -> set[str]:
    """Return the pseudonyms whose names were erased."""
    leaf = tables.leaf
    subjects = conn.execute(sa.select(leaf.c.subject).where(leaf.c.action == "erase")).scalars()
    return {subject.removeprefix("actor/") for subject in subjects if subject.startswith("actor/")}
