"""What re-creates a run: a script, its lock file, and what the run was begun with."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import ConfigurationError, ConflictError, UnknownArtifactError
from artifact_pipelines.sdk.provenance import CODE_DIFF

if TYPE_CHECKING:
    from artifact_pipelines.registry import Registry
    from artifact_pipelines.registry.reading import Artifact

REPEAT = "ARTIFACT_PIPELINES_REPEAT"
"""The variable that names a recorded run, which `start_run` then begins under a new name."""

DATASET_ROLE = "dataset:"
ENVIRONMENT_FILE = "environment.txt"


def write_reproduction(registry: "Registry", reference: str, to: Path) -> "Artifact":
    """Write the script and the files that train a run again, and return the run.

    Raises:
        UnknownArtifactError: The reference names no training run.
        ConflictError: The folder is there and holds something.
    """
    from artifact_pipelines.sdk import again

    run = registry.find(reference)
    if run.kind is not Kind.TRAINING_RUN:
        raise UnknownArtifactError(f"{run.reference} is no training run.")
    if to.exists() and any(to.iterdir()):
        raise ConflictError(f"the folder {str(to)!r} is not empty; choose a new one.")
    files = {entry.path for entry in registry.files(run.id)}
    if ENVIRONMENT_FILE not in files:
        raise UnknownArtifactError(
            f"{run.reference} was not trained here: what it was trained with was not recorded."
        )
    written = {"requirements.lock": registry.read(run.id, ENVIRONMENT_FILE)}
    if CODE_DIFF in files:
        written[CODE_DIFF] = registry.read(run.id, CODE_DIFF)
    written["run.json"] = json.dumps(_facts(registry, run), indent=2, allow_nan=False).encode()
    written["reproduce.py"] = Path(again.__file__).read_bytes()
    to.mkdir(parents=True, exist_ok=True)
    for name, data in written.items():
        (to / name).write_bytes(data)
    return run


def _facts(registry: "Registry", run: "Artifact") -> dict[str, Any]:
    record = run.record
    annex = registry.annex(run) or {}
    found = [one for one in registry.run(run.project, run.name).checkpoints if one.state == "live"]
    resume = [item.id for item in record.inputs if item.role == "resume"]
    return {
        "project": run.project,
        "name": run.name,
        "run": run.id,
        "params": dict(record.params),
        "inputs": {
            item.role.removeprefix(DATASET_ROLE): item.id
            for item in record.inputs
            if item.role.startswith(DATASET_ROLE)
        },
        "resume_from": resume[0] if resume else None,
        "seeds": record.facts.get("seeds", {}),
        "threads": record.facts.get("threads", {}),
        "code": dict(record.code),
        "repository": annex.get("repository"),
        "python": annex.get("python"),
        "checkpoints": [{"step": one.step, "content": one.content} for one in found],
    }


def repeated(project: str, name: str | None) -> dict[str, Any] | None:
    """Return the recorded run that is to be begun again in place of another, if one is.

    Raises:
        ConfigurationError: What the environment names is no recorded run.
    """
    file = os.environ.get(REPEAT)
    if not file:
        return None
    try:
        run = json.loads(Path(file).read_bytes())
        if project != run["project"] or name not in {None, run["name"]}:
            return None
        return {
            "name": run["again"],
            "params": run["params"],
            "inputs": run["inputs"],
            "resume_from": run["resume_from"],
            "seeds": run["seeds"],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{REPEAT} names {file!r}, which is no recorded run.") from error
