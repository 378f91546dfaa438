"""The museum's registries: embedded, and on servers for `make test-deep`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines_tests.databases import postgres_databases


@pytest.fixture(params=["embedded", pytest.param("servers", marks=pytest.mark.deep)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A new registry, on SQLite and files or on Postgres and S3."""
    home = tmp_path / "home"
    if request.param == "embedded":
        with open_registry(home, actor="tester") as opened:
            yield opened
        return
    store = request.getfixturevalue("s3_url")
    with (
        postgres_databases(request.getfixturevalue("postgres")) as databases,
        open_registry(
            home, store_url=store, catalog_url=databases.url(home), actor="tester"
        ) as opened,
    ):
        yield opened
