"""The files at the top of the repository are what Dagster and the package expect."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

ROOT = Path(__file__).parent.parent


def read(name: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def test_dagster_accepts_the_embedded_instance(instance: dg.DagsterInstance) -> None:
    settings = instance.get_settings("concurrency")

    assert settings["runs"]["max_concurrent_runs"] <= 2


def test_nothing_leaves_the_machine_unasked(instance: dg.DagsterInstance) -> None:
    assert not instance.telemetry_enabled
    assert not instance.nux_enabled


def test_dagster_refuses_a_key_it_does_not_know(tmp_path: Path) -> None:
    """The schema is really looked at, so that the tests above can fail."""
    (tmp_path / "dagster.yaml").write_text("telemetri: {enabled: false}\n")
    with pytest.raises(dg.DagsterInvalidConfigError, match="telemetri"):
        dg.DagsterInstance.from_config(str(tmp_path))


def test_the_package_carries_the_same_instance() -> None:
    packaged = (ROOT / "artifact_pipelines" / "dagster.yaml").read_bytes()

    assert packaged == (ROOT / "dagster.yaml").read_bytes()


def test_the_platform_is_one_code_location_of_the_workspace() -> None:
    locations = [entry["python_module"] for entry in read("workspace.yaml")["load_from"]]
    platform = [loc for loc in locations if loc["module_name"] == "artifact_pipelines.definitions"]

    assert len(platform) == 1
    assert len({location["location_name"] for location in locations}) == len(locations)


@pytest.mark.parametrize(
    "made", [".artifact-pipelines/catalog.db", ".env", ".tmp_dagster_home_x/y", ".logs_queue/z"]
)
def test_git_ignores_what_the_demo_and_dagster_make(made: str) -> None:
    ran = subprocess.run(
        ["git", "check-ignore", "-q", made],  # noqa: S607 - whichever git is installed
        cwd=ROOT,
        check=False,
    )

    assert ran.returncode == 0


def test_the_makefile_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    ran = subprocess.run(
        ["make", "--no-print-directory", "help"],  # noqa: S607 - whichever make is installed
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )

    listed = {line.split()[1] for line in ran.stdout.splitlines()}
    assert listed == set(phony.split()[1:])
