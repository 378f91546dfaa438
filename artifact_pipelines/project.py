"""A user's folder of projects as one Dagster code location."""

import sys
import warnings
from pathlib import Path
from typing import Any

import dagster as dg

from artifact_pipelines.components.model_pipeline import PROJECT_TAG
from artifact_pipelines.defs.events import event_sensor
from artifact_pipelines.resources import RegistryResource


def load_project(file: str) -> dg.Definitions:
    """Return the definitions of every project under `defs/` beside a `definitions.py`.

    Args:
        file: The `__file__` of that `definitions.py`.
    """
    folder = Path(file).resolve().parent
    root = str(folder.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    # Checks per partition are what shows a gate where it belongs; Dagster calls them a preview.
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    loaded = dg.load_from_defs_folder(path_within_project=folder)
    jobs: dict[str, list[Any]] = {}
    for job in loaded.jobs or ():
        project = (job.tags or {}).get(PROJECT_TAG)
        if project is not None:
            jobs.setdefault(project, []).append(job)
    return dg.Definitions.merge(
        loaded,
        dg.Definitions(
            sensors=[event_sensor(folder.name, jobs)],
            resources={"registry": RegistryResource(), "pipes": dg.PipesSubprocessClient()},
            executor=dg.in_process_executor,
        ),
    )
