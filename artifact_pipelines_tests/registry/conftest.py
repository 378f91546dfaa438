"""A registry in a folder of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.registry import Registry, open_registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A new registry."""
    with open_registry(tmp_path / "home", actor="tester") as opened:
        yield opened
