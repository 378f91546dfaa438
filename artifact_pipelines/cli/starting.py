"""The command that begins a project: a folder that trains as it stands, listed in the workspace."""

import keyword
import re
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer
import yaml

from artifact_pipelines.cli.opening import settings
from artifact_pipelines.cli.output import Json, note, say, show_json
from artifact_pipelines.errors import ArtifactError, ConfigurationError, ConflictError, HomeError
from artifact_pipelines.settings import place_environment, prepare_dagster_home

WORKSPACE = "workspace.yaml"

_NEW_WORKSPACE = """\
# The code locations that `dagster dev -w workspace.yaml` loads. The platform's own assets,
# schedules and sensors live in the first one only; each further entry is a project.
load_from:
  - python_module:
      module_name: artifact_pipelines.definitions
      location_name: artifact_pipelines
"""
_ENTRY = """\
- python_module:
    module_name: {package}.definitions
    location_name: {package}
    working_directory: {folder}
"""
_IGNORED = ".artifact-pipelines/\n.env\n.logs_queue/\n.tmp_dagster_home_*/\n__pycache__/\n"

_FILES = {
    ".gitignore": _IGNORED,
    "pyproject.toml": """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$project"
version = "0.1.0"
description = "The models of $project."
requires-python = ">=3.11"
dependencies = ["artifact-pipelines", "numpy", "pandas", "safetensors"]

[tool.hatch.build.targets.wheel]
packages = ["$package"]

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "$package"
code_location_target_module = "$package.definitions"
code_location_name = "$package"
""",
    "$package/__init__.py": '"""The models of $project."""\n',
    "$package/definitions.py": '''\
"""Everything under `defs/` as a Dagster code location."""

from artifact_pipelines.project import load_project

defs = load_project(__file__)
''',
    "$package/defs/$project/defs.yaml": """\
type: artifact_pipelines.components.ModelPipeline

attributes:
  name: $project
  # owners: ["team:growth"]
  datasets:
    - {name: customers, load: "$package.data:load", params: {part: train}}
    # Rows that no training sees: every model is measured on them.
    - {name: holdout, load: "$package.data:load", params: {part: holdout}}
  train: $package.train:fit
  params: {epochs: 5, lr: 0.5}
  evaluate: $package.train:evaluate
  evaluation: holdout
  select: {metric: accuracy, mode: max}
  gates:
    - {metric: accuracy, min: 0.75}
    - {metric: accuracy, no_worse_than: production, tolerance: 0.005}
    - {formats: [safetensors]}
  # A newer model goes to staging unless it measures worse; to production, when it is approved.
  promotion: {staging: best, production: {approvals: 1}}
  retention: {keep: {last: 3, best: 1}, forget_after: 30d}
  # schedule: "0 3 * * *"  # train again every night
""",
    "$package/data.py": '''\
"""Customers, and whether they left. Made up: put your own table in its place."""

import numpy as np
import pandas as pd

ROWS = {"train": slice(0, 800), "holdout": slice(800, 1000)}


def load(part: str) -> pd.DataFrame:
    """Return the customers of a part: what is known of each, and whether it left."""
    rng = np.random.default_rng(7)
    months = rng.integers(1, 72, 1000)
    calls = rng.poisson(2.0, 1000)
    paid = rng.normal(70.0, 20.0, 1000).round(2)
    leaning = 1.0 - 0.08 * months + 0.7 * calls + rng.normal(0.0, 0.8, 1000)
    frame = pd.DataFrame({"months": months, "calls": calls, "paid": paid, "left": leaning > 0})
    return frame[ROWS[part]].reset_index(drop=True)
''',
    "$package/model.py": '''\
"""What the model sees and says: all that serving it imports."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def features(frame: pd.DataFrame) -> Floats:
    """Return what the model sees of each customer, in comparable sizes."""
    columns = [frame["months"] / 36 - 1, frame["calls"] / 2 - 1, frame["paid"] / 70 - 1]
    found: Floats = np.stack([np.ones(len(frame)), *columns], axis=1)
    return found


def probability(weights: Floats, x: Floats) -> Floats:
    """Return how likely each customer is to leave."""
    found: Floats = 1 / (1 + np.exp(-x @ weights))
    return found
''',
    "$package/train.py": '''\
"""A small logistic regression, trained step by step: put your own model in its place."""

from pathlib import Path

import numpy as np
import pandas as pd
from artifact_pipelines import Run
from safetensors.numpy import load_file

from $package.model import features, probability


def fit(run: Run) -> None:
    """Train, and save a checkpoint after every epoch; an interrupted run goes on."""
    frame: pd.DataFrame = run.dataset("customers")
    x, y = features(frame), frame["left"].to_numpy(dtype=np.float64)
    done = 0 if run.resume is None else run.resume.step
    weights = np.zeros(x.shape[1]) if run.resume is None else run.resume.tensors["weights"]
    rate = float(run.params["lr"])
    for epoch in range(done, int(run.params["epochs"])):
        for _ in range(20):
            weights = weights + rate * x.T @ (y - probability(weights, x)) / len(y)
        p = np.clip(probability(weights, x), 1e-9, 1 - 1e-9)
        run.checkpoint(
            {"weights": weights},
            step=epoch + 1,
            metrics={
                "accuracy": float(((p > 0.5) == y).mean()),
                "loss": float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()),
            },
        )


def evaluate(model: Path, frame: pd.DataFrame) -> dict[str, float]:
    """Return how well the model in a folder tells who of the customers in a frame left."""
    weights = load_file(model / "model.safetensors")["weights"]
    said = probability(weights, features(frame)) > 0.5
    return {"accuracy": float((said == frame["left"].to_numpy()).mean())}
''',
}


def init(
    project: Annotated[str, typer.Argument(help="The project's name, such as churn.")],
    *,
    as_json: Json = False,
) -> None:
    """Begin a project in the current folder: files that train as they stand, to be made yours."""
    here = Path.cwd()
    package = _package(project)
    folder, workspace = here / project, here / WORKSPACE
    if folder.exists() or folder.is_symlink():
        raise ConflictError(f"{folder} is there already; choose another name, or move it away.")
    outer = next((above for above in here.parents if (above / WORKSPACE).exists()), None)
    if outer is not None and not workspace.exists():
        # A workspace of its own would move the home of what is here already.
        raise ConflictError(f"{here} is inside of the workspace {outer}; run init there.")
    before = workspace.read_text(encoding="utf-8") if workspace.exists() else _NEW_WORKSPACE
    after = listed(before, package, project)
    try:
        _write(folder, project, package)
        try:
            _replace(workspace, after)
        except BaseException:
            shutil.rmtree(folder)
            raise
        if not (here / ".gitignore").exists():
            (here / ".gitignore").write_text(_IGNORED, encoding="utf-8")
        # Only now is there a workspace that says where the home is.
        found = settings()
        prepare_dagster_home(found, here)
        place_environment(folder)
    except OSError as error:
        if isinstance(error, ArtifactError):
            raise
        raise HomeError(f"{here} cannot be written: {error.strerror or error}.") from error
    if as_json:
        show_json({"project": project, "folder": str(folder), "workspace": str(workspace)})
        return
    say(f"{project}/ is a project that trains as it stands, and {WORKSPACE} lists it.")
    note(
        f"Make it yours: {project}/{package}/defs/{project}/defs.yaml, data.py, model.py, train.py."
    )
    note("Look at it:    dagster dev -w workspace.yaml, then http://127.0.0.1:3000")
    note(f"Train it:      materialize its datasets, then artifact-pipelines run start {project}")
    note(f"Everything it makes goes to {found.home}.")


def listed(workspace: str, package: str, folder: str) -> str:
    """Return the text of a workspace with a project added, all else as it was.

    Raises:
        ConflictError: A code location of that name is in it.
        ConfigurationError: Its list of code locations cannot be added to.
    """
    entry = _ENTRY.format(package=package, folder=folder)
    said = f"add the project to it by hand:\n{entry}"
    try:
        root: Any = yaml.compose(workspace)
        found = yaml.safe_load(workspace)
        nodes = {key.value: value for key, value in root.value}["load_from"]
        entries = list(found["load_from"])
        last = nodes.value[-1]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, IndexError):
        raise ConfigurationError(
            f"{WORKSPACE} has no list load_from to add a project to; {said}"
        ) from None
    for place in entries:
        module = place.get("python_module") if isinstance(place, dict) else None
        named = module if isinstance(module, dict) else {"module_name": module}
        if f"{package}.definitions" == named.get("module_name") or package == named.get(
            "location_name"
        ):
            raise ConflictError(f"{WORKSPACE} lists {package} already; choose another name.")
    if nodes.flow_style:
        raise ConfigurationError(f"{WORKSPACE} has its load_from on one line; {said}")
    lines = workspace.splitlines(keepends=True)
    end = last.end_mark.line + (1 if last.end_mark.column else 0)
    while end > 0 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    indent = " " * nodes.start_mark.column
    added = [f"{indent}{line}\n" for line in entry.splitlines()]
    after = "".join([*lines[:end], *added, *lines[end:]])
    if yaml.safe_load(after)["load_from"][:-1] != entries:
        raise ConfigurationError(f"{WORKSPACE} is written in an unusual way; {said}")
    return after


def _package(project: str) -> str:
    """Return the name of a project's Python package.

    Raises:
        ConfigurationError: The project's name cannot be used.
    """
    # The rules are Dagster's as well, which takes a second to import.
    from artifact_pipelines.components.declaration import check_project

    check_project(project)
    package = re.sub(r"\W", "_", project).lower() + "_project"
    if not package.isidentifier() or keyword.iskeyword(package):
        raise ConfigurationError(
            f"{project!r} cannot be a Python package's name; begin with a letter."
        )
    return package


def _write(folder: Path, project: str, package: str) -> None:
    """Write a project's folder, whole or not at all."""
    names = {"project": project, "package": package}
    with tempfile.TemporaryDirectory(prefix=".init-", dir=folder.parent) as scratch:
        staged = Path(scratch) / project
        for path, text in _FILES.items():
            file = staged / Template(path).substitute(names)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(names), encoding="utf-8")
        staged.rename(folder)


def _replace(file: Path, text: str) -> None:
    staged = file.with_name(f".{file.name}.new")
    staged.write_text(text, encoding="utf-8")
    staged.replace(file)
