"""The README's project is a whole one: as it stands there, it trains and arrives in staging."""

import importlib
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from artifact_pipelines.registry import open_registry

README = Path(__file__).parent.parent / "README.md"
MOST_LINES = 24
# What the reader brings: rows, and a training that the README leaves out.
DATA = """\
import pandas as pd


def load():
    return pd.DataFrame({"months": [1, 2, 3], "left": [1, 0, 0]})
"""
STEPS = """

def training_steps(rows, epochs):
    import types
    import numpy as np

    for epoch in range(epochs):
        yield types.SimpleNamespace(
            tensors={"w": np.full(len(rows), epoch, dtype="f4")},
            metrics={"accuracy": 0.5 + epoch / 10},
            optimizer={"m": np.zeros(3, dtype="f4")},
            schedule={"step": epoch},
            rng={"seed": 7},
        )
"""


@pytest.fixture
def blocks() -> dict[str, str]:
    """The README's blocks of code by the file that their first line names, or by their first."""
    found = re.findall(
        r"```(?:yaml|python)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    return {text.splitlines()[0].removeprefix("# "): text for text in found}


@pytest.fixture
def project(
    blocks: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The README's project, with what the reader brings."""
    folder = tmp_path / "churn_project"
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (folder / "defs" / "churn").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "churn_project"\n'
    )
    for place in (folder, folder / "defs"):
        (place / "__init__.py").touch()
    (folder / "data.py").write_text(DATA)
    declared = "churn_project/defs/churn/defs.yaml"
    (tmp_path / declared).write_text(blocks[declared])
    (folder / "train.py").write_text(blocks["churn_project/train.py"] + STEPS)
    (folder / "definitions.py").write_text(blocks["churn_project/definitions.py"])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "churn_project"]:
        del sys.modules[name]


@pytest.mark.deep
def test_the_readmes_project_trains_under_dagster_and_outside(
    project: Path, blocks: dict[str, str]
) -> None:
    definitions = importlib.import_module("churn_project.definitions").defs
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("churn_runs", ["first"])
        for job, partition in (
            ("churn_datasets", None),
            ("churn_train", "first"),
            ("churn_promote_staging", None),
        ):
            ran = definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                partition_key=partition,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            assert ran.success
    outside = blocks["from artifact_pipelines import start_run"]
    exec(outside, {"fit": importlib.import_module("churn_project.train").fit})  # noqa: S102 (ours)

    with open_registry(project / "home") as registry:
        assert registry.stages("churn")["staging"].reference == "churn/v1"
        assert [len(view.checkpoints) for view in registry.runs("churn")] == [3, 5]


def test_the_whole_integration_is_short(blocks: dict[str, str]) -> None:
    whole = "\n".join(text for name, text in blocks.items() if "churn" in name)
    lines = [line for line in textwrap.dedent(whole).splitlines() if line.strip()]
    code = [line for line in lines if not line.startswith("#")]

    assert len([name for name in blocks if "churn" in name]) == 3
    assert len(code) <= MOST_LINES
