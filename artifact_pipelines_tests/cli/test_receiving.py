"""The inbox on the command line."""

import shutil
from pathlib import Path

from artifact_pipelines_tests.cli.conftest import Command
from artifact_pipelines_tests.registry.test_receiving import RECORDED


def test_a_refused_drop_is_named_and_the_exit_code_says_so(
    command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "inbox" / "p" / "outside"
    run.mkdir(parents=True)
    empty = command("inbox", "scan", str(tmp_path / "inbox"))
    shutil.copytree(RECORDED / "dcp" / "step-10", run / "step-4")
    good = command("inbox", "scan", str(tmp_path / "inbox"), "--json")
    (run / "notes.txt").write_text("hello")
    bad = command("inbox", "scan", str(tmp_path / "inbox"))
    nowhere = command("inbox", "scan", str(tmp_path / "nowhere"))

    assert (empty.code, empty.out) == (0, "The inbox is empty.\n")
    assert good.code == 0
    assert good.json()["drops"] == [
        {
            "path": "p/outside/step-4",
            "layout": "dcp",
            "outcome": "imported",
            "reference": "p/outside@4",
            "said": "p/outside/step-4: p/outside@4.",
        }
    ]
    assert (bad.code, nowhere.code) == (1, 2)
    assert "notes.txt" in bad.out
    assert "make it first" in nowhere.err
