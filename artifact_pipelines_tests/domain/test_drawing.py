"""A lineage is drawn whole, in the right direction, and cannot be broken by a name."""

import re
import xml.etree.ElementTree as ET

from artifact_pipelines.domain.drawing import Arrow, Drawing, Spot

DATA = Spot("d", "p/images@1", "dataset", "live")
RUN = Spot("r", 'p/"<run>"', "training_run", "live")
STEPS = [Spot(f"c{n}", f"p/run@{n}", "checkpoint", "live", run="r") for n in range(5)]
MODEL = Spot("m", "p/v1", "model", "forgotten")


def drawing() -> Drawing:
    arrows = [
        Arrow("r", "d", "dataset:images", "observed"),
        Arrow("m", "c4", "checkpoint", "observed"),
        Arrow("m", "d", "evaluation:images", "declared"),
        *(Arrow(step.id, "r", "run", "observed") for step in STEPS),
        *(Arrow(f"c{n + 1}", f"c{n}", "parent", "observed") for n in range(4)),
    ]
    spots = {spot.id: spot for spot in (DATA, RUN, *STEPS, MODEL)}
    return Drawing("m", spots, tuple(arrows))


def test_the_checkpoints_of_a_run_that_lead_nowhere_are_one() -> None:
    folded = drawing().folded()

    assert sorted(spot.label for spot in folded.spots.values()) == [
        'p/"<run>"',
        "p/images@1",
        "p/run: 4 checkpoints",
        "p/run@4",
        "p/v1",
    ]
    assert not any(arrow.child == arrow.parent for arrow in folded.arrows)


def test_a_tree_shows_each_branch_once() -> None:
    assert drawing().folded().tree() == [
        "p/v1 [forgotten]",
        "├─ checkpoint: p/run@4",
        "│  ├─ parent: p/run: 4 checkpoints",
        '│  │  └─ run: p/"<run>"',
        "│  │     └─ dataset:images: p/images@1",
        '│  └─ run: p/"<run>" (above)',
        "└─ evaluation:images (declared): p/images@1",
    ]


def test_a_tree_can_go_down() -> None:
    found = Drawing("d", drawing().spots, drawing().arrows).folded().tree(down=True)

    assert found[0] == "p/images@1"
    assert found[1] == '├─ dataset:images: p/"<run>"'
    assert any("p/v1 [forgotten]" in line for line in found)


def test_a_chain_of_thousands_is_a_tree_too() -> None:
    spots = {str(n): Spot(str(n), f"p/run@{n}", "checkpoint", "live") for n in range(5000)}
    arrows = tuple(Arrow(str(n + 1), str(n), "parent", "observed") for n in range(4999))

    assert len(Drawing("4999", spots, arrows).tree()) == 5000


def test_a_graph_quotes_what_graphviz_would_read() -> None:
    text = drawing().dot()

    assert text.startswith("digraph lineage {")
    assert r'"r" [label="p/\"<run>\"", fillcolor="#fef3c7"];' in text
    assert '"d" -> "m" [label="evaluation:images (declared)", style=dashed];' in text


def test_a_picture_is_sound_and_says_itself_in_words() -> None:
    root = ET.fromstring(drawing().svg())  # noqa: S314 (our own)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    space = "{http://www.w3.org/2000/svg}"

    assert root.findtext(f"{space}title") == "The lineage of p/v1"
    assert "p/v1 was made from p/run@4 as checkpoint" in (root.findtext(f"{space}desc") or "")
    assert 'p/"<run>"' in texts
    columns = {spot.get("x") for spot in root.iter(f"{space}rect") if spot.get("x")}
    assert len(columns) == 8


def test_an_arrow_over_several_columns_passes_behind_no_box() -> None:
    space = "{http://www.w3.org/2000/svg}"
    root = ET.fromstring(drawing().svg())  # noqa: S314 (our own)
    boxes = [one for one in root.iter(f"{space}rect") if one.get("x")]
    rows = [(int(one.get("y", 0)), int(one.get("height", 0))) for one in boxes]
    long = [one for path in root.iter(f"{space}path") if "H" in (one := path.get("d", ""))]
    lanes = [int(re.findall(r"(\d+) H", one)[0]) for one in long]

    assert len(lanes) == 5
    assert not [lane for lane in lanes for top, height in rows if top <= lane <= top + height]
    assert max(lanes) < int(root.get("height", 0))
