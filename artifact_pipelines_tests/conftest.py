"""What the tests of every part share: the servers."""

import secrets
from collections.abc import Iterator

import pytest

from artifact_pipelines_tests.databases import Postgres
from artifact_pipelines_tests.servers import SeaweedFS, environment, serving


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server that lives as long as the tests."""
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """An S3 server that lives as long as the tests, with a bucket `store`."""
    with serving(tmp_path_factory.mktemp("seaweedfs")) as server:
        server.make_bucket("store")
        yield server


@pytest.fixture
def s3_url(seaweedfs: SeaweedFS) -> Iterator[str]:
    """The URL of a new store on the S3 server, whose variables are set."""
    with environment(seaweedfs.environ):
        yield f"s3://store/{secrets.token_hex(8)}"
