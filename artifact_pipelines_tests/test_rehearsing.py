"""Whether a checkpoint resumes exactly is found out by training on from it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from artifact_pipelines import Run, start_run
from artifact_pipelines.catalog import tables
from artifact_pipelines.cli import app
from artifact_pipelines.errors import ConfigurationError, TrainerError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.sdk.rehearsing import prove_resume


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    with open_registry(tmp_path / "home") as opened:
        yield opened


def count(registry: Registry) -> int:
    table = tables.leaf
    statement = sa.select(sa.func.count()).select_from(table)
    return int(registry.catalog.read(lambda conn: conn.execute(statement).scalar_one()))


def fit(run: Run, *, forgets: bool = False) -> None:
    """Train with noise; what forgets its generator's state resumes otherwise."""
    rng, weights, begin = np.random.default_rng(3), np.zeros(8), 0
    if run.resume is not None:
        begin, weights = run.resume.step, run.resume.tensors["w"]
        if not forgets:
            rng.bit_generator.state = dict(run.resume.rng)
    for step in range(begin + 1, 7):
        weights = weights + rng.standard_normal(8)
        if step % 2 == 0:
            run.checkpoint({"w": weights}, step=step, rng=dict(rng.bit_generator.state))


def forgetful(run: Run) -> None:
    fit(run, forgets=True)


def failing(run: Run) -> None:
    raise ValueError(f"no data for {run.name}")


def silent(run: Run) -> None:
    assert run.resume is not None

    run.checkpoint({"w": np.zeros(1)}, step=run.resume.step + 1)


@pytest.fixture
def trained(registry: Registry) -> Registry:
    with start_run("p", "r") as run:
        fit(run)
    return registry


def test_a_resume_that_is_exact_is_an_edge_that_can_be_made_again(trained: Registry) -> None:
    leaves = count(trained)
    found = prove_resume(trained, "p/r@2", "m:fit", fit)
    again = prove_resume(trained, "p/r@2", "m:fit", fit)
    edges = {(edge.role, edge.parent.reference, edge.kind) for edge in trained.lineage("p/r@4")}

    assert (found.following.reference, found.differ, again.differ) == ("p/r@4", (), ())
    assert ("resumed_from", "p/r@2", "rederivable") in edges
    assert count(trained) == leaves + 1
    assert [one.step for one in trained.run("p", "r").checkpoints] == [2, 4, 6]


def test_a_resume_that_is_not_exact_is_a_note_and_no_edge(trained: Registry) -> None:
    found = prove_resume(trained, "p/r@2", "m:forgetful", forgetful)
    (note,) = trained.annotations(found.checkpoint.id)

    assert found.differ == ("model.safetensors", "state.json")
    assert "does not resume exactly: trained on by m:forgetful" in note.text
    assert "resumed_from" not in {edge.role for edge in trained.lineage("p/r@4")}


def test_what_cannot_be_proved_is_said(trained: Registry) -> None:
    with pytest.raises(ConfigurationError, match="is the last of its run"):
        prove_resume(trained, "p/r@6", "m:fit", fit)
    with pytest.raises(ConfigurationError, match="not a checkpoint"):
        prove_resume(trained, "p/r", "m:fit", fit)
    with pytest.raises(TrainerError, match="raised ValueError: no data for r"):
        prove_resume(trained, "p/r@2", "m:failing", failing)
    with pytest.raises(TrainerError, match="did not save step 4"):
        prove_resume(trained, "p/r@2", "m:silent", silent)


def test_the_command_says_it_and_its_exit_code_too(trained: Registry) -> None:
    def said(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["checkpoint", "prove-resume", *words])
        return result.exit_code, result.stdout + result.stderr

    module = __name__
    code, text = said("p/r@4", "--by", f"{module}:fit", "--json")
    failed, why = said("p/r@4", "--by", f"{module}:forgetful")
    unnamed, what = said("p/r@4")

    assert trained.find("p/r@4").state == "live"
    assert code == 0
    assert json.loads(text) == {
        "checkpoint": "p/r@4",
        "next": "p/r@6",
        "by": f"{module}:fit",
        "exact": True,
        "differ": [],
    }
    assert failed == 1
    assert "does not resume exactly" in why
    assert unnamed == 2
    assert "name one with --by" in what
