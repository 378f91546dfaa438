"""What a deployment asks: what a stage serves since it last asked, and whether it could go back."""

import time
from dataclasses import dataclass

from artifact_pipelines.registry.promoting import Promoting, Resolved, before
from artifact_pipelines.registry.reading import Artifact


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a rollback would do now, tried up to the move itself.

    Attributes:
        stage: The stage, as `project@stage`.
        model: What it would go back to, or nothing.
        size: The bytes that were read back and verified.
        seconds: How long that took.
        reasons: What stands against it; nothing when it is ready.
    """

    stage: str
    model: Artifact | None
    size: int
    seconds: float
    reasons: tuple[str, ...]


class Serving(Promoting):
    """The registry, as far as deployments follow it."""

    def poll(self, reference: str, known: int | None) -> Resolved | None:
        """Return what a stage serves, or nothing where its pointer is the one that is known.

        The number of the pointer's leaf (`Resolved.seq`) is the tag to ask with next time.
        """
        found = self.resolve(reference)
        return None if found.seq == known else found

    def rehearse_rollback(self, project: str, stage: str) -> Rehearsal:
        """Try a rollback up to the move: find the model, and read every byte of it back."""
        began = time.monotonic()
        place = f"{project}@{stage}"
        history = self.history(project, stage)
        current = self.stages(project).get(stage)
        model = before(history, None if current is None else current.id)
        if model is None:
            reasons: tuple[str, ...] = ("no whole model was promoted before the one in place",)
            return Rehearsal(place, None, 0, time.monotonic() - began, reasons)
        checked = self.verify(model.id)
        return Rehearsal(place, model, checked.size, time.monotonic() - began, checked.damaged)
