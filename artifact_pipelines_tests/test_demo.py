"""The demonstration runs as a newcomer runs it, and its summary holds what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent


def demo(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return what the demo prints in a home."""
    environment = {
        **{name: value for name, value in os.environ.items() if "DAGSTER" not in name},
        "ARTIFACT_PIPELINES_HOME": str(home),
    }
    return subprocess.run(
        [sys.executable, "-m", "artifact_pipelines.cli", "demo", *arguments],
        cwd=home.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
def test_the_demo_tells_the_whole_story(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = demo(home, "--json")
    again = demo(home, "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {
        "project",
        "datasets",
        "runs",
        "gates",
        "production",
        "rollback",
        "retention",
        "storage",
        "audit",
        "seconds",
    }
    assert [run["checkpoints"] for run in found["runs"]] == [8, 8, 8, 8]
    assert found["runs"][2]["resumed_from"] == "digits/baseline@180"
    assert found["runs"][2]["resumed_exactly"]
    assert found["gates"]["passed"] >= 2
    assert found["gates"]["failed"] >= 1
    assert found["production"]["proof_verified"]
    assert found["rollback"]["from"] == found["production"]["reference"]
    assert found["retention"]["bytes_after"] < found["retention"]["bytes_before"]
    assert found["audit"]["verified"]
    assert found["audit"]["tampering_detected"]
    assert "0 of 1 approvals" in done.stderr
    assert (again.returncode, again.stdout) == (2, "")
    assert "demo --fresh" in again.stderr
