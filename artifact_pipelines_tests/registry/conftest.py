"""A registry in a folder of its own, on each database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.registry import Registry, open_registry, opened
from artifact_pipelines_tests.databases import Databases, SqliteFiles, postgres_databases

SMOKE = {"test_moving", "test_promoting", "test_rebuilding", "test_surveying", "test_sweeping"}
"""The modules that the default suite runs on Postgres too; the others are for `make test-deep`."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that opens a registry on both databases."""
    if "databases" in metafunc.fixturenames:
        smoke = metafunc.module.__name__.rpartition(".")[2] in SMOKE
        marks = () if smoke else (pytest.mark.deep,)
        choices = ["sqlite", pytest.param("postgres", marks=marks)]
        metafunc.parametrize("databases", choices, indirect=True)


@pytest.fixture(autouse=True)
def databases(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Databases]:
    """Where a home's catalog is, when nothing else was said."""
    if request.param == "sqlite":
        yield SqliteFiles()
        return
    with postgres_databases(request.getfixturevalue("postgres")) as found:
        monkeypatch.setattr(opened, "default_catalog_url", found.url)
        yield found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A new registry."""
    with open_registry(tmp_path / "home", actor="tester") as opened:
        yield opened
