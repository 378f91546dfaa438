"""Whether a checkpoint resumes exactly: trained on from it and compared, nothing registered."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import ArtifactError, ConfigurationError, TrainerError
from artifact_pipelines.sdk.running import Run, named, step_of

if TYPE_CHECKING:
    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.reading import Artifact
    from artifact_pipelines.sdk.running import Job


@dataclass(frozen=True, slots=True)
class Resumed:
    """What came of training on from a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        following: The recorded checkpoint after it.
        by: The trainer, as `module:function`.
        differ: The files that came out otherwise; none where it resumes exactly.
    """

    checkpoint: "Artifact"
    following: "Artifact"
    by: str
    differ: tuple[str, ...]


def prove_resume(
    registry: "Registry", reference: str, by: str, train: Callable[[Run], object]
) -> Resumed:
    """Train on from a checkpoint to the next one of its run, compare, and record the result.

    Files that are the same make a re-derivable edge; others make a note on the checkpoint.

    Raises:
        ConfigurationError: The reference names no checkpoint, or there is none after it.
        TrainerError: The trainer fails, or does not save the step that is compared.
    """
    start = registry.find(reference)
    if start.kind is not Kind.CHECKPOINT:
        raise ConfigurationError(
            f"{start.reference} is a {start.kind.replace('_', ' ')}, not a checkpoint."
        )
    view = registry.run(start.project, start.name)
    later = [one for one in view.checkpoints if step_of(one) > step_of(start)]
    if not later:
        raise ConfigurationError(
            f"{start.reference} is the last of its run: there is nothing to compare with."
        )
    following = min(later, key=step_of)
    again = _trained(registry, view.artifact, start, following, by, train)
    recorded = {entry.path: entry.sha256 for entry in registry.files(following.id)}
    differ = sorted(path for path in again | recorded if again.get(path) != recorded.get(path))
    if differ:
        registry.annotate(
            start.id,
            f"does not resume exactly: trained on by {by}, {following.reference} came out with "
            f"other {', '.join(differ[:5])}.",
        )
    else:
        registry.declare_rederived(following.id, start.id, "resumed_from", by)
    return Resumed(start, following, by, tuple(differ))


def _trained(
    registry: "Registry",
    run: "Artifact",
    start: "Artifact",
    following: "Artifact",
    by: str,
    train: Callable[[Run], object],
) -> dict[str, str]:
    """Return the files of a checkpoint by digest, as training makes them again."""
    with tempfile.TemporaryDirectory(
        prefix="artifact-pipelines-", ignore_cleanup_errors=True
    ) as folder:
        rehearsal = _Rehearsal(registry, run, Path(folder), start, following)
        try:
            train(rehearsal)
            rehearsal.check_saved()
        except _ReachedError:
            pass
        except ArtifactError:
            if rehearsal.made is None:
                raise
        except Exception as error:
            raise TrainerError(f"the trainer {by} raised {named(error)}") from error
        finally:
            rehearsal.close()
    if rehearsal.made is None:
        raise TrainerError(
            f"the trainer {by}, resumed from {start.reference}, did not save step "
            f"{following.step}, which the run has next."
        )
    return rehearsal.made


class _ReachedError(BaseException):
    """The end of a rehearsal, which a trainer's `except Exception` does not catch."""


class _Rehearsal(Run):
    """A run as it was begun, going on from one checkpoint, that registers nothing."""

    def __init__(
        self,
        registry: "Registry",
        run: "Artifact",
        workdir: Path,
        start: "Artifact",
        following: "Artifact",
    ) -> None:
        super().__init__(registry, run, workdir)
        self.complete = False
        self.made: dict[str, str] | None = None
        self._saved = {step_of(start): start}
        self._point = start
        self._following = following

    def _publish(self, job: "Job") -> "Artifact":
        if job.step < step_of(self._following):
            return self._following
        if job.step == self._following.step:
            self.made = {path: _sha256(source) for path, source in job.files.items()}
        raise _ReachedError


def _sha256(source: Path | bytes) -> str:
    if isinstance(source, Path):
        with source.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    return hashlib.sha256(source).hexdigest()
