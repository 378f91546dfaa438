"""The catalog's tables come from its migrations, and only one writer writes at a time."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from artifact_pipelines.catalog import ledger, packs, tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction, now
from artifact_pipelines.domain import merkle
from artifact_pipelines.errors import CatalogError, SessionLostError
from artifact_pipelines.store.pack import Location

ACTOR = "a" * 32


@pytest.fixture(params=["sqlite", "postgres"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    """A new catalog on each database."""
    if request.param == "sqlite":
        opened = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    else:
        opened = Catalog(request.getfixturevalue("postgres").database())
    opened.write(ledger.create, "test-log")
    yield opened
    opened.close()


def test_only_what_is_checked_again_does_not_wait_for_the_disk(catalog: Catalog) -> None:
    asked = {
        "sqlite": "pragma synchronous",
        "postgresql": "show synchronous_commit",
    }[catalog.url.get_backend_name()]

    def answer(tx: Transaction) -> str:
        return str(tx.conn.exec_driver_sql(asked).scalar())

    found = [catalog.write(answer), catalog.write_soon(answer), catalog.write(answer)]

    assert found in (["2", "1", "2"], ["on", "off", "on"])


def append(catalog: Catalog, text: str = "hello") -> None:
    catalog.write(
        ledger.append,
        action="annotate",
        subject="s",
        body={"project": "p", "text": text, "reason": ""},
        actor=ACTOR,
    )


def place(pack: str, key: str) -> tuple[str, Location]:
    return key, Location(pack, 8, 10, 10)


def mapped(catalog: Catalog, session: str, pack: str, keys: list[str], artifact: str) -> None:
    """Write a pack as a session would, and let an artifact use it."""
    catalog.write(packs.begin, session, 900.0)
    catalog.write(packs.open_pack, session, pack)

    def publish(tx: Transaction) -> None:
        used = packs.seal(tx, session, {pack: 100}, [place(pack, key) for key in keys], keys)
        tx.conn.execute(
            sa.insert(tables.artifact).values(
                id=artifact,
                seq=int(artifact, 16),
                kind="dataset",
                project="p",
                name=artifact,
                attempt=1,
                version=1,
                content="c",
                record=b"",
                object=session,
                size=1,
                published="t",
                state="live",
                there=1,
                training=0,
                recalled=False,
                tier="hot",
            )
        )
        packs.attach(tx, artifact, used)
        packs.close(tx, session)

    catalog.write(publish)


def states(catalog: Catalog) -> dict[str, str]:
    return {
        row.id: row.state
        for row in catalog.read(lambda conn: list(conn.execute(sa.select(tables.pack))))
    }


def forget(catalog: Catalog, artifact: str) -> None:
    table = tables.artifact
    catalog.write(
        lambda tx: tx.conn.execute(
            sa.update(table).where(table.c.id == artifact).values(state="forgotten")
        )
    )


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")
@pytest.mark.filterwarnings("ignore:autogenerate skipping")
def test_the_migrations_make_the_tables(catalog: Catalog) -> None:
    with catalog.engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        differences = [
            found
            for found in compare_metadata(context, tables.metadata)
            # SQLite's reflection does not show indexes on expressions.
            if not (found[0] == "add_index" and found[1].name == "uq_artifact_slot")
            # The full-text index over `words` is the database's own, and no table of ours.
            and not (found[0] == "remove_table" and found[1].name.startswith("words_index"))
            and not (found[0] == "remove_index" and found[1].name == "ix_words_text")
        ]

    assert differences == []


def test_the_slot_index_is_there(catalog: Catalog) -> None:
    catalogue = "sqlite_master" if catalog.url.get_backend_name() == "sqlite" else "pg_indexes"
    column = "name" if catalogue == "sqlite_master" else "indexname"
    found = catalog.read(
        lambda conn: conn.exec_driver_sql(
            f"select count(*) from {catalogue} where {column} = 'uq_artifact_slot'"
        ).scalar_one()
    )

    assert found == 1


def test_leaves_are_gap_free_with_many_writers(catalog: Catalog) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: append(catalog), range(40)))
    rows = catalog.read(ledger.leaves, 0, 100)

    assert [row.seq for row in rows] == list(range(40))
    assert catalog.read(ledger.root, 40) == merkle.root([bytes(row.hash) for row in rows])


def test_the_clock_does_not_run_behind_the_newest_leaf(catalog: Catalog) -> None:
    head = tables.ledger_head
    future = catalog.read(now) + 10_000
    catalog.write(lambda tx: tx.conn.execute(sa.update(head).values(time=future)))
    append(catalog)

    assert catalog.read(now) >= future


def test_proofs_from_the_catalog_verify(catalog: Catalog) -> None:
    for number in range(21):
        append(catalog, str(number))
    rows = catalog.read(ledger.leaves, 0, 21)
    hashes = [bytes(row.hash) for row in rows]

    for seq in range(21):
        proof = catalog.read(ledger.inclusion, seq, 21)
        assert merkle.verify_inclusion(hashes[seq], seq, 21, proof, merkle.root(hashes))
    for old in range(1, 22):
        proof = catalog.read(ledger.consistency, old, 21)
        roots = merkle.root(hashes[:old]), merkle.root(hashes)
        assert merkle.verify_consistency(old, 21, *roots, proof)


def test_an_unused_pack_is_condemned_then_deleted(catalog: Catalog) -> None:
    mapped(catalog, "s1", "p1", ["k1"], "1")
    assert not catalog.write(packs.condemn, "p1")
    forget(catalog, "1")

    assert catalog.write(packs.condemn, "p1")
    assert catalog.write(packs.doom, "p1", 3_600.0) is None
    assert catalog.write(packs.doom, "p1", 0.0) == (packs.Doomed("p1", 100), 1)
    assert catalog.read(packs.locate, ["k1"]) == {}
    catalog.write(packs.gone, "p1")
    assert states(catalog) == {}


def test_a_claim_revives_a_condemned_pack(catalog: Catalog) -> None:
    mapped(catalog, "s1", "p1", ["k1"], "1")
    forget(catalog, "1")
    catalog.write(packs.condemn, "p1")
    catalog.write(packs.begin, "s2", 900.0)

    assert set(catalog.write(packs.claim, "s2", ["k1"])) == {"k1"}
    assert states(catalog) == {"p1": "live"}
    assert not catalog.write(packs.condemn, "p1")
    assert catalog.write(packs.doom, "p1", 0.0) is None


def test_a_chunk_of_a_pack_that_is_being_deleted_counts_as_absent(catalog: Catalog) -> None:
    mapped(catalog, "s1", "p1", ["k1"], "1")
    forget(catalog, "1")
    catalog.write(packs.condemn, "p1")
    catalog.write(packs.doom, "p1", 0.0)
    catalog.write(packs.begin, "s2", 900.0)

    assert catalog.write(packs.claim, "s2", ["k1"]) == {}
    assert states(catalog) == {"p1": "deleting"}


def test_a_chunk_that_another_session_mapped_first_is_used_from_there(catalog: Catalog) -> None:
    catalog.write(packs.begin, "s1", 900.0)
    catalog.write(packs.open_pack, "s1", "p1")
    mapped(catalog, "s2", "p2", ["k1"], "2")
    used = catalog.write(packs.seal, "s1", {"p1": 100}, [place("p1", "k1")], ["k1"])

    assert used == ["p2"]
    assert catalog.read(packs.locate, ["k1"])["k1"].pack == "p2"


def test_an_expired_session_cannot_publish(catalog: Catalog) -> None:
    catalog.write(packs.begin, "s1", -1.0)
    catalog.write(packs.open_pack, "s1", "p1")

    assert catalog.write(packs.expire) == ["s1"]
    assert states(catalog) == {"p1": "condemned"}
    with pytest.raises(SessionLostError, match="has expired"):
        catalog.write(packs.seal, "s1", {"p1": 100}, [place("p1", "k1")], ["k1"])
    with pytest.raises(SessionLostError, match="has expired"):
        catalog.write(packs.renew, "s1", 900.0)


def test_a_renewed_session_is_not_expired(catalog: Catalog) -> None:
    catalog.write(packs.begin, "s1", -1.0)
    catalog.write(packs.renew, "s1", 900.0)

    assert catalog.write(packs.expire) == []


def test_a_missing_chunk_stops_a_publish(catalog: Catalog) -> None:
    catalog.write(packs.begin, "s1", 900.0)

    with pytest.raises(SessionLostError, match="lost chunks"):
        catalog.write(packs.seal, "s1", {}, [], ["k9"])


def test_a_failed_change_leaves_nothing(catalog: Catalog) -> None:
    def change(tx: Transaction) -> None:
        packs.begin(tx, "s1", 900.0)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        catalog.write(change)
    with pytest.raises(SessionLostError):
        catalog.write(packs.renew, "s1", 900.0)


def test_a_forked_child_gets_connections_of_its_own(catalog: Catalog) -> None:
    append(catalog)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            append(catalog)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    append(catalog)

    assert os.waitstatus_to_exitcode(status) == 0
    assert catalog.read(ledger.head).size == 3


def test_a_catalog_that_cannot_be_opened_says_where(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"not a database" * 100)

    with pytest.raises(CatalogError, match=r"catalog\.db cannot be opened"):
        Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_a_postgres_address_names_its_driver(scheme: str) -> None:
    with pytest.raises(CatalogError, match=r"write postgresql\+psycopg2://") as refused:
        Catalog(f"{scheme}://someone:secret@somewhere/db")

    assert "secret" not in str(refused.value)


def test_a_server_that_cannot_be_reached_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="is the server running"):
        Catalog(f"postgresql+psycopg2:///db?host={tmp_path}")


def test_sqlite_keeps_its_statistics_up_to_date(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    catalog = Catalog(url)
    catalog.write(ledger.create, "test-log")
    append(catalog)
    catalog.close()
    again = Catalog(url)
    counted = again.read(
        lambda conn: conn.exec_driver_sql(
            "select stat from sqlite_stat1 where idx = 'ix_leaf_subject'"
        ).scalar()
    )
    again.close()

    assert counted
