"""What was published and not forgotten is readable, while everybody works at once and some die."""

from pathlib import Path

import pytest

from artifact_pipelines_tests.soaking import soak


@pytest.mark.deep
@pytest.mark.timeout(1_200)
def test_five_minutes_of_everything_at_once_lose_nothing(tmp_path: Path) -> None:
    found = soak(tmp_path / "home", 300, writers=16, collectors=4, readers=4)

    assert found["unreadable"] == 0
    assert (found["lost"], found["disagreements"], found["problems"]) == ([], [], [])
    assert min(found["published"], found["collected"], found["killed"]) > 100
