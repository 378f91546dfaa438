"""Restore drills: that what is kept can be had again is shown by having it again."""

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.domain import digest
from artifact_pipelines.errors import ArtifactError
from artifact_pipelines.gates.loading import load_file
from artifact_pipelines.registry.reading import Artifact, Reading

SAMPLE: Final = 5
_COLD: Final = 4.0
"""How much likelier an archived artifact is drawn than one of the same age in the hot tier."""
_DAY: Final = 86_400.0


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
        artifacts, weights = self._drawable()
        chooser = random.Random(seed)  # noqa: S311  a sample, no secret
        chosen = _sample(chooser, artifacts, weights, sample)
        found = []
        for number, artifact in enumerate(chosen):
            if progress is not None:
                progress(number, len(chosen))
            one = self._bring_back(artifact)
            body = {
                "project": artifact.project,
                "ok": not one.problems,
                "tier": one.tier,
                "size": one.size,
                "loaded": one.loaded,
                "problems": list(one.problems),
            }
            self.append("drill", artifact.id, body)
            found.append(one)
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
