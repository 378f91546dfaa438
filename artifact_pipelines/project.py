"""A user's folder of projects as one Dagster code location."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from artifact_pipelines.components.declaration import explained
from artifact_pipelines.components.model_pipeline import ModelPipeline
from artifact_pipelines.defs.location import carried
from artifact_pipelines.errors import ConfigurationError


def load_project(file: str, beside: dg.Definitions | None = None) -> dg.Definitions:
    """Return the definitions of everything under `defs/` beside a `definitions.py`.

    Args:
        file: The `__file__` of that `definitions.py`.
        beside: What the code location holds already; its executor and resources stay.

    Raises:
        ConfigurationError: A project's YAML is wrong; the sentence names the file, the field
            and what was expected.
    """
    folder = Path(file).resolve().parent
    root = str(folder.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        with _uncollected():
            loaded = dg.load_from_defs_folder(path_within_project=folder)
            whole = loaded if beside is None else dg.Definitions.merge(beside, loaded)
            return with_registry(whole, folder.name)
    except Exception as error:
        clear = _unfinished(error, folder) or explained(error, ModelPipeline.model_fields)
        if clear is None:
            raise
        # Dagster's long chain says where it was at work; the sentence says what to mend.
        raise clear from None


def with_registry(definitions: dg.Definitions, location: str) -> dg.Definitions:
    """Return definitions with what their projects need: jobs, schedules, sensor, resources.

    Args:
        definitions: Everything in a code location, projects and other assets.
        location: The name of the code location.
    """
    return dg.Definitions.merge(definitions, carried(definitions, location))


def _unfinished(error: Exception, folder: Path) -> ConfigurationError | None:
    """Return what a folder lacks to be a project of Dagster's, where that is what is wrong."""
    package = folder.name
    if isinstance(error, ModuleNotFoundError) and error.name == f"{package}.defs":
        return ConfigurationError(
            f"{folder} has no folder defs/; a project's YAML is {package}/defs/<project>/defs.yaml."
        )
    if isinstance(error, dg.DagsterError) and "find config file" in str(error):
        return ConfigurationError(
            f"no pyproject.toml above {folder} has a [tool.dg]; write one in {folder.parent}: "
            f'[tool.dg] with directory_type = "project", and [tool.dg.project] with '
            f'root_module = "{package}".'
        )
    return None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Put garbage collection off for a while."""
    # Nearly all that loading makes stays; looking through it again and again is a quarter of it.
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
