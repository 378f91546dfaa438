"""Other scanners have a vote: each may refuse what this project's own reading lets through."""

from pathlib import Path
from typing import Any

import pytest

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.gates.case import Case
from artifact_pipelines.gates.sandbox import Sandbox
from artifact_pipelines.gates.scanning import safety_gate, scan
from artifact_pipelines_tests.gates.test_pickles import by_global
from artifact_pipelines_tests.gates.test_safety import BENIGN, zipped


def case(folder: Path, sandbox: Sandbox, *scanners: str) -> Case:
    gate = {"formats": ["text", "json", "npz"], "scanners": list(scanners)}
    never: Any = lambda *_: pytest.fail("no gate asked for it")  # noqa: E731
    return Case(
        policy=Policy.of({"gates": [gate]}),
        model=folder,
        damaged=(),
        digests={},
        evaluation=None,
        baseline=never,
        dataset=never,
        ancestry=never,
        layout=never,
        sandbox=sandbox,
    )


def test_a_scanner_that_finds_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("A card.")
    with Sandbox(60, 10**9) as sandbox:
        finding = safety_gate(case(tmp_path, sandbox, "picklescan"))

    assert finding.passed
    assert finding.reasons == ("1 files, all of text; picklescan finds nothing",)
    assert finding.evidence is not None
    assert finding.evidence["picklescan"] == {}


def test_both_say_why_they_refuse(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(by_global("os", "system"))
    with Sandbox(60, 10**9) as sandbox:
        finding = safety_gate(case(tmp_path, sandbox, "picklescan"))

    assert not finding.passed
    assert any("weights.bin: asks for os.system" in reason for reason in finding.reasons)
    assert "picklescan suspects weights.bin: it asks for os.system" in finding.reasons


def test_a_scanner_alone_can_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from artifact_pipelines.domain.verdict import Finding
    from artifact_pipelines.gates import scanning

    (tmp_path / "model.json").write_bytes(by_global("os", "system"))
    blind = Finding("safety", True, ("fine",), {}, {"files": {"model.json": "json"}})
    monkeypatch.setattr(scanning, "safety_finding", lambda *_: blind)
    with Sandbox(60, 10**9) as sandbox:
        finding = safety_gate(case(tmp_path, sandbox, "picklescan"))

    assert finding.reasons == ("picklescan suspects model.json: it asks for os.system",)


@pytest.mark.parametrize("kind, data", BENIGN.values(), ids=BENIGN)
def test_plain_files_are_suspected_by_none(kind: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)

    assert scan("picklescan", str(tmp_path), {"file": kind}) == {}


def test_what_a_scanner_cannot_read_is_suspect(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(by_global("os", "system")[:-1] + b"\xff")
    (tmp_path / "b").write_bytes(zipped({"c.pkl": by_global("os", "system")}))
    found = scan("picklescan", str(tmp_path), {"a": "unknown", "b": "zip", "gone": "text"})

    assert found.keys() == {"a", "b", "gone"}
    assert found["gone"] == "it raised FileNotFoundError"


def test_a_scanner_that_is_not_installed_fails_the_gate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install 'artifact-pipelines\[scan\]'"):
        scan("no_such_scanner", str(tmp_path), {})
