import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from dotenv import dotenv_values

from artifact_pipelines.errors import ConfigurationError, HomeError
from artifact_pipelines.settings import Settings, default_home, prepare_dagster_home

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files by which a checkout is known."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "workspace.yaml").touch()
    (folder / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    return folder


def test_without_variables_everything_is_under_the_home(checkout: Path) -> None:
    settings = Settings.from_environment({}, checkout)

    home = checkout / ".artifact-pipelines"
    assert settings.home == home
    assert settings.store_url == f"file://{home}/store"
    assert settings.catalog_url == f"sqlite:///{home}/catalog.db"
    assert settings.keys == home / "keys"
    assert settings.dagster_home == home / "dagster"
    assert settings.actor


def test_each_place_can_be_chosen_alone(tmp_path: Path) -> None:
    chosen = {
        "ARTIFACT_PIPELINES_HOME": "/srv/home",
        "ARTIFACT_PIPELINES_STORE_URL": "file:///srv/bytes",
        "ARTIFACT_PIPELINES_CATALOG_URL": "postgresql+psycopg2://me:secret@host/facts",
        "ARTIFACT_PIPELINES_KEYS": "/srv/keys",
        "ARTIFACT_PIPELINES_DAGSTER_HOME": "/srv/dagster",
        "ARTIFACT_PIPELINES_ACTOR": "ada",
    }

    assert Settings.from_environment(chosen, tmp_path) == Settings(
        home=Path("/srv/home"),
        store_url="file:///srv/bytes",
        catalog_url="postgresql+psycopg2://me:secret@host/facts",
        keys=Path("/srv/keys"),
        dagster_home=Path("/srv/dagster"),
        actor="ada",
    )


def test_what_is_not_chosen_follows_the_home(tmp_path: Path) -> None:
    settings = Settings.from_environment({"ARTIFACT_PIPELINES_HOME": "/srv/home"}, tmp_path)

    assert settings.keys == Path("/srv/home/keys")
    assert settings.catalog_url == "sqlite:////srv/home/catalog.db"


def test_an_empty_variable_is_an_unset_one(tmp_path: Path) -> None:
    empty = {"ARTIFACT_PIPELINES_HOME": "", "ARTIFACT_PIPELINES_STORE_URL": "  "}

    assert Settings.from_environment(empty, tmp_path) == Settings.from_environment({}, tmp_path)


@pytest.mark.parametrize("mark", ["pyproject.toml", "workspace.yaml", ".git"])
def test_the_home_is_beside_the_nearest_project(tmp_path: Path, mark: str) -> None:
    (tmp_path / ".git").mkdir()
    project = tmp_path / "project"
    inner = project / "package" / "inner"
    inner.mkdir(parents=True)
    (project / mark).touch()

    assert default_home(inner) == project / ".artifact-pipelines"


def test_the_projects_of_a_workspace_share_its_home(tmp_path: Path) -> None:
    project = tmp_path / "churn"
    project.mkdir()
    (project / "pyproject.toml").touch()
    alone = default_home(project)
    (tmp_path / "workspace.yaml").touch()

    assert alone == project / ".artifact-pipelines"
    assert default_home(project) == tmp_path / ".artifact-pipelines"


def test_relative_places_become_absolute(tmp_path: Path) -> None:
    settings = Settings.from_environment(
        {
            "ARTIFACT_PIPELINES_HOME": "here/../there",
            "ARTIFACT_PIPELINES_CATALOG_URL": "sqlite:///facts.db?timeout=5",
            "ARTIFACT_PIPELINES_KEYS": "~/keys",
        },
        tmp_path,
    )

    assert settings.home == tmp_path / "there"
    assert settings.catalog_url == f"sqlite:///{tmp_path}/facts.db?timeout=5"
    assert settings.keys == Path.home() / "keys"


def test_a_store_url_survives_a_home_with_unusual_letters(tmp_path: Path) -> None:
    home = tmp_path / "a home #1 100%"
    settings = Settings.from_environment({"ARTIFACT_PIPELINES_HOME": str(home)}, tmp_path)

    assert Path(unquote(urlsplit(settings.store_url).path)) == home / "store"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_postgres_url_without_a_driver_is_refused(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://me:secret@host/facts"
    with pytest.raises(ConfigurationError, match=r"write postgresql\+psycopg2://") as refused:
        Settings.from_environment({"ARTIFACT_PIPELINES_CATALOG_URL": url}, tmp_path)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["mysql://host/facts", "/srv/catalog.db", "sqlite"])
def test_another_kind_of_catalog_is_refused_in_one_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match="is neither sqlite:////path") as refused:
        Settings.from_environment({"ARTIFACT_PIPELINES_CATALOG_URL": url}, tmp_path)

    assert str(refused.value).endswith("postgresql+psycopg2://user@host/database.")


def test_a_home_that_a_database_url_cannot_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has a '\?' in its path"):
        Settings.from_environment({"ARTIFACT_PIPELINES_HOME": "what?"}, tmp_path)


def test_a_path_of_an_unknown_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="names a user who has no home"):
        Settings.from_environment({"ARTIFACT_PIPELINES_HOME": "~nobody-at-all/home"}, tmp_path)


def test_a_process_without_an_account_still_has_an_actor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)

    assert Settings.from_environment({}, tmp_path).actor == f"uid-{os.getuid()}"


def test_a_password_is_not_shown() -> None:
    variables = {"ARTIFACT_PIPELINES_CATALOG_URL": "postgresql+psycopg2://me:secret@host/facts"}

    assert "secret" not in repr(Settings.from_environment(variables, Path("/")))


def test_the_dagster_home_is_linked_to_the_checkout(checkout: Path) -> None:
    folder = prepare_dagster_home(Settings.from_environment({}, checkout), checkout)

    assert folder == checkout / ".artifact-pipelines" / "dagster"
    assert (folder / "dagster.yaml").readlink() == checkout / "dagster.yaml"
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_without_a_checkout_the_packaged_configuration_is_written(tmp_path: Path) -> None:
    folder = prepare_dagster_home(Settings.from_environment({}, tmp_path))

    assert (folder / "dagster.yaml").read_bytes() == (ROOT / "dagster.yaml").read_bytes()
    assert not (tmp_path / ".env").exists()


def test_a_checkout_that_has_gone_leaves_a_usable_home(checkout: Path) -> None:
    settings = Settings.from_environment({}, checkout)
    prepare_dagster_home(settings, checkout)
    (checkout / "dagster.yaml").unlink()
    folder = prepare_dagster_home(settings, checkout)

    assert (folder / "dagster.yaml").read_bytes() == (ROOT / "dagster.yaml").read_bytes()


def test_a_configuration_written_by_a_person_stays(checkout: Path) -> None:
    settings = Settings.from_environment({}, checkout)
    settings.dagster_home.mkdir(parents=True)
    own = settings.dagster_home / "dagster.yaml"
    own.write_text("telemetry: {enabled: false}\n")
    prepare_dagster_home(settings, checkout)

    assert own.read_text() == "telemetry: {enabled: false}\n"
    assert not own.is_symlink()


def test_preparing_twice_changes_nothing(checkout: Path) -> None:
    settings = Settings.from_environment({}, checkout)
    prepare_dagster_home(settings, checkout)
    before = (checkout / ".env").stat().st_mtime_ns
    prepare_dagster_home(settings, checkout)

    assert (checkout / ".env").stat().st_mtime_ns == before
    assert sorted(path.name for path in settings.dagster_home.iterdir()) == ["dagster.yaml"]


def test_the_environment_file_names_an_absolute_dagster_home(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARTIFACT_PIPELINES_HOME", raising=False)
    prepare_dagster_home(Settings.from_environment({}, checkout), checkout)

    assert dotenv_values(checkout / ".env") == {
        "ARTIFACT_PIPELINES_HOME": f"{checkout}/.artifact-pipelines",
        "DAGSTER_HOME": f"{checkout}/.artifact-pipelines/dagster",
    }


def test_the_environment_file_yields_to_a_home_that_was_chosen(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARTIFACT_PIPELINES_HOME", str(tmp_path / "elsewhere"))
    prepare_dagster_home(Settings.from_environment(cwd=checkout), checkout)

    assert dotenv_values(checkout / ".env")["DAGSTER_HOME"] == f"{tmp_path}/elsewhere/dagster"
    assert str(tmp_path / "elsewhere") not in (checkout / ".env").read_text()


def test_an_environment_file_of_a_person_stays(checkout: Path) -> None:
    (checkout / ".env").write_text("DAGSTER_HOME=/mine\n")
    prepare_dagster_home(Settings.from_environment({}, checkout), checkout)

    assert (checkout / ".env").read_text() == "DAGSTER_HOME=/mine\n"


def test_our_environment_file_follows_a_checkout_that_moved(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARTIFACT_PIPELINES_HOME", raising=False)
    prepare_dagster_home(Settings.from_environment({}, checkout), checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    prepare_dagster_home(Settings.from_environment({}, moved), moved)

    assert dotenv_values(moved / ".env")["DAGSTER_HOME"] == (f"{moved}/.artifact-pipelines/dagster")


def test_a_home_that_cannot_be_written_is_refused_in_one_sentence(checkout: Path) -> None:
    (checkout / ".artifact-pipelines").write_text("a file stands where the home should be")
    with pytest.raises(HomeError, match="cannot be prepared: File exists") as refused:
        prepare_dagster_home(Settings.from_environment({}, checkout), checkout)

    assert "set ARTIFACT_PIPELINES_HOME to another folder" in str(refused.value)
