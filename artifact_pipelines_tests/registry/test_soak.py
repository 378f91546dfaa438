"""What was published and not forgotten is readable, while everybody works at once and some die."""

from pathlib import Path

import pytest

from artifact_pipelines_tests.databases import Databases, SqliteFiles
from artifact_pipelines_tests.soaking import Place, soak


@pytest.fixture
def place(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Place:
    """Where everybody works: in a home, or on Postgres and S3."""
    home = tmp_path / "home"
    if isinstance(databases, SqliteFiles):
        return Place(home)
    return Place(home, request.getfixturevalue("s3_url"), databases.url(home))


@pytest.mark.deep
@pytest.mark.timeout(1_200)
def test_five_minutes_of_everything_at_once_lose_nothing(place: Place) -> None:
    found = soak(place, 300, writers=16, collectors=4, readers=4)
    least = 100 if place.store_url is None else 20  # a process takes seconds to begin there

    assert found["unreadable"] == 0
    assert (found["lost"], found["disagreements"], found["problems"]) == ([], [], [])
    assert min(found["published"], found["collected"], found["killed"]) > least
