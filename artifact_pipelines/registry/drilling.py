"""Restore drills: that what is kept can be had again is shown by having it again."""

import random
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction, now
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.sharding import MOST, shards
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.gates.loading import load_file
from artifact_pipelines.registry.reading import Artifact, Reading

SAMPLE: Final = 5
_COLD: Final = 4.0
"""How much likelier an archived artifact is drawn than one of the same age in the hot tier."""
_DAY: Final = 86_400.0
SHARD: Final = 1 << 30
"""The bytes that a shard of a drill brings back, about."""


@dataclass(frozen=True, slots=True)
class Drilled:
    """One artifact that was brought back.

    Attributes:
        reference: The artifact.
        tier: The tier that it came from.
        size: The bytes that were brought back and verified.
        loaded: How many tensors and arrays were loaded.
        problems: Why it could not be had, one sentence each.
    """

    reference: str
    tier: str
    size: int
    loaded: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proven:
    """When a model was last shown to be restorable.

    Attributes:
        reference: The model.
        tier: The tier that it is in.
        at: When it was last brought back whole, or nothing.
    """

    reference: str
    tier: str
    at: str | None


class Drilling(Reading):
    """The registry, as far as restores are rehearsed."""

    def drill(
        self,
        sample: int = SAMPLE,
        *,
        seed: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Drilled]:
        """Bring a sample back into a folder, verify and load it, and write down what came of it.

        The longer ago something was proven, the likelier it is drawn, and what is archived is
        likelier than what is not.
        """
        (drawn,) = self.drill_shards(sample, seed=seed, most=1) or [[]]
        return self.drill_shard(drawn, secrets.token_hex(8), progress)

    def drill_shards(
        self, sample: int = SAMPLE, *, seed: int | None = None, each: int = SHARD, most: int = MOST
    ) -> list[list[str]]:
        """Return the ids of a sample in shards; `drill_shard` does each.

        Args:
            sample: How many artifacts.
            seed: What they are drawn by.
            each: The bytes of a shard, about.
            most: How many shards there may be.
        """
        artifacts, weights = self._drawable()
        chooser = random.Random(seed)  # noqa: S311  a sample, no secret
        drawn = _sample(chooser, artifacts, weights, sample)
        cut = shards(drawn, lambda artifact: artifact.size, each, most=most)
        return [[artifact.id for artifact in part] for part in cut]

    def drill_shard(
        self,
        artifacts: Sequence[str],
        rehearsal: str,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Drilled]:
        """Bring artifacts back and write down what came of it, once in a rehearsal.

        Args:
            artifacts: Their ids.
            rehearsal: A name for this one; what was written down under it is not done again.
            progress: Told how many of how many are done.
        """
        found = []
        for number, one in enumerate(artifacts):
            if progress is not None:
                progress(number, len(artifacts))
            artifact = self.get(one)
            done = self.catalog.read(_drilled, artifact, rehearsal)
            if done is None:
                drilled = self._bring_back(artifact)
                done = self.catalog.write(_write_down, artifact, drilled, rehearsal, self.actor)
                self.export_leaves()
            found.append(done)
        return found

    def proven(self, project: str) -> list[Proven]:
        """Return when each live model of a project was last shown to be restorable."""
        last = self.catalog.read(_last_proven)
        return [
            Proven(model.reference, model.tier, last.get(model.id))
            for model in self.models(project)
            if model.state == "live"
        ]

    def _drawable(self) -> tuple[list[Artifact], list[float]]:
        """Return the checkpoints and models that have bytes, with the weight of each."""
        last = self.catalog.read(_last_proven)
        at = self.catalog.read(now)
        artifacts = [
            found
            for project in self.projects()
            for found in (*self.models(project), *self.checkpoints(project))
            if found.state == "live"
        ]
        weights = []
        for found in artifacts:
            since = datetime.fromisoformat(last.get(found.id, found.published))
            days = max(at - since.astimezone(UTC).timestamp(), 0.0) / _DAY
            weights.append((1.0 + days) * (_COLD if found.tier == "cold" else 1.0))
        return artifacts, weights

    def _bring_back(self, artifact: Artifact) -> Drilled:
        size = 0
        with tempfile.TemporaryDirectory() as folder:
            try:
                there = self.fetch(artifact.id, Path(folder) / "restored")
                files = [path for path in sorted(there.rglob("*")) if path.is_file()]
                size = sum(path.stat().st_size for path in files)
                loaded = sum(load_file(path) for path in files)
            except (ArtifactError, OSError, ValueError) as error:
                return Drilled(artifact.reference, artifact.tier, 0, 0, (str(error),))
            except Exception as error:  # noqa: BLE001  the reader of a format raises what it likes
                said = f"{type(error).__name__}: {error}"
                return Drilled(artifact.reference, artifact.tier, size, 0, (said,))
        return Drilled(artifact.reference, artifact.tier, size, loaded, ())


def _sample(
    chooser: random.Random, artifacts: Sequence[Artifact], weights: Sequence[float], wanted: int
) -> list[Artifact]:
    """Return so many artifacts, each once, the heavier the likelier."""
    drawn = [(chooser.random() ** (1.0 / weight), place) for place, weight in enumerate(weights)]
    return [artifacts[place] for _, place in sorted(drawn, reverse=True)[:wanted]]


def _drilled(conn: Connection, artifact: Artifact, rehearsal: str) -> Drilled | None:
    """Return what came of an artifact in a rehearsal, where that was written down."""
    leaf = tables.leaf
    statement = sa.select(leaf.c.body).where(
        leaf.c.subject == artifact.id, leaf.c.action == "drill", leaf.c.body.is_not(None)
    )
    for body in conn.execute(statement).scalars():
        said = digest.parse(bytes(body))
        if said.get("rehearsal") == rehearsal:
            return Drilled(
                artifact.reference,
                said["tier"],
                said["size"],
                said["loaded"],
                tuple(said["problems"]),
            )
    return None


def _write_down(
    tx: Transaction, artifact: Artifact, drilled: Drilled, rehearsal: str, actor: str
) -> Drilled:
    """Write down what came of an artifact unless another process has."""
    ledger.lock(tx)
    done = _drilled(tx.conn, artifact, rehearsal)
    if done is not None:
        return done
    body = {
        "project": artifact.project,
        "rehearsal": rehearsal,
        "ok": not drilled.problems,
        "tier": drilled.tier,
        "size": drilled.size,
        "loaded": drilled.loaded,
        "problems": list(drilled.problems),
    }
    ledger.append(tx, action="drill", subject=artifact.id, body=body, actor=actor)
    return drilled


def _last_proven(conn: Connection) -> dict[str, str]:
    """Return when each artifact was last brought back whole."""
    leaf = tables.leaf
    rows: Any = conn.execute(
        sa.select(leaf.c.subject, leaf.c.time, leaf.c.body)
        .where(leaf.c.action == "drill")
        .order_by(leaf.c.seq)
    )
    return {
        row.subject: row.time
        for row in rows
        if row.body is not None and digest.parse(bytes(row.body))["ok"]
    }
