"""`search` on the command line: what it shows of an answer, and of none."""

from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import run
from artifact_pipelines_tests.cli.conftest import Command


def test_the_metrics_that_are_asked_for_are_shown(command: Command, registry: Registry) -> None:
    run(registry, "a")
    found = command("search", "metrics.accuracy >= 0.2 order by metrics.accuracy")
    all_of_them = command("search", "kind = checkpoint")

    assert found.code == 0
    assert "accuracy 0.2" in found.out
    assert "digits/a@2" in all_of_them.out


def test_an_empty_answer_says_which_name_nothing_has(command: Command, registry: Registry) -> None:
    run(registry, "a")
    found = command("search", "metrics.acuracy > 0.5")
    known = command("search", "metrics.accuracy > 5")

    assert (found.code, known.code) == (0, 0)
    assert found.out == (
        "Nothing is found by that. Nothing has metrics.acuracy; did you mean metrics.accuracy?\n"
    )
    assert known.out == "Nothing is found by that.\n"


def test_a_value_that_a_field_never_has_is_wrong(command: Command) -> None:
    said = command("search", "kind = banana")

    assert said.code == 2
    assert "at character 8: kind is one of dataset, training_run, checkpoint, model" in said.err
