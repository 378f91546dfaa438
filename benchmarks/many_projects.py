"""Measure what a code location of two hundred projects costs: loading it, and an idle tick.

A location with one project is measured in the same run: what both cost is Dagster's own
start, and the ratio says how far a project is from free.
"""

import gc
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import dagster as dg
import yaml

from artifact_pipelines.components import ModelPipeline
from artifact_pipelines.components.declaration import Dataset, declare
from artifact_pipelines.components.model_pipeline import definitions_of
from artifact_pipelines.project import load_project, with_registry
from artifact_pipelines.registry import open_registry
from artifact_pipelines.resources import RegistryResource

PROJECTS = 200
LOAD_LIMIT = 2.0  # seconds of CPU
TICK_LIMIT = 0.1
TICKS = 9

_YAML = """\
type: artifact_pipelines.components.ModelPipeline
attributes:
  name: {name}
  owners: ["team:growth"]
  datasets: [{{name: rows, load: "{module}.functions:load"}}]
  train: {module}.functions:fit
  evaluate: {module}.functions:measure
  evaluation: rows
  select: {{metric: accuracy, mode: max, try: 3}}
  gates: [{{metric: accuracy, min: 0.9}}]
  schedule: "0 3 * * *"
"""
_PYPROJECT = """\
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "{module}"
"""
_FUNCTIONS = "def load(): ...\n\n\ndef fit(run): ...\n\n\ndef measure(model, rows): ...\n"


def scaffold(folder: Path, projects: int) -> Path:
    """Write a location of some projects and return its `definitions.py`."""
    module = f"location_of_{projects}"
    package = folder / module / module
    for number in range(projects):
        name = f"project-{number:03}"
        place = package / "defs" / name
        place.mkdir(parents=True)
        (place / "defs.yaml").write_text(_YAML.format(name=name, module=module))
    (package.parent / "pyproject.toml").write_text(_PYPROJECT.format(module=module))
    (package / "functions.py").write_text(_FUNCTIONS)
    for place in (package, package / "defs"):
        (place / "__init__.py").touch()
    return package / "definitions.py"


def from_yaml(file: Path) -> tuple[dg.Definitions, float]:
    """Return the definitions of a location, found loadable, and the CPU seconds it took."""
    before = time.process_time()
    definitions = load_project(str(file))
    dg.Definitions.validate_loadable(definitions)
    return definitions, time.process_time() - before


def from_declarations(file: Path) -> float:
    """Return the CPU seconds that the same definitions take once their YAML has been read."""
    folder = file.parent
    documents = [
        yaml.safe_load(place.read_text())["attributes"]
        for place in sorted((folder / "defs").glob("*/defs.yaml"))
    ]
    missing = {
        name: field.get_default(call_default_factory=True)
        for name, field in ModelPipeline.model_fields.items()
        if not field.is_required()
    }
    gc.disable()  # as load_project does
    before = time.process_time()
    built = []
    for found in documents:
        datasets = [Dataset.model_validate(item) for item in found["datasets"]]
        declared = declare({**missing, **found, "datasets": datasets}, [folder])
        built.append(definitions_of(declared, folder.parent))
    definitions = with_registry(dg.Definitions.merge(*built), folder.name)
    dg.Definitions.validate_loadable(definitions)
    taken = time.process_time() - before
    gc.enable()
    return taken


def idle_tick(definitions: dg.Definitions, instance: dg.DagsterInstance) -> float:
    """Return the CPU seconds of a tick of every sensor when nothing has happened."""
    repository = definitions.get_repository_def()
    cursors: dict[str, str | None] = {}
    taken = []
    for _ in range(TICKS + 1):
        before = time.process_time()
        for sensor in repository.sensor_defs:
            context = dg.build_sensor_context(
                instance=instance,
                instance_ref=instance.get_ref(),
                repository_def=repository,
                cursor=cursors.get(sensor.name),
                resources={"registry": RegistryResource()},
            )
            found = sensor.evaluate_tick(context)
            cursors[sensor.name] = found.cursor or cursors.get(sensor.name)
        taken.append(time.process_time() - before)
    # The first tick reads what has happened since the registry was made.
    return median(taken[1:])


def measure(folder: Path) -> Mapping[str, float]:
    """Return the figures of one project and of many."""
    os.environ["ARTIFACT_PIPELINES_HOME"] = str(folder / "home")
    with open_registry(folder / "home"):
        pass
    (folder / "dagster").mkdir()
    # An instance that is open in this process would be asked about each component.
    _, first = from_yaml(scaffold(folder, 1))
    many = scaffold(folder, PROJECTS)
    definitions, read = from_yaml(many)
    built = min(from_declarations(many) for _ in range(3))
    with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance:
        tick = idle_tick(definitions, instance)
    return {"first": first, "read": read, "built": built, "tick": tick}


def main() -> int:
    """Print the figures and return 1 if one is above its limit."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    print(f"one project from YAML    {found['first']:.3f} s CPU, most of it Dagster's own start")
    print(
        f"{PROJECTS} projects             {found['built']:.3f} s CPU (limit {LOAD_LIMIT}), "
        f"{1000 * found['built'] / PROJECTS:.1f} ms each"
    )
    print(
        f"the same from YAML       {found['read']:.3f} s CPU, ratio "
        f"{found['read'] / found['built']:.2f}: Dagster reads each file"
    )
    print(f"an idle tick of all      {found['tick']:.3f} s CPU (limit {TICK_LIMIT})")
    return int(found["built"] > LOAD_LIMIT or found["tick"] > TICK_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
