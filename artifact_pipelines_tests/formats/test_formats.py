"""What every release wrote is opened, read and continued by this one, on both databases."""

import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.registry import open_registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Postgres

RELEASES = sorted(folder for folder in Path(__file__).parent.glob("v*") if folder.is_dir())


def home_of(release: Path, folder: Path) -> Path:
    with zipfile.ZipFile(release / "home.zip") as packed:
        packed.extractall(folder / "home")
    (folder / "home" / "keys").chmod(0o700)
    return folder / "home"


def restored(postgres: Postgres, release: Path) -> str:
    """Return the address of the Postgres catalog that a release left."""
    url = postgres.database()
    engine = sa.create_engine(url)
    with engine.connect() as conn:
        raw = conn.connection.dbapi_connection
        assert raw is not None
        raw.cursor().execute((release / "catalog.sql").read_text())
        raw.commit()
    engine.dispose()
    return url


def test_there_is_a_release_to_look_at() -> None:
    assert RELEASES


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
@pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)
def test_a_release_is_opened_and_continued(
    release: Path, database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    home = home_of(release, tmp_path)
    url = f"sqlite:///{home / 'catalog.db'}"
    if database == "postgres":
        url = restored(request.getfixturevalue("postgres"), release)
    with open_registry(home, catalog_url=url, actor="tester") as registry:
        served = registry.resolve(f"{PROJECT}@production")
        assert served.model.reference == "digits/v1"
        assert registry.verify("digits/v1").ok
        assert registry.read("digits/run-1@0", "model.safetensors") == building.tensors(0)
        assert registry.scrub().ok
        assert registry.verify_ledger().problems == ()
        registry.rebuild(f"sqlite:///{tmp_path / 'again.db'}")
        again = Catalog(f"sqlite:///{tmp_path / 'again.db'}")
        assert again.read(facts) == registry.catalog.read(facts)
        again.close()

        building.promoted(registry, "run-3", seed=3)
        assert registry.sign_head().size == len(registry.events(limit=10_000))
        assert registry.prune(grace=0).disagreements == ()
