"""The query language: what it reads, and how it points at what it cannot read."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact_pipelines.domain.query import (
    All,
    Any,
    Comparison,
    Field,
    Not,
    Query,
    Words,
    fields,
    parse,
)
from artifact_pipelines.errors import QueryError


def test_the_example_of_the_manual() -> None:
    found = parse(
        'metrics.accuracy > 0.93 and params.lr < 0.01 and dataset = "digits/images@2" '
        "order by metrics.loss"
    )

    assert found == Query(
        All(
            (
                Comparison(Field("metrics", "accuracy", 0), ">", (0.93,), 19),
                Comparison(Field("params", "lr", 28), "<", (0.01,), 40),
                Comparison(Field("dataset", None, 49), "=", ("digits/images@2",), 59),
            )
        ),
        Field("metrics", "loss", 86),
        descending=False,
        limit=None,
    )


def test_and_binds_tighter_than_or_and_brackets_tightest() -> None:
    found = parse("kind = model or not (step > 3 or step = 1) and name ~ run").where

    assert isinstance(found, Any)
    second = found.parts[1]
    assert isinstance(second, All)
    assert isinstance(second.parts[0], Not)
    assert isinstance(second.parts[0].part, Any)


def test_names_may_be_of_any_script_or_quoted() -> None:
    found = parse('metrics.größe >= 1 and params."lr/warm up" = 2 and tags.名前 = "値"').where

    assert isinstance(found, All)
    assert [part.field.name for part in found.parts if isinstance(part, Comparison)] == [
        "größe",
        "lr/warm up",
        "名前",
    ]


def test_words_lists_orders_and_limits() -> None:
    found = parse('"cat \\"dog\\"" and kind in (model, checkpoint) order by step desc limit 5')

    assert found.where == All(
        (
            Words('cat "dog"'),
            Comparison(Field("kind", None, 18), "=", ("model", "checkpoint"), 27),
        )
    )
    assert (found.descending, found.limit) == (True, 5)
    assert parse("") == Query(None, None, False, None)
    assert isinstance(parse("kind not in (model)").where, Not)


def test_versions_and_tags_are_texts_even_where_they_look_like_numbers() -> None:
    found = parse("packages.numpy < 2.0 and tags.seed = 3").where

    assert isinstance(found, All)
    assert [part.values for part in found.parts if isinstance(part, Comparison)] == [
        ("2.0",),
        ("3",),
    ]


@pytest.mark.parametrize(
    "text,place,said",
    [
        ("metrics.accuracy >", 18, "expected a value"),
        ("metrics.accuracy 0.9", 17, "expected one of = !="),
        ("accuracy > 0.9", 0, "there is no field 'accuracy'"),
        ("metrics > 0.9", 0, "a name must follow: metrics.name"),
        ("kind = model model", 13, "'model' was not expected here"),
        ('name = "run', 7, "a quote is not closed"),
        ("kind = model; drop table artifact", 12, "';' means nothing"),
        ("(kind = model", 13, r"expected '\)'"),
        ("metrics.loss > many", 15, "metrics is compared with a number"),
        ("kind = banana", 7, "kind is one of dataset, training_run, checkpoint, model"),
        ("kind in (model, 'training run')", 16, "kind is one of dataset"),
        ("state != retired", 9, "state is one of live, forgotten"),
        ("run_state = ended", 12, "run_state is one of running, finished, failed"),
        ("published > yesterday", 12, "a date such as 2026-11-28"),
        ("kind = model limit 0", 19, "a limit is a whole number"),
        ("kind = model order step", 19, "expected 'by'"),
        ("and kind = model", 0, "expected a field"),
        ("(" * 60, 50, "nested deeper"),
    ],
)
def test_an_error_points_at_the_place(text: str, place: int, said: str) -> None:
    with pytest.raises(QueryError, match=said) as caught:
        parse(text)

    assert caught.value.place == place
    assert str(caught.value).endswith(f"\n  {' ' * place}^")


def test_a_part_of_a_value_or_date_is_enough_where_it_is_looked_for() -> None:
    assert parse("kind ~ run and published > 2026 and published < '2026-11-28T10:00'").where


def test_every_field_is_named_in_order() -> None:
    found = fields(parse("metrics.a > 1 and not (tags.b = c or 'words') order by params.d"))

    assert [(one.group, one.name) for one in found] == [
        ("metrics", "a"),
        ("tags", "b"),
        ("params", "d"),
    ]


@given(st.text(alphabet=string.printable + "äß名", max_size=60))
def test_any_text_is_a_query_or_an_error_with_a_place_in_it(text: str) -> None:
    error = None
    try:
        parse(text)
    except QueryError as found:
        error = found

    assert error is None or 0 <= error.place <= len(text)
