"""A project in a Dagster instance and a home of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines_tests import world as worlds
from artifact_pipelines_tests.defs.daemon import Daemon
from artifact_pipelines_tests.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world in a folder of its own."""
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ARTIFACT_PIPELINES_ACTOR", "tester")
    with worlds.world(tmp_path) as found:
        yield found


@pytest.fixture
def daemon(world: World) -> Daemon:
    """The daemon of a world."""
    return Daemon(world)
