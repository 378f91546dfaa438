"""A witness keeps heads out of the operators' reach, and shows both where the log forks."""

import shutil
from pathlib import Path

import pytest

from artifact_pipelines.domain.signing import cosigned_at, open_head
from artifact_pipelines.errors import LedgerError
from artifact_pipelines.registry import open_registry
from artifact_pipelines.registry.witnessing import Witness
from artifact_pipelines_tests import building


def test_a_witness_cosigns_what_continues(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", "w.example")
    with open_registry(tmp_path / "home", actor="tester") as registry:
        with pytest.raises(LedgerError, match="no signed tree head"):
            witness.observe(registry, 1)
        building.promoted(registry, "run-1")
        first = witness.observe(registry, 100)
        again = witness.observe(registry, 200)
        building.promoted(registry, "run-2", seed=2)
        second = witness.observe(registry, 300)
        key = witness.keys.load("witness").public

        assert (first.cosigned, again.cosigned, second.cosigned) == (True, False, True)
        assert [cosigned_at(found.note, "w.example", key) for found in (first, second)] == [
            100,
            300,
        ]
        assert open_head(second.note, "log", registry.log_key()) == second.head
    with pytest.raises(LedgerError, match="no valid cosignature"):
        cosigned_at(second.note.replace("digits", "x")[:-9] + "AAAAAAAA\n", "w.example", key)


def test_a_log_that_was_written_anew_is_refused_with_both_heads(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", "w.example")
    with open_registry(tmp_path / "home", actor="tester") as registry:
        building.dataset(registry)
        registry.sign_head()
    shutil.copytree(tmp_path / "home", tmp_path / "fork")
    with open_registry(tmp_path / "home", actor="tester") as registry:
        building.dataset(registry, rows=7)
        registry.sign_head()
        witness.observe(registry, 100)
    with open_registry(tmp_path / "fork", actor="tester") as forked:
        building.dataset(forked, rows=8)
        forked.sign_head()
        with pytest.raises(LedgerError, match="does not continue"):
            witness.observe(forked, 200)
        building.dataset(forked, rows=9)
        forked.sign_head()
        with pytest.raises(LedgerError, match="does not continue"):
            witness.observe(forked, 300)

    pairs = sorted((tmp_path / "witness" / "evidence").iterdir())
    assert len(pairs) == 2
    assert all((pair / "seen").read_text() != (pair / "shown").read_text() for pair in pairs)


def test_a_witness_is_told_of_a_rotated_key(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", "w.example")
    with open_registry(tmp_path / "home", actor="tester") as registry:
        building.promoted(registry, "run-1")
        witness.observe(registry, 100)
        registry.rotate_log_key()
        with pytest.raises(LedgerError, match="no valid signature"):
            witness.observe(registry, 200)
        found = witness.observe(registry, 300, registry.log_key().hex)
        building.dataset(registry, rows=9)
        registry.sign_head()

        assert found.cosigned
        assert witness.observe(registry, 400).cosigned


def test_another_log_is_refused(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness", "w.example")
    for home in ("one", "two"):
        with open_registry(tmp_path / home, actor="tester") as registry:
            registry.sign_head()
            if home == "one":
                witness.observe(registry, 100)
                continue
            with pytest.raises(LedgerError, match="this witness keeps"):
                witness.observe(registry, 200, registry.log_key().hex)
