"""The inbox: checkpoints that outside trainers leave, taken when they are complete."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import time
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.domain import layout, naming
from artifact_pipelines.domain.layout import Layout
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.domain.sharding import MOST, shards
from artifact_pipelines.errors import (
    ArtifactError,
    ConflictError,
    InvalidFormatError,
    InvalidNameError,
    MissingObjectError,
    SourceError,
)
from artifact_pipelines.registry.inbox import REST, Left, left_in
from artifact_pipelines.registry.publishing import Publishing
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.tracing import Tracing

SHARD: Final = 1 << 30
"""The bytes that a shard of an import takes, about."""

_MEMORY = "inbox.json"
_MORE = (
    f"more of it may be on its way; it is taken {REST / 60:.0f} minutes after its newest object, "
    f"or at once with an empty {layout.MARKER} in it"
)


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

    def receive(
        self,
        inbox: str | Path,
        runs: Collection[str] | None = None,
        *,
        seconds: float = math.inf,
    ) -> list[Drop]:
        """Import every complete drop below `project/run/` and report on each; none is changed.

        Args:
            inbox: A folder, or `s3://bucket/prefix`.
            runs: The places `project/run` to look into; all when left out.
            seconds: After so many no further drop is looked into; the next call goes on.

        Raises:
            SourceError: The inbox is no folder.
            StoreError: The bucket is not there, or does not answer.
        """
        until = time.monotonic() + seconds
        memory = self._memory()
        left = [one for one in left_in(inbox) if runs is None or _run_of(one) in runs]
        found = {one.place: memory.recall(one.place, one.fingerprint) for one in left}
        seen = [(one, self._look(one)) for one in left if found[one.place] is None]
        # By step, so that what a checkpoint was trained on from is there before it.
        for one, looked in sorted(seen, key=lambda pair: _turn(*pair)):
            if isinstance(looked, Drop):
                found[one.place] = looked
            elif time.monotonic() > until:
                said = f"{one.place}: it is complete, and is taken by the next look."
                found[one.place] = Drop(one.place, looked.kind, "waiting", None, said)
            else:
                drop = found[one.place] = self._take(one, looked)
                if drop.outcome in {"imported", "known"}:
                    memory.keep(one.place, one.fingerprint, drop)
        memory.write()
        return [drop for drop in found.values() if drop is not None]

    def unknown_in(self, inbox: str | Path) -> list[Left]:
        """Return the drops that are not known to be imported.

        Raises:
            SourceError: The inbox is no folder.
            StoreError: The bucket is not there, or does not answer.
        """
        memory = self._memory()
        left = left_in(inbox)
        return [one for one in left if memory.recall(one.place, one.fingerprint) is None]

    def inbox_shards(
        self, inbox: str | Path, *, each: int = SHARD, most: int = MOST
    ) -> list[list[str]]:
        """Return the places `project/run` with drops that are not known, in shards.

        A run is in one shard, so that its drops are taken in their order.

        Args:
            inbox: A folder, or `s3://bucket/prefix`.
            each: The bytes of a shard, about.
            most: How many shards there may be.

        Raises:
            SourceError: The inbox is no folder.
            StoreError: The bucket is not there, or does not answer.
        """
        sizes: dict[str, int] = {}
        for left in self.unknown_in(inbox):
            sizes[_run_of(left)] = sizes.get(_run_of(left), 0) + sum(left.sizes.values())
        return shards(list(sizes), sizes.__getitem__, each, most=most)

    def _memory(self) -> "_Memory":
        return _Memory(self.keys.root.parent / _MEMORY)

    def _look(self, left: Left) -> Layout | Drop:
        """Return what a drop is, or why it is not taken."""
        place = left.place
        try:
            naming.check_own_project(left.project)
            naming.check_run(left.run)
            naming.check_paths(left.sizes)
        except (InvalidNameError, InvalidFormatError) as error:
            return Drop(place, None, "refused", None, f"{place}: {error}")
        try:
            seen = layout.recognise(left.name, left.sizes, left.read, marked=left.marked)
        except MissingObjectError:
            return _waiting(place, None, "it changed while it was read")
        except (ArtifactError, OSError) as error:
            return Drop(place, None, "refused", None, f"{place}: {error}")
        if seen.wrong:
            return Drop(place, seen.kind, "refused", None, f"{place}: {seen.wrong}.")
        waits = seen.waits or (_MORE if seen.rests and not left.ordered else None)
        return _waiting(place, seen.kind, waits) if waits else seen

    def _take(self, left: Left, seen: Layout) -> Drop:
        place = left.place
        try:
            with left.here() as files:
                waits = _unfinished(files)
                if waits:
                    return _waiting(place, seen.kind, waits)
                return self._import(place, left.project, left.run, seen, files)
        except MissingObjectError:
            return _waiting(place, seen.kind, "it changed while it was read")
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
        self._say_steps(made)
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

    def _say_steps(self, made: Artifact) -> None:
        """Declare the step before as the parent, of a checkpoint and of the one after it.

        Whoever has a parent already keeps it: a note says more than the order of steps, and a
        step that comes late is but another ancestor.
        """
        steps = sorted(self.checkpoints(made.project, made.name), key=lambda one: one.step or 0)
        at = [one.id for one in steps].index(made.id)
        for before, after in itertools.pairwise(steps[max(at - 1, 0) : at + 2]):
            if not self.catalog.read(_has_parent, after.id):
                # A note may say that the earlier step was made from the later one.
                with contextlib.suppress(ConflictError):
                    self.declare(after.id, before.id, "parent")

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


def _run_of(left: Left) -> str:
    return f"{left.project}/{left.run}"


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


def _has_parent(conn: sa.Connection, child: str) -> bool:
    edge = tables.edge
    statement = sa.select(edge.c.parent).where(edge.c.child == child, edge.c.role == "parent")
    return conn.execute(statement).first() is not None


def _turn(left: Left, looked: Layout | Drop) -> tuple[str, str, int]:
    step = looked.step if isinstance(looked, Layout) else None
    return left.project, left.run, step or 0


def _waiting(place: str, kind: str | None, why: str) -> Drop:
    return Drop(place, kind, "waiting", None, f"{place}: {why}.")


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
