"""What the real libraries leave in an inbox is taken: the drops of today's releases."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests.integrations.droppers import LAYOUTS

pytestmark = [pytest.mark.integrations, pytest.mark.timeout(300)]

STEPS = {
    "dcp": [10, 20],
    "huggingface": [2, 4],
    "lightning": [2, 4],
    "orbax": [10, 20, 30, 40],
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_registry(tmp_path / "home", actor="tester") as opened:
        yield opened


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_library_writes_is_imported_with_its_parents(
    registry: Registry, tmp_path: Path, layout: str
) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "p").mkdir(parents=True)
    subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m"),
            *("artifact_pipelines_tests.integrations.droppers", layout, inbox / "p" / "outside"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    found = registry.receive(inbox)
    edges = {
        (edge.child.step, edge.parent.step)
        for edge in registry.lineage("p/outside@latest")
        if edge.role == "parent"
    }
    steps = STEPS[layout]

    assert {(drop.layout, drop.outcome) for drop in found} == {(layout, "imported")}
    assert [item.step for item in registry.checkpoints("p")] == steps
    assert edges == set(zip(steps[1:], steps, strict=False))
