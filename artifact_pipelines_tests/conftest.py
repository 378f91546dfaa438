"""What the tests of every part share: the servers."""

from collections.abc import Iterator

import pytest

from artifact_pipelines_tests.databases import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server that lives as long as the tests."""
    server = Postgres()
    yield server
    server.stop()
