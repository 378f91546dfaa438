"""What a person finds in the real UI, with the eyes of a real browser."""

from collections.abc import Iterator

import pytest

from artifact_pipelines_tests.ui.browser import Page, demonstrated, missing, page

pytestmark = [
    pytest.mark.ui,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with demonstrated(tmp_path_factory.mktemp("ui")) as found:
        yield found


@pytest.fixture
def seen(address: str) -> Iterator[Page]:
    with page(address) as found:
        yield found


def test_the_graph_is_drawn(seen: Page) -> None:
    seen.graph()

    for asset in ("images", "checkpoints", "candidate", "staging", "retention_plan", "cleanup"):
        assert seen.tab.get_by_text(asset, exact=True).first.is_visible(), asset


def test_a_runs_checkpoints_are_a_table(seen: Page) -> None:
    seen.checkpoints("baseline")

    for text in ("accuracy", "worst_class_recall", "360"):
        assert seen.tab.get_by_text(text, exact=True).first.is_visible(), text


def test_a_runs_metrics_are_a_curve(seen: Page) -> None:
    seen.curve("baseline")

    drawn = seen.tab.locator("img[alt='accuracy by step']")
    assert drawn.evaluate("image => image.complete && image.naturalWidth > 100")


def test_a_failed_gate_says_why(seen: Page) -> None:
    seen.failed_gate("worst_class_recall_min")
    seen.wait("is below 0.7")

    assert seen.tab.get_by_text("narrow", exact=True).first.is_visible()
    seen.open("/assets/digits/candidate?view=partitions&partition=narrow", "failed at ")


def test_a_promotion_that_nobody_approved_is_refused_with_the_command_to_use(seen: Page) -> None:
    seen.materialize_production()
    seen.wait("0 of 1 approvals", "artifact-pipelines model approve digits/v4 --stage production")
