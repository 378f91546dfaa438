"""A user's folder of projects as one Dagster code location."""

import sys
import warnings
from pathlib import Path

import dagster as dg

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
    projects = sorted(
        {
            spec.tags["artifact_pipelines/project"]
            for spec in loaded.resolve_all_asset_specs()
            if "artifact_pipelines/project" in spec.tags
        }
    )
    jobs = {
        project: [
            job
            for job in loaded.jobs or ()
            if (job.tags or {}).get("artifact_pipelines/project") == project
        ]
        for project in projects
    }
    return dg.Definitions.merge(
        loaded,
        dg.Definitions(
            sensors=[event_sensor(folder.name, jobs)],
            resources={"registry": RegistryResource(), "pipes": dg.PipesSubprocessClient()},
            executor=dg.in_process_executor,
        ),
    )
