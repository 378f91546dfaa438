"""What people say is in the ledger, moves no stage, and can be taken back."""

from pathlib import Path

import pytest

from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.errors import ConfigurationError, ConflictError, UnknownArtifactError
from artifact_pipelines.registry import Registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines.registry.opened import leaf_key
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT


def test_an_alias_names_a_model_and_is_no_stage(registry: Registry) -> None:
    first = building.promoted(registry, "run-1")
    second = building.candidate(registry, "run-2", seed=2)
    registry.set_alias(first.reference, "champion", "it won")
    registry.set_alias(second.reference, "shadow")
    registry.set_alias(second.reference, "champion")

    assert registry.find("digits@champion") == second
    assert registry.aliases(PROJECT) == {"champion": second, "shadow": second}
    with pytest.raises(UnknownArtifactError, match="an alias carries no proof"):
        registry.resolve("digits@champion")
    for name in ("production", "staging"):
        with pytest.raises(ConflictError, match="is a stage"):
            registry.set_alias(second.reference, name)
    with pytest.raises(UnknownArtifactError, match="no model"):
        registry.set_alias("digits/run-1@0", "best")
    registry.remove_alias(PROJECT, "shadow")
    with pytest.raises(UnknownArtifactError, match="no alias"):
        registry.remove_alias(PROJECT, "shadow")
    assert registry.resolve("digits@production").model == first
    registry.sign_head()


def test_a_tag_has_one_value_and_every_former_one_is_in_the_ledger(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")
    for value in ("draft", "final", "final", None):
        registry.tag(model.reference, "status", value, "because")

    said = [event.body["value"] for event in registry.ledger(action="tag") if event.body]
    assert registry.tags(model.id) == {}
    assert said == ["draft", "final", None]
    with pytest.raises(ConfigurationError, match="characters"):
        registry.tag(model.reference, "status", " ")


def test_notes_and_banners_say_who_when_and_why(registry: Registry) -> None:
    model = building.candidate(registry, "run-1")
    registry.annotate(model.reference, "looks odd at night", "seen in the logs")
    registry.set_banner(PROJECT, "frozen until Monday")
    registry.set_banner(model.reference, "do not use")
    (note,) = registry.annotations(model.id)

    assert (note.text, note.reason, note.actor) == (
        "looks odd at night",
        "seen in the logs",
        "tester",
    )
    assert [banner.text for banner in registry.banners(model)] == [
        "frozen until Monday",
        "do not use",
    ]
    registry.set_banner(PROJECT, None)
    assert registry.banner(PROJECT) is None


def test_what_is_erased_leaves_everything_verifiable(registry: Registry, tmp_path: Path) -> None:
    model = building.promoted(registry, "run-1")
    run = registry.start_run(PROJECT, "run-9", annex={"host": "secret-host"})
    registry.annotate(model.reference, "Eve called about it")
    registry.set_banner(model.reference, "ask Ann")
    registry.set_banner(model.reference, "ask Eve")
    note, *_, banner = [
        event.seq for event in registry.ledger() if event.action in {"annotate", "banner_set"}
    ]
    registry.erase_body(note, "asked for")
    registry.erase_body(banner, "asked for")
    registry.erase_body(banner, "asked for again")
    registry.erase_annex(run.reference, "asked for")
    registry.erase_actor("tester", "asked for")
    registry.sign_head()
    report = registry.verify_ledger()
    bundle = registry.export_bundle("digits@production", tmp_path / "bundle")

    assert report.problems == ()
    assert report.redacted == (note, banner)
    assert bundle.report["ok"]
    assert bundle.report["redacted"] == [note, banner]
    assert registry.annotations(model.id) == registry.banners(model) == []
    assert registry.annex(run) is None
    assert "tester" not in {event.actor for event in registry.ledger(action="promote")}
    kept = b"".join(
        registry.store.backend.get(key) for key in registry.store.backend.keys("leaves/")
    )
    assert b"Eve" not in kept
    url = f"sqlite:///{tmp_path / 'again.db'}"
    registry.rebuild(url)
    again = Catalog(url)
    assert again.read(facts) == registry.catalog.read(facts)
    again.close()


def test_what_decides_is_not_erased_and_a_missing_body_is_noticed(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    (promotion,) = registry.ledger(action="promote")
    with pytest.raises(ConflictError, match="decides something"):
        registry.erase_body(promotion.seq, "to hide it")
    with pytest.raises(UnknownArtifactError, match="no leaf 999"):
        registry.erase_body(999, "x")
    with pytest.raises(UnknownArtifactError, match="nobody called"):
        registry.erase_actor("nobody", "x")
    registry.annotate(model.reference, "a word")
    (note,) = registry.ledger(action="annotate")
    registry.catalog.write(
        lambda tx: tx.conn.exec_driver_sql(f"update leaf set body = null where seq = {note.seq}")
    )

    assert any("no leaf says so" in said for said in registry.verify_ledger().problems)
    assert registry.store.backend.size(leaf_key(note.seq))


def test_the_ledger_is_read_by_subject_actor_action_and_time(registry: Registry) -> None:
    model = building.promoted(registry, "run-1")
    (move,) = registry.ledger(action="promote")
    later = [event.seq for event in registry.ledger(since=move.time, limit=1000)]
    before = [event.seq for event in registry.ledger(until=move.time, limit=1000)]

    assert min(later) == move.seq == max(before)
    assert {event.subject for event in registry.ledger(subject=model.id)} == {model.id}
    assert registry.ledger(actor="somebody") == []
    assert len(registry.ledger(actor="tester", limit=5)) == 5
    assert len(registry.ledger(actor=registry.actor, limit=5)) == 5
