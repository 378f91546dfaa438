"""A search answers what reading everything and comparing one by one would answer."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.catalog import search, tables
from artifact_pipelines.catalog.catalog import Catalog, Transaction
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.keys import KeyFolder
from artifact_pipelines.store.memory import MemoryBackend
from artifact_pipelines_tests.histories import History, fill

METRICS = ("accuracy", "loss", "worst_slice")
COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Written:
    """A condition in the language, and what it says of an artifact: nothing where unknown."""

    text: str
    says: Callable[[dict[str, Any]], bool | None]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry over four runs, some of whose metrics were no numbers."""
    folder = tmp_path_factory.mktemp("search")
    if request.param == "sqlite":
        catalog = Catalog(f"sqlite:///{folder / 'catalog.db'}")
    else:
        catalog = Catalog(request.getfixturevalue("postgres").catalog())
    with Registry(catalog, MemoryBackend(), KeyFolder(folder / "keys"), "tester") as registry:
        fill(catalog, History(400))
        catalog.write(lose)
        yield registry


def lose(tx: Transaction) -> None:
    """Make one accuracy in seven no number."""
    artifact, metric = tables.artifact, tables.metric
    lost = sa.select(artifact.c.id).where(artifact.c.seq % 7 == 0)
    tx.conn.execute(
        sa.update(metric)
        .where(metric.c.name == "accuracy", metric.c.artifact.in_(lost))
        .values(value=None)
    )


def everything(registry: Registry) -> list[dict[str, Any]]:
    """Return every artifact with its metrics, newest first."""

    def read(conn: sa.Connection) -> list[dict[str, Any]]:
        measured: dict[str, dict[str, float | None]] = {}
        for row in conn.execute(sa.select(tables.metric)):
            measured.setdefault(row.artifact, {})[row.name] = row.value
        rows = conn.execute(sa.select(tables.artifact)).mappings()
        found = [{**row, "metrics": measured.get(row["id"], {})} for row in rows]
        return sorted(found, key=lambda one: -one["seq"])

    return registry.catalog.read(read)


def bound(name: str, sign: str, value: float) -> Written:
    def says(one: dict[str, Any]) -> bool:
        found = one["metrics"].get(name)
        return found is not None and COMPARED[sign](found, value)

    return Written(f"metrics.{name} {sign} {value:.4f}", says)


def is_nan(name: str) -> Written:
    return Written(
        f"metrics.{name} = nan",
        lambda one: name in one["metrics"] and one["metrics"][name] is None,
    )


def column(name: str, sign: str, value: str | int) -> Written:
    def says(one: dict[str, Any]) -> bool | None:
        return None if one[name] is None else COMPARED[sign](one[name], value)

    return Written(f"{name} {sign} {value}", says)


def denied(part: Written) -> Written:
    def says(one: dict[str, Any]) -> bool | None:
        said = part.says(one)
        return None if said is None else not said

    return Written(f"not ({part.text})", says)


def joined(parts: Sequence[Written], word: str) -> Written:
    decisive = word == "or"

    def says(one: dict[str, Any]) -> bool | None:
        said = [part.says(one) for part in parts]
        if decisive in said:
            return decisive
        return None if None in said else not decisive

    return Written(f"({f' {word} '.join(part.text for part in parts)})", says)


SIGNS = st.sampled_from(sorted(COMPARED))
BOUNDS = st.builds(
    bound,
    st.sampled_from(METRICS),
    SIGNS,
    st.one_of(st.sampled_from((0.0, 0.5, 0.9, 0.99, 1.0, 1.03, 2.0)), st.floats(0.1, 1.1)).map(
        lambda value: round(value, 4)
    ),
)
ONES = st.one_of(
    BOUNDS,
    BOUNDS,
    st.just(is_nan("accuracy")),
    st.builds(column, st.just("step"), SIGNS, st.integers(0, 100)),
    st.builds(column, st.just("kind"), st.just("="), st.sampled_from(("checkpoint", "model"))),
    st.builds(column, st.just("project"), st.just("="), st.just("project-0000")),
    st.builds(column, st.just("name"), st.just("="), st.sampled_from(("run-00002", "images"))),
)
CONDITIONS = st.recursive(
    ONES,
    lambda inner: st.one_of(
        st.builds(denied, inner),
        st.builds(joined, st.lists(inner, min_size=2, max_size=3), st.sampled_from(("and", "or"))),
    ),
    max_leaves=5,
)
ORDERS = st.sampled_from(("", "step", *(f"metrics.{name}" for name in METRICS)))


@pytest.mark.parametrize("few", [0, 20, search.FEW], ids=lambda few: f"few-{few}")
def test_a_search_answers_as_a_look_at_everything(
    filled: Registry, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(search, "FEW", few)
    known = everything(filled)

    @given(CONDITIONS, ORDERS, st.booleans(), st.sampled_from((3, 50, 1_000)))
    def holds(asked: Written, order: str, descending: bool, limit: int) -> None:
        direction = "desc" if descending else "asc"
        ending = f" order by {order} {direction}" if order else ""
        found = filled.search(f"{asked.text}{ending} limit {limit}")
        expected = [one for one in known if asked.says(one)]
        if order:
            name = order.removeprefix("metrics.")
            valued = [(one["metrics"].get(name, one.get(name)), one) for one in expected]
            kept = [(value, one) for value, one in valued if value is not None]
            kept.sort(key=lambda pair: -pair[0] if descending else pair[0])
            expected = [one for _, one in kept]

        assert [one.id for one in found] == [one["id"] for one in expected[:limit]]

    holds()


def test_the_answers_are_of_every_length(filled: Registry) -> None:
    every = filled.search("metrics.accuracy > 0 limit 1000")
    none = filled.search("metrics.accuracy > 2")
    ordered = filled.search("metrics.accuracy > 1 and metrics.loss < 0.99 order by metrics.loss")

    assert len(every) > 300
    assert none == []
    assert 0 < len(ordered) < len(every)
