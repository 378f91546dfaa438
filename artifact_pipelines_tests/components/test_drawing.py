"""The pictures of a gate's evidence show every slice, the limits and where they are broken."""

import base64
import re
from xml.etree import ElementTree as ET

from artifact_pipelines.components import drawing
from artifact_pipelines.domain.gate import MetricBound, NoWorse
from artifact_pipelines.gates.case import Measured, Slice
from artifact_pipelines.gates.metrics import bound_finding, no_worse_finding

SVG = "{http://www.w3.org/2000/svg}"


def read(picture: str) -> ET.Element:
    data = base64.b64decode(picture.removeprefix("data:image/svg+xml;base64,"))
    return ET.fromstring(data)  # noqa: S314 (made here)


def texts(picture: str) -> list[str]:
    return [str(found.text) for found in read(picture).iter(f"{SVG}text")]


def bars(picture: str) -> dict[str, int]:
    colours = [found.get("fill") for found in read(picture).iter(f"{SVG}rect")]
    return {
        colour: colours.count(colour) for colour in (drawing._GOOD, drawing._BAD, drawing._IDLE)
    }


def sliced(**values: tuple[float, int]) -> Measured:
    slices = {name: Slice(rows, {"accuracy": value}) for name, (value, rows) in values.items()}
    return Measured({"accuracy": 0.5}, slices={"label": slices})


def test_each_slice_is_a_bar_and_the_worst_comes_first() -> None:
    gate = MetricBound(metric="accuracy", min=0.6, slice="label", min_rows=5)
    finding = bound_finding(gate, sliced(cat=(0.9, 10), dog=(0.4, 20), emu=(0.1, 2)))
    assert finding.evidence is not None
    picture = drawing.slice_bars(finding.evidence)

    assert list(bars(picture).values()) == [1, 1, 1]
    assert texts(picture)[:3] == ["accuracy by label", "dog", "0.400 (20)"]
    assert "0.6" in texts(picture)
    assert len(list(read(picture).iter(f"{SVG}line"))) == 1


def test_production_stands_beside_each_slice() -> None:
    gate = NoWorse(metric="accuracy", no_worse_than="production", slice="label", tolerance=0.1)
    finding = no_worse_finding(
        gate, sliced(cat=(0.9, 9), dog=(0.4, 9)), sliced(cat=(0.9, 9), dog=(0.8, 9))
    )
    assert finding.evidence is not None
    picture = drawing.slice_bars(finding.evidence)

    assert list(bars(picture).values()) == [1, 1, 0]
    assert len(list(read(picture).iter(f"{SVG}line"))) == 2


def test_many_slices_are_drawn_as_far_as_anybody_looks() -> None:
    many = sliced(**{f"s{number}": (number / 100, 3) for number in range(90)})
    finding = bound_finding(MetricBound(metric="accuracy", min=0.5, slice="label"), many)
    assert finding.evidence is not None
    text = drawing.pictures_of(finding.evidence)

    assert "The 40 worst of 90 slices." in text
    assert sum(bars(drawing.slice_bars(finding.evidence)).values()) == 40


def test_a_bootstrap_is_a_histogram_with_its_interval() -> None:
    gate = NoWorse(metric="accuracy", no_worse_than="production", tolerance=0.05)
    mine = Measured({"accuracy": 0.9}, {"accuracy": (1.0,) * 90 + (0.0,) * 10})
    theirs = Measured({"accuracy": 0.8}, {"accuracy": (1.0,) * 80 + (0.0,) * 20})
    finding = no_worse_finding(gate, mine, theirs)
    assert finding.evidence is not None
    picture = drawing.bootstrap_histogram(finding.evidence)
    interval = finding.evidence["bootstrap"]

    assert len(list(read(picture).iter(f"{SVG}rect"))) == 2 + len(interval["histogram"])
    assert {"same", "tolerance", f"{interval['low']:+.4f}", f"{interval['high']:+.4f}"} <= set(
        texts(picture)
    )


def test_names_from_the_data_cannot_leave_the_picture() -> None:
    odd = '</text><script>"&]('
    measured = Measured({}, slices={odd: {odd: Slice(3, {"accuracy": 0.1})}})
    finding = bound_finding(MetricBound(metric="accuracy", min=0.5, slice=odd), measured)
    assert finding.evidence is not None
    text = drawing.pictures_of(finding.evidence)

    assert texts(drawing.slice_bars(finding.evidence))[1].startswith("</text>")
    assert re.fullmatch(r"!\[[^\[\]()]*\]\(data:[^()]*\)", text)


def test_other_evidence_has_no_picture() -> None:
    assert drawing.pictures_of({"files": {"a": "text"}}) == ""
