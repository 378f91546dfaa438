"""Measure what a code location of two hundred projects costs: loading it, and an idle tick.

Measured in the same run: a location with one project, which is Dagster's own start, and one
whose YAML is the same but whose component makes nothing. That is what Dagster takes to find and
read as many files; no project can be cheaper.
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from math import inf
from pathlib import Path
from statistics import median

import dagster as dg

from artifact_pipelines.components import ModelPipeline
from artifact_pipelines.project import load_project
from artifact_pipelines.registry import open_registry
from artifact_pipelines.resources import RegistryResource

PROJECTS = 200
LOAD_LIMIT = 2.0  # seconds of CPU
TICK_LIMIT = 0.1
TICKS = 9
RUNS = 3
PROJECT = "artifact_pipelines.components.ModelPipeline"
NOTHING = "many_projects.Nothing"

_YAML = """\
type: {component}
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


class Nothing(ModelPipeline):
    """A component that is declared as a project is, and makes no assets."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return no definitions."""
        del context
        return dg.Definitions()


def scaffold(folder: Path, module: str, projects: int, component: str = PROJECT) -> Path:
    """Write a location of some projects and return its `definitions.py`."""
    package = folder / module / module
    for number in range(projects):
        name = f"project-{number:03}"
        place = package / "defs" / name
        place.mkdir(parents=True)
        (place / "defs.yaml").write_text(
            _YAML.format(name=name, module=module, component=component)
        )
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
    _, first = from_yaml(scaffold(folder, "one", 1))
    floor, many, definitions = inf, inf, dg.Definitions()
    for number in range(RUNS):
        place = scaffold(folder, f"empty_{number}", PROJECTS, NOTHING)
        floor = min(floor, from_yaml(place)[1])
        definitions, taken = from_yaml(scaffold(folder, f"whole_{number}", PROJECTS))
        many = min(many, taken)
    with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance:
        tick = idle_tick(definitions, instance)
    return {"first": first, "floor": floor, "many": many, "tick": tick}


def main() -> int:
    """Print the figures and return 1 if one is above its limit."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    print(f"one project               {found['first']:.3f} s CPU, most of it Dagster's own start")
    print(f"{PROJECTS} YAML files, no assets  {found['floor']:.3f} s CPU, Dagster's floor")
    print(
        f"{PROJECTS} projects              {found['many']:.3f} s CPU (limit {LOAD_LIMIT}), "
        f"{1000 * found['many'] / PROJECTS:.1f} ms each, ratio {found['many'] / found['floor']:.1f}"
    )
    print(f"an idle tick of all       {found['tick']:.3f} s CPU (limit {TICK_LIMIT})")
    return int(found["many"] > LOAD_LIMIT or found["tick"] > TICK_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
