"""Changes of one catalog come one after the other, whoever makes them."""

import threading
from pathlib import Path

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction


def test_two_changes_never_decide_on_the_same_state(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    first, second = Catalog(url), Catalog(url)
    inside, looked = threading.Event(), threading.Event()
    seen: list[int] = []

    def count(tx: Transaction) -> int:
        table = tables.attempt
        return int(tx.conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())

    def enter(tx: Transaction, subject: str) -> None:
        seen.append(count(tx))
        if subject == "first":
            inside.set()
            looked.wait(0.5)  # until the second has looked as well, which it must not
        else:
            looked.set()
        tx.conn.execute(sa.insert(tables.attempt).values(subject=subject, count=1))

    def come_second() -> None:
        inside.wait(5)
        second.write(enter, "second")

    other = threading.Thread(target=come_second)
    other.start()
    first.write(enter, "first")
    other.join()
    first.close()
    second.close()

    assert seen == [0, 1]
