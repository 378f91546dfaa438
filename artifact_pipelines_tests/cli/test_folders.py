"""The doctor says where there is no room, and who may not write, or may and should not."""

import os
import shutil
from pathlib import Path

import pytest

from artifact_pipelines.cli import folders
from artifact_pipelines.cli.folders import folder_checks
from artifact_pipelines.settings import Settings
from artifact_pipelines_tests.cli.conftest import Command


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    for folder in (home, home / "store", home / "keys", home / "dagster"):
        folder.mkdir(mode=0o700)
    return Settings.from_environment({"ARTIFACT_PIPELINES_HOME": str(home)}, tmp_path)


def found(settings: Settings, name: str) -> list[tuple[str, str]]:
    return [(state, said) for check, state, said in folder_checks(settings) if check == name]


def test_folders_with_room_that_are_ours_are_in_order(settings: Settings) -> None:
    (disk, *_), (permissions,) = found(settings, "disk"), found(settings, "permissions")

    assert disk[0] == "ok"
    assert "home, keys, dagster home, store" in disk[1]
    assert permissions == ("ok", "this account owns and can write every folder.")


@pytest.mark.parametrize(
    "free,state,said",
    [
        (folders.NO_ROOM - 1, "fail", "nothing can be published"),
        (folders.NO_ROOM, "warn", "prune frees"),
        (folders.ROOM - 1, "warn", "prune frees"),
        (folders.ROOM, "ok", "1.0 GiB are free"),
    ],
)
def test_little_room_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, state: str, said: str
) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    ((found_state, told), *_) = found(settings, "disk")

    assert found_state == state
    assert said in told


def test_each_file_system_is_looked_at_once(settings: Settings) -> None:
    shared = Path("/dev/shm")  # noqa: S108 (nothing is written there)
    if not shared.is_dir() or shared.stat().st_dev == settings.home.stat().st_dev:
        pytest.skip("there is one file system here")
    apart = Settings.from_environment(
        {
            "ARTIFACT_PIPELINES_HOME": str(settings.home),
            "ARTIFACT_PIPELINES_STORE_URL": "file:///dev/shm",
        }
    )
    said = [told for _, told in found(apart, "disk")]

    assert len([told for told in said if "for store, at /dev/shm" in told]) == 1
    assert len(said) == len({told.rpartition(" at ")[2] for told in said})


def test_a_folder_that_everybody_can_write_is_told(settings: Settings) -> None:
    settings.keys.chmod(0o777)
    ((state, said),) = found(settings, "permissions")

    assert state == "fail"
    assert said == f"everybody can write keys, {settings.keys}: chmod o-w {settings.keys}"


def test_a_folder_that_cannot_be_written_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = settings.home / "store"
    monkeypatch.setattr(os, "access", lambda folder, _: folder != store)
    ((state, said),) = found(settings, "permissions")

    assert state == "fail"
    assert said.startswith(f"this account cannot write store, {store}")


def test_a_folder_of_another_account_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 7)
    states = found(settings, "permissions")

    assert [state for state, _ in states] == ["warn"] * 4
    assert f"belongs to the account {mine}, and this one is {mine + 7}" in states[0][1]


def test_the_doctor_exits_with_2_where_a_folder_is_open_to_all(
    command: Command, home: Path
) -> None:
    command("project", "list")
    home.mkdir(exist_ok=True)
    home.chmod(0o777)
    said = command("doctor", "--json")

    assert said.code == 2
    checks = {check["check"]: check for check in said.json()["checks"]}
    assert checks["permissions"]["state"] == "fail"
