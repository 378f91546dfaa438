"""The doctor says what is wrong with Dagster here, and what to do about it."""

from pathlib import Path

import pytest

from artifact_pipelines.cli import checking
from artifact_pipelines.cli.checking import dagster_checks
from artifact_pipelines.settings import Settings, prepare_dagster_home
from artifact_pipelines_tests.cli.conftest import Command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a workspace, as `init` leaves it."""
    for name in ("DAGSTER_HOME", "ARTIFACT_PIPELINES_HOME", "ARTIFACT_PIPELINES_DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DG_CLI_CONFIG", str(tmp_path / "dg.toml"))
    (tmp_path / "workspace.yaml").write_text(
        "load_from: [{python_module: {module_name: artifact_pipelines.definitions}}]\n"
    )
    monkeypatch.chdir(tmp_path)
    prepare_dagster_home(Settings.from_environment(), tmp_path)
    return tmp_path


def found(here: Path) -> dict[str, tuple[str, str]]:
    checks = dagster_checks(Settings.from_environment(), here)
    return {name: (state, said) for name, state, said in checks}


def test_a_prepared_folder_is_in_order(here: Path) -> None:
    (here / "dg.toml").write_text("[cli.telemetry]\nenabled = false\n")
    checks = found(here)

    assert {state for state, _ in checks.values()} == {"ok"}
    assert checks["dagster instance"] == ("ok", "0 runs.")
    assert checks["workspace"] == ("ok", "1 code locations.")


def test_packages_that_do_not_belong_together_are_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "version", lambda _: "0.11.14")
    state, said = found(here)["dagster family"]

    assert state == "fail"
    assert "dagster-aws is 0.11.14 and should be " in said


def test_a_missing_env_is_told_and_made(here: Path, command: Command) -> None:
    (here / ".env").unlink()
    state, said = found(here)[".env"]
    command("dagster", "prepare")
    again, _ = found(here)[".env"]

    assert state == "warn"
    assert said.endswith("would make a temporary home: artifact-pipelines dagster prepare")
    assert again == "ok"


def test_an_env_of_another_place_is_told(here: Path) -> None:
    text = (here / ".env").read_text().replace(str(here), "/elsewhere")
    (here / ".env").write_text(text)

    state, said = found(here)[".env"]
    assert state == "warn"
    assert "names another home" in said


def test_a_stale_link_is_told_and_mended(here: Path) -> None:
    configuration = here / ".artifact-pipelines" / "dagster" / "dagster.yaml"
    configuration.unlink()
    configuration.symlink_to(here / "gone.yaml")
    state, said = found(here)["dagster home"]
    prepare_dagster_home(Settings.from_environment(), here)

    assert state == "fail"
    assert "links to" in said
    assert "which is gone: artifact-pipelines dagster prepare" in said
    assert found(here)["dagster home"][0] == "ok"


def test_an_instance_that_does_not_open_is_told(here: Path) -> None:
    configuration = here / ".artifact-pipelines" / "dagster" / "dagster.yaml"
    configuration.write_text("telemetri: {}\n")

    state, said = found(here)["dagster instance"]
    assert state == "fail"
    assert "telemetri" in said
    assert "\n" not in said


def test_another_dagster_home_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "/elsewhere")

    assert found(here)["DAGSTER_HOME"][0] == "warn"


@pytest.mark.parametrize(
    "text,said",
    [
        ("load_from: [{python_module: nowhere.definitions}]", "lists what is not there: nowhere"),
        ("load_from: 7", "cannot be read"),
    ],
)
def test_a_workspace_that_cannot_load_is_told(here: Path, text: str, said: str) -> None:
    (here / "workspace.yaml").write_text(text)

    state, told = found(here)["workspace"]
    assert state == "fail"
    assert said in told


def test_usage_statistics_are_told(here: Path) -> None:
    state, said = found(here)["dg"]

    assert state == "warn"
    assert "[cli.telemetry] with enabled = false" in said
