"""A registry opens where its parts can be trusted, and nowhere else."""

from pathlib import Path

import pytest

from artifact_pipelines.errors import CatalogError, HomeError
from artifact_pipelines.registry import open_registry


def test_a_catalog_on_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = "/dev/sda1 / ext4 rw 0 0\nserver:/ /mnt/shared nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: mounts)

    with pytest.raises(HomeError, match="Postgres catalog"):
        open_registry(tmp_path / "home", catalog_url="sqlite:////mnt/shared/catalog.db")
    assert not Path("/mnt/shared").exists()


def test_a_postgres_address_without_a_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"postgresql\+psycopg2://"):
        open_registry(tmp_path / "home", catalog_url="postgresql://somewhere/db")
