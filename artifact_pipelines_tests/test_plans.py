"""Every question of every day is answered through an index, on both databases."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from artifact_pipelines.catalog import ledger, search, tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction
from artifact_pipelines.defs.events import Cursor, tick
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.keys import KeyFolder
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines_tests.building import POLICY
from artifact_pipelines_tests.databases import Postgres
from artifact_pipelines_tests.histories import History, fill
from artifact_pipelines_tests.questions import (
    QUESTIONS,
    Asked,
    Somewhere,
    full_scans,
    listening,
    plan_of,
    reads,
)

AT = "project-0000"

FOLLOWED = frozenset(one for one in QUESTIONS if "search" in one or "made from" in one)
"""What reads more than it returns: a lineage its nodes, a search what its bounds let through."""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Registry, Somewhere]]:
    """A registry over a history of some runs, of which the bytes were never there."""
    folder = tmp_path_factory.mktemp("plans")
    if request.param == "sqlite":
        catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    else:
        catalog = Catalog(request.getfixturevalue("postgres").catalog())
    with Registry(catalog, MemoryBackend(), KeyFolder(folder / "keys"), "tester") as registry:
        catalog.write(crowd)
        history = History(2_000)
        fill(catalog, history)
        model = registry.get(history.newest[AT])
        yield registry, Somewhere(AT, "run-00007", model.id, model.seq)


def crowd(tx: Transaction) -> None:
    """Fill the tables of governance: one that holds a few rows is best read whole."""
    for table in (tables.verdict, tables.request, tables.stage_history):
        rows = [
            {
                column.name: number
                if isinstance(column.type, sa.Integer)
                else bool(number % 2)
                if isinstance(column.type, sa.Boolean)
                else f"{column.name}-{number}"
                for column in table.columns
            }
            for number in range(1_000_000, 1_002_000)
        ]
        tx.conn.execute(sa.insert(table), rows)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_through_an_index(
    filled: tuple[Registry, Somewhere], question: str
) -> None:
    registry, somewhere = filled
    with listening(registry) as heard:
        QUESTIONS[question](registry, somewhere)

    assert heard.asked
    for asked in heard.asked:
        assert full_scans(registry, asked, small=True) == [], asked.text


@pytest.mark.parametrize("filled", ["postgres"], indirect=True)
@pytest.mark.parametrize("question", [one for one in QUESTIONS if one not in FOLLOWED])
def test_a_question_reads_little_more_than_it_returns(
    filled: tuple[Registry, Somewhere], question: str
) -> None:
    registry, somewhere = filled
    with listening(registry) as heard:
        QUESTIONS[question](registry, somewhere)

    for asked in heard.asked:
        read, found = reads(registry, asked)
        assert read <= 2 * found + 5, asked.text


@pytest.mark.deep
def test_a_long_history_is_not_read_from_end_to_end(postgres: Postgres, tmp_path: Path) -> None:
    catalog = Catalog(postgres.catalog())
    with Registry(catalog, MemoryBackend(), KeyFolder(tmp_path), "tester") as registry:
        catalog.write(crowd)
        history = History(100_000)
        fill(catalog, history)
        model = registry.get(history.newest[AT])
        somewhere = Somewhere(AT, "run-00007", model.id, model.seq)
        for question in QUESTIONS.values():
            with listening(registry) as heard:
                question(registry, somewhere)
            for asked in heard.asked:
                assert full_scans(registry, asked) == [], asked.text


@pytest.mark.parametrize("filled", ["postgres"], indirect=True)
def test_a_tick_reads_what_is_new(filled: tuple[Registry, Somewhere]) -> None:
    registry, _ = filled
    registry.set_policy(AT, POLICY)
    before = registry.catalog.read(ledger.head).size - 1
    cursor = Cursor(before).encode()
    run = registry.start_run(AT, "new", params={"lr": 0.1})
    for step in range(10):
        registry.publish_checkpoint(run, {"model.safetensors": b"%d" % step}, step=step)
    registry.finish_run(run, "finished")
    with dg.DagsterInstance.ephemeral() as instance, listening(registry) as heard:
        result = tick(registry, instance, "events", {AT: POLICY}, cursor)

    assert isinstance(result, dg.SensorResult)
    assert result.run_requests
    for asked in heard.asked:
        read, found = reads(registry, asked)
        assert read <= 2 * found + 5, asked.text


def test_a_full_scan_is_seen(filled: tuple[Registry, Somewhere]) -> None:
    registry, _ = filled
    text = "select count(*) from artifact where size > 3"
    counted = Asked("select count(*) from edge where role = 'run'", ())

    assert full_scans(registry, Asked(text, ()), small=True)
    assert full_scans(registry, counted, small=True)


def test_an_order_by_a_metric_is_read_from_its_index(
    filled: tuple[Registry, Somewhere],
) -> None:
    registry, somewhere = filled
    with listening(registry) as heard:
        QUESTIONS["a search by project and metric"](registry, somewhere)
    (plan,) = [plan_of(registry, asked) for asked in heard.asked]

    assert "ix_metric_project_kind_name_value" in plan
    assert "value>?" in plan or "value > '0.97'" in plan
    assert "TEMP B-TREE FOR ORDER BY" not in plan
    assert "Bitmap" not in plan


def test_bounds_that_let_many_through_are_asked_of_artifacts_in_their_order(
    filled: tuple[Registry, Somewhere], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW", 10)
    registry, somewhere = filled
    with listening(registry) as heard:
        QUESTIONS["a search by two metrics"](registry, somewhere)
    plan = plan_of(registry, heard.asked[-1])

    assert len(heard.asked) == 3
    assert "ix_artifact_project_kind_seq" in plan
    assert "pk_metric" in plan or "PRIMARY KEY (artifact=? AND name=?)" in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan
