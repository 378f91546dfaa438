"""Two models side by side."""

import xml.etree.ElementTree as ET
from pathlib import Path

from artifact_pipelines.cli.comparing import sparkline
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import candidate, promoted
from artifact_pipelines_tests.cli.conftest import Command


def test_what_differs_between_two_models_is_told(
    command: Command, registry: Registry, tmp_path: Path
) -> None:
    promoted(registry, "a")
    candidate(registry, "b", seed=2)
    picture = tmp_path / "curves.svg"
    told = command("model", "compare", "digits/v1", "digits/v2", "--json").json()
    text = command("model", "compare", "digits/v1", "digits/v2", "--svg", str(picture)).out

    (seed,) = told["params"]
    assert seed == {"name": "seed", "one": 0, "two": 2, "differs": True}
    assert {row["name"]: row["one"] for row in told["gates"]}["integrity"] == "passed"
    assert told["data"] == [
        {
            "name": "dataset:images",
            "one": "digits/images@1",
            "two": "digits/images@1",
            "differs": False,
        }
    ]
    (curve,) = told["curves"]
    assert curve == {
        "metric": "accuracy",
        "one": [[0, 0.0], [1, 0.1], [2, 0.2]],
        "two": [[0, 0.0], [1, 0.1], [2, 0.2]],
    }
    assert "▁▅█  digits/v1" in text
    assert "+2" in text
    root = ET.fromstring(picture.read_text())  # noqa: S314  written just now
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2


def test_only_models_and_checkpoints_are_compared(command: Command, registry: Registry) -> None:
    promoted(registry, "a")

    assert command("model", "compare", "digits/a@0", "digits/a@2").code == 0
    said = command("model", "compare", "digits/a", "digits/v1")
    assert (said.code, "neither a model nor a checkpoint" in said.err) == (2, True)


def test_a_long_curve_keeps_its_end_and_says_what_is_no_number() -> None:
    curve = tuple((step, float(step)) for step in range(1_000))

    assert sparkline(curve, 0.0, 999.0)[0] == "▁"
    assert sparkline(curve, 0.0, 999.0)[-1] == "█"
    assert len(sparkline(curve, 0.0, 999.0)) <= 41
    assert sparkline(((0, float("nan")), (1, 1.0)), 0.0, 1.0) == "?█"
    assert sparkline((), 0.0, 1.0) == "-"
