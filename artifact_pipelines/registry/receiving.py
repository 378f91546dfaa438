"""The inbox: checkpoints that outside trainers leave in a folder, taken when they are complete."""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain import layout, naming
from artifact_pipelines.domain.layout import Layout
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import ArtifactError, InvalidNameError, SourceError
from artifact_pipelines.registry.publishing import Publishing
from artifact_pipelines.registry.tracing import Tracing

_MEMORY = "inbox.json"
_SMALL = 64 * 2**20  # what a drop says of itself is read whole up to here


@dataclass(frozen=True, slots=True)
class Drop:
    """What became of one drop.

    Attributes:
        path: Where it is in the inbox: project/run/name.
        layout: What it was recognised as.
        outcome: `imported`, `known`, `waiting` or `refused`.
        reference: The checkpoint that it is, or nothing.
        said: Why, one sentence.
    """

    path: str
    layout: str | None
    outcome: str
    reference: str | None
    said: str


class Receiving(Publishing, Tracing):
    """The registry, as far as it takes what others leave for it."""

    def receive(self, inbox: Path) -> list[Drop]:
        """Import every complete drop below `project/run/` and report on each; none is changed.

        Raises:
            SourceError: The inbox is no folder.
        """
        if not inbox.is_dir():
            raise SourceError(f"the inbox {str(inbox)!r} is no folder; make it first.")
        memory = _Memory(self.keys.root.parent / _MEMORY)
        found = []
        for project, run, path in _drops(inbox):
            files = _files(path)
            print_ = _fingerprint(files)
            place = f"{project}/{run}/{path.name}"
            drop = memory.recall(place, print_)
            if drop is None:
                drop = self._take(place, project, run, path, files)
                if drop.outcome in {"imported", "known"}:
                    memory.keep(place, print_, drop)
            found.append(drop)
        memory.write()
        return found

    def _take(
        self, place: str, project: str, run: str, path: Path, files: Mapping[str, Path]
    ) -> Drop:
        try:
            naming.check_own_project(project)
            naming.check_run(run)
        except InvalidNameError as error:
            return Drop(place, None, "refused", None, str(error))
        sizes = {name: file.stat().st_size for name, file in files.items()}
        seen = layout.recognise(path.name, sizes, lambda name: _small(files[name]))
        waits = seen.waits or _unfinished(files)
        if seen.wrong or waits:
            outcome = "refused" if seen.wrong else "waiting"
            return Drop(place, seen.kind, outcome, None, f"{place}: {seen.wrong or waits}.")
        try:
            return self._import(place, project, run, seen, files)
        except (ArtifactError, OSError) as error:
            return Drop(place, seen.kind, "refused", None, f"{place}: {error}")

    def _import(
        self, place: str, project: str, run: str, seen: Layout, files: Mapping[str, Path]
    ) -> Drop:
        parents = [self._parent(role, reference) for role, reference in seen.made_from]
        there = self._same(project, files)
        if there is not None:
            self._say_parents(there, parents)
            said = f"{place}: the same files are registered as {there}."
            return Drop(place, seen.kind, "known", there, said)
        started = self.start_run(project, run, code={"imported_by": "inbox"})
        if started.record.code.get("imported_by") != "inbox":
            raise SourceError(
                f"the run {started.reference} was trained here, and is not added to from outside; "
                "use another folder."
            )
        made = self.publish_checkpoint(
            started,
            dict(files),
            step=seen.step or 0,
            facts={"metrics": dict(seen.metrics), "epoch": seen.epoch, "layout": seen.kind},
        )
        self._say_parents(made.id, parents)
        self.finish_run(started, "finished")
        return Drop(place, seen.kind, "imported", made.reference, f"{place}: {made.reference}.")

    def _parent(self, role: str, reference: str) -> tuple[str, str]:
        """Return the role and id of what a drop says that it was made from."""
        found = self.find(reference)
        if found.kind is not (Kind.DATASET if role == "dataset" else Kind.CHECKPOINT):
            raise SourceError(f"its {role} {reference!r} is a {found.kind.replace('_', ' ')}.")
        return (f"dataset:{found.name}" if role == "dataset" else role), found.id

    def _say_parents(self, reference: str, parents: Sequence[tuple[str, str]]) -> None:
        for role, parent in parents:
            self.declare(reference, parent, role)

    def _same(self, project: str, files: Mapping[str, Path]) -> str | None:
        """Return the artifact of a project that has just these files, under whatever name."""
        digests = {}
        for name, file in files.items():
            with file.open("rb") as opened:
                digests[name] = hashlib.file_digest(opened, "sha256").hexdigest()
        one = max(files, key=lambda name: files[name].stat().st_size)
        table, artifact = tables.artifact_file, tables.artifact
        statement = (
            sa.select(artifact.c.id)
            .join(table, table.c.artifact == artifact.c.id)
            .where(
                artifact.c.project == project,
                artifact.c.kind == "checkpoint",
                artifact.c.state == "live",
                table.c.sha256 == digests[one],
            )
            .distinct()
        )
        for identity in self.catalog.read(lambda conn: list(conn.execute(statement).scalars())):
            entries = {entry.path: entry.sha256 for entry in self.files(identity)}
            if sorted(entries.values()) == sorted(digests.values()):
                return self.get(identity).reference
        return None


class _Memory:
    """What was imported before, so that it is not read again; losing it costs time only."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.changed = False
        try:
            self.known: dict[str, Any] = json.loads(file.read_bytes())
        except (OSError, ValueError):
            self.known = {}

    def recall(self, place: str, fingerprint: str) -> Drop | None:
        entry = self.known.get(place)
        if not entry or entry[0] != fingerprint:
            return None
        return Drop(place, entry[1], "known", entry[2], f"{place}: imported as {entry[2]} before.")

    def keep(self, place: str, fingerprint: str, drop: Drop) -> None:
        self.known[place] = [fingerprint, drop.layout, drop.reference]
        self.changed = True

    def write(self) -> None:
        if not self.changed:
            return
        # A folder that cannot be written costs the next scan its time, and nothing else.
        with contextlib.suppress(OSError):
            new = self.file.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(self.known))
            new.replace(self.file)


def _drops(inbox: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield project, run and path of everything that was left; a note goes with its tensors."""
    for project in sorted(item for item in inbox.iterdir() if item.is_dir()):
        for run in sorted(item for item in project.iterdir() if item.is_dir()):
            for path in sorted(run.iterdir()):
                if path.suffix != ".json" or path.is_dir():
                    yield project.name, run.name, path


def _files(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        note = path.with_suffix(".json")
        pair = [path, note] if path.suffix == ".safetensors" and note.is_file() else [path]
        return {file.name: file for file in pair}
    return {
        file.relative_to(path).as_posix(): file
        for file in sorted(path.rglob("*"))
        if file.is_file() or file.is_symlink()
    }


def _fingerprint(files: Mapping[str, Path]) -> str:
    found = []
    for name, file in sorted(files.items()):
        seen = file.lstat()
        found.append([name, seen.st_size, seen.st_mtime_ns])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _small(file: Path) -> bytes:
    if file.stat().st_size > _SMALL:
        raise SourceError(f"{file.name!r} is too large to be read whole")
    return file.read_bytes()


def _unfinished(files: Mapping[str, Path]) -> str | None:
    """Return which file is not whole: archives and tensors say so themselves."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 (an inbox alone needs it)

    for name, file in files.items():
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="np"):
                    pass
            except (OSError, SafetensorError):
                return f"{name} is not whole yet"
        if file.suffix in {".ckpt", ".pt", ".pth"} and not zipfile.is_zipfile(file):
            return f"{name} is not whole yet"
    return None
