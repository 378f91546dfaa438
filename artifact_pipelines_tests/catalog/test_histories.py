"""A history that was written in bulk is the one that its leaves and records make."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from artifact_pipelines.catalog import fold, ledger, tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction
from artifact_pipelines.domain import digest, merkle
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.manifest import FileEntry, Manifest
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.record import Record
from artifact_pipelines_tests.histories import COLUMNS, History, fill

FOLDED = (
    "artifact",
    "artifact_file",
    "edge",
    "ancestry",
    "metric",
    "parameter",
    "words",
    "run",
    "leaf",
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A catalog with a history of two runs."""
    if request.param == "sqlite":
        catalog = Catalog(f"sqlite:///{tmp_path_factory.mktemp('history') / 'catalog.db'}")
    else:
        catalog = Catalog(request.getfixturevalue("postgres").catalog())
    catalog.write(ledger.create, "test-log")
    fill(catalog, History(150))
    return catalog


def rows(catalog: Catalog, name: str) -> list[Any]:
    table = tables.metadata.tables[name]
    return sorted(
        catalog.read(lambda conn: [tuple(row) for row in conn.execute(sa.select(table))]), key=str
    )


def publication(catalog: Catalog, row: sa.Row[Any]) -> Publication:
    """Return the publish object behind an artifact's row; its content digest is made up."""
    file = tables.artifact_file
    found = catalog.read(
        lambda conn: list(conn.execute(sa.select(file).where(file.c.artifact == row.id)))
    )
    entries = [FileEntry(one.path, one.size, one.sha256, one.media_type) for one in found]
    chunks = {entry.sha256: (("0" * 64, entry.size),) for entry in entries}
    made = object.__new__(Publication)
    for name, value in (
        ("record", Record.decode(bytes(row.record))),
        ("manifest", Manifest(entries)),
        ("chunks", chunks),
    ):
        object.__setattr__(made, name, value)
    return made


def test_the_rows_are_those_of_the_fold(filled: Catalog, tmp_path: Path) -> None:
    again = Catalog(f"sqlite:///{tmp_path / 'again.db'}")
    artifacts = {
        row.id: row
        for row in filled.read(lambda conn: list(conn.execute(sa.select(tables.artifact))))
    }
    leaves = filled.read(ledger.leaves, 0, 10_000)

    def replay(tx: Transaction) -> None:
        ledger.create(tx, "test-log")
        for row in leaves:
            leaf = Leaf.decode(bytes(row.envelope))
            assert digest.sha256(bytes(row.body)) == leaf.body
            ledger.insert(tx, ledger.lock(tx), bytes(row.envelope), bytes(row.body), 0.0)
            made = publication(filled, artifacts[row.subject]) if row.action == "publish" else None
            fold.apply(tx, leaf, digest.parse(bytes(row.body)), made)

    again.write(replay)
    for name in FOLDED:
        assert rows(again, name) == rows(filled, name), name
    again.close()


def test_its_ids_and_its_tree_are_real(filled: Catalog) -> None:
    found = filled.read(lambda conn: list(conn.execute(sa.select(tables.artifact))))
    leaves = filled.read(ledger.leaves, 0, 10_000)

    assert all(digest.sha256(bytes(row.record)) == row.id for row in found)
    hashes = [merkle.leaf_hash(bytes(row.envelope)) for row in leaves]
    assert filled.read(ledger.root, len(leaves)) == merkle.root(hashes)


def test_every_table_is_filled_in_realistic_proportion(filled: Catalog) -> None:
    counts = {name: len(rows(filled, name)) for name in COLUMNS}

    assert all(counts.values())
    assert 4.5 < counts["edge"] / counts["artifact"] < 5.5
    assert counts["metric"] > 9.5 * counts["artifact"]
