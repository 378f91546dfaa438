"""Queries find artifacts by what they are, what they were made with and what was said of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.record import Input
from artifact_pipelines.errors import QueryError, UnknownArtifactError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines_tests import building


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry with three runs on two datasets, on each database."""
    url = None
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").database()
    home = tmp_path_factory.mktemp("home")
    with open_registry(home, catalog_url=url, actor="tester") as opened:
        fill(opened)
        yield opened


def fill(registry: Registry) -> None:
    first, second = building.dataset(registry, 3), building.dataset(registry, 4)
    for name, lr, data, numpy in (
        ("slow", 0.001, first, "1.26.4"),
        ("fast", 0.1, second, "2.4.6"),
        ("schief", 0.01, second, "2.10.0"),
    ):
        lock = f"numpy=={numpy}\n".encode()
        run = registry.start_run(
            "digits",
            name,
            params={"lr": lr, "net": {"hidden": 48, "kind": "mlp"}, "größe": 7, "deep": True},
            inputs=[Input("dataset:images", data.id)],
            code={"commit": digest.sha256(name.encode())[:40]},
            files={"environment.txt": lock},
            facts={"packages": {"numpy": numpy}},
        )
        for step in (1, 2):
            metrics = {"loss": lr * step, "accuracy": 1 - lr, "val/acc": float("nan")}
            registry.publish_checkpoint(
                run,
                {"model.safetensors": building.tensors(step + int(lr * 1e4))},
                step=step,
                facts={"metrics": metrics},
            )
        registry.finish_run(run, "finished" if name != "fast" else "failed", "")
    model = registry.publish_model(registry.find("digits/slow@2"))
    registry.append("tag", model.id, {"project": "digits", "name": "team", "value": "vision"})
    registry.annotate(model.id, "Reads Größen well; übermäßig careful.")


def found(registry: Registry, query: str) -> list[str]:
    return [artifact.reference for artifact in registry.search(query)]


@pytest.mark.parametrize(
    "query,expected",
    [
        ("kind = dataset order by version", ["digits/images@1", "digits/images@2"]),
        (
            'metrics.accuracy > 0.93 and params.lr < 0.05 and dataset = "digits/images@2" order by metrics.loss',  # noqa: E501
            ["digits/schief@1", "digits/schief@2"],
        ),
        (
            "metrics.accuracy > 0.95 order by metrics.loss desc limit 2",
            ["digits/schief@2", "digits/schief@1"],
        ),
        ("metrics.accuracy > 0.995 and kind = model", ["digits/v1"]),
        ("metrics.val/acc = nan and step = 1 and name = slow", ["digits/slow@1"]),
        ("metrics.val/acc > 0", []),
        (
            "params.net.hidden = 48 and params.größe = 7 and name = fast and step = 2",
            ["digits/fast@2"],
        ),
        ('params.net.kind = "mlp" and kind = model', ["digits/v1"]),
        ("params.deep = true and kind = training_run and name ~ SCH", ["digits/schief"]),
        ("packages.numpy < 2.0 and kind = training_run", ["digits/slow"]),
        ("packages.numpy > 2.9 and kind = training_run", ["digits/schief"]),
        ('package = "NumPy==2.4.6" and kind = training_run', ["digits/fast"]),
        ("package != 'numpy==2.4.6' and kind = training_run and name = slow", ["digits/slow"]),
        ("run_state = failed and kind = training_run", ["digits/fast"]),
        ("tags.team = vision", ["digits/v1"]),
        ('"größen"', ["digits/v1"]),
        ('"careful reads"', ["digits/v1"]),
        ('"mlp" and kind = training_run and not name in (slow, fast)', ["digits/schief"]),
        ("kind = checkpoint and (name = slow or name = fast) and step = 2 order by name",
         ["digits/fast@2", "digits/slow@2"]),
        ("dataset = digits/images@1 and kind != checkpoint order by kind",
         ["digits/v1", "digits/slow"]),
        ("recalled = true", []),
        ("'; drop table artifact; --'", []),
        ("name = '%'", []),
    ],
)  # fmt: skip
def test_a_query_finds(registry: Registry, query: str, expected: list[str]) -> None:
    assert found(registry, query) == expected


def test_nothing_asked_is_everything_newest_first(registry: Registry) -> None:
    everything = found(registry, "")

    assert everything[0] == "digits/v1"
    assert len(everything) == 12


def test_an_error_of_meaning_points_at_the_place_too(registry: Registry) -> None:
    with pytest.raises(QueryError, match="recalled is true or false") as caught:
        registry.search("kind = model and recalled > 3")
    assert caught.value.place == 28

    with pytest.raises(QueryError, match="has no order"):
        registry.search("kind = model order by tags.team")
    with pytest.raises(UnknownArtifactError, match="digits/images@9"):
        registry.search("dataset = digits/images@9")


def test_a_note_that_was_erased_is_not_found(registry: Registry) -> None:
    registry.annotate("digits/slow", "Unheard-of xylophones.")
    (note,) = registry.annotations(registry.find("digits/slow").id)
    before = found(registry, '"xylophones"')
    registry.erase_body(note.seq, "asked for")

    assert before == ["digits/slow"]
    assert found(registry, '"xylophones"') == []


def test_what_is_looked_for_outlives_the_catalog(registry: Registry, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'again.db'}"
    registry.rebuild(url)
    again = Catalog(url)

    assert again.read(facts) == registry.catalog.read(facts)
    again.close()


def test_a_query_does_not_read_every_metric(registry: Registry) -> None:
    if registry.catalog.url.get_backend_name() != "sqlite":
        pytest.skip("the plans of a small table on Postgres say nothing")
    plans: list[str] = []

    def explain(
        _conn: object, cursor: object, statement: str, parameters: object, *_: object
    ) -> None:
        if "FROM metric" in statement and not statement.startswith("EXPLAIN"):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[attr-defined]
            plans.extend(str(row[-1]) for row in rows)

    import sqlalchemy as sa

    sa.event.listen(registry.catalog.engine, "before_cursor_execute", explain)
    registry.search("metrics.accuracy > 0.5")
    sa.event.remove(registry.catalog.engine, "before_cursor_execute", explain)

    assert any("ix_metric_project_kind_name_value" in plan for plan in plans), plans
    assert not any(plan.startswith("SCAN metric") for plan in plans), plans


def test_a_number_is_neither_before_nor_after_a_word(registry: Registry) -> None:
    assert registry.search("params.lr < fast") == []
    assert registry.search("params.net.kind < zzz and kind = training_run")


@pytest.mark.parametrize(
    "query, said",
    [
        ("metrics.acuracy > 1", ["nothing has metrics.acuracy; did you mean metrics.accuracy?"]),
        ("metrics.accuracy > 2", []),
        ("params.hiden > 1", ["nothing has params.hiden."]),
        ("tags.taem = x", ["nothing has tags.taem; did you mean tags.team?"]),
        ("packages.nunpy > 1", ["nothing has packages.nunpy; did you mean packages.numpy?"]),
        ("facts.zzz = 1 and step = 1", ["nothing has facts.zzz."]),
        ("kind = model and step = 9", []),
        (
            "kind = model order by metrics.losss",
            ["nothing has metrics.losss; did you mean metrics.loss?"],
        ),
    ],
)
def test_a_name_that_nothing_has_is_told_with_what_is_like_it(
    registry: Registry, query: str, said: list[str]
) -> None:
    assert registry.search(query) == []
    assert registry.unheard(query) == said
