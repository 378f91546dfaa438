"""Lists and lineages are read in a few statements, however long they are."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from artifact_pipelines.catalog import lineage
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.histories import History, fill


@contextmanager
def statements(registry: Registry) -> Iterator[list[str]]:
    """Note the statements that reach the database."""
    said: list[str] = []

    def note(*args: object) -> None:
        said.append(str(args[2]))

    engine = registry.catalog.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    yield said
    sa.event.remove(engine, "before_cursor_execute", note)


def test_projects_are_listed_once_each(registry: Registry) -> None:
    assert registry.projects() == []
    building.dataset(registry)
    registry.publish_dataset("churn", "rows", {"data.csv": b"1"})
    building.dataset(registry, rows=9)

    assert registry.projects() == ["churn", "digits"]


def test_the_models_of_a_run_are_those_of_its_checkpoints(registry: Registry) -> None:
    one, other = building.run(registry, "run-1"), building.run(registry, "run-2", seed=2)
    first = registry.publish_model(one[0])
    registry.publish_model(other[0])
    third = registry.publish_model(one[1])

    assert registry.models(PROJECT, "run-1") == [first, third]
    assert registry.models(PROJECT, above=1) == registry.models(PROJECT)[1:]


def test_runs_and_requests_take_as_many_statements_for_ten_as_for_one(registry: Registry) -> None:
    registry.set_policy(PROJECT, building.POLICY)

    def add(number: int) -> None:
        model = registry.publish_model(building.run(registry, f"run-{number}", 1, seed=number)[0])
        registry.request(model.reference, "staging")

    counts = []
    for number in range(3):
        add(number)
        with statements(registry) as said:
            found = registry.runs(PROJECT)
            wishes = registry.requests(PROJECT, "staging")
            counts.append(len(said))
        assert len(found) == len(wishes) == number + 1

    assert len(set(counts)) == 1
    assert registry.runs(PROJECT)[-1] == registry.run(PROJECT, "run-2")


def test_a_lineage_of_many_runs_is_one_statement(registry: Registry) -> None:
    history = History(600)
    fill(registry.catalog, history)
    model = registry.get(history.newest["project-0000"]).seq
    with statements(registry) as said:
        above = registry.catalog.read(lineage.reach, model)
        found = registry.catalog.read(lineage.edges, model)
        reading = [one for one in said if one.lower().startswith("with")]

    assert len(above) > 500
    assert {registry.get(row.parent).seq for row, _ in found} == above
    assert len(reading) == 2
    assert [depth for _, depth in found] == sorted(depth for _, depth in found)


def test_the_lineage_of_everything_below_is_that_of_everything_above(registry: Registry) -> None:
    model = registry.publish_model(building.run(registry, "run-1")[-1])
    start = registry.find("digits/images@1")

    assert model.seq in registry.catalog.read(lineage.reach, start.seq, down=True)
    assert start.seq in registry.catalog.read(lineage.reach, model.seq)


def test_a_declared_parent_is_an_ancestor_once(registry: Registry) -> None:
    images = building.dataset(registry)
    other = registry.publish_dataset("churn", "rows", {"data.csv": b"1"})
    registry.declare(images.reference, other.reference, "derived")
    registry.declare(images.reference, other.reference, "cleaned")

    assert registry.catalog.read(lineage.reach, images.seq) == {other.seq}
    assert [edge.role for edge in registry.lineage(images.reference)] == ["cleaned", "derived"]
