"""The storage report adds up."""

from typing import Any

from artifact_pipelines.defs.upkeep import picture
from artifact_pipelines.registry import Registry
from artifact_pipelines_tests.building import PROJECT, trained


def adds_up(report: dict[str, Any]) -> bool:
    """Return whether what is stored and what was saved are everything that was published."""
    saved, totals = report["saved"], report["totals"]
    slimmed = saved["rules"].get("slim", 0)
    won = saved["deduplication"] + saved["compression"] + saved["tier"] - saved["overhead"]
    return bool(totals["logical_bytes"] - slimmed == totals["stored_bytes"] + won)


def test_a_new_run_saves_nothing_and_adds_up(registry: Registry) -> None:
    trained(registry)
    report = registry.storage_report()

    assert adds_up(report)
    assert report["saved"]["compression"] == report["saved"]["tier"] == 0
    assert [row["run"] for row in report["runs"]] == ["run-1"]
    assert report["runs"][0]["logical_bytes"] == report["totals"]["logical_bytes"]


def test_what_is_shared_counts_as_deduplicated(registry: Registry) -> None:
    trained(registry, "run-1", steps=4, frozen=True)
    report = registry.storage_report()

    assert adds_up(report)
    assert report["saved"]["deduplication"] >= 3 * 64 * 64 * 4


def test_archiving_and_slimming_show_where_they_save(registry: Registry) -> None:
    made = trained(registry, steps=4)
    registry.archive([found.reference for found in made])
    registry.slim(made[0].reference, reason="small")
    registry.compact(threshold=1.0)
    registry.prune(grace=0)
    report = registry.storage_report()

    assert adds_up(report)
    assert report["saved"]["tier"] > 0
    assert report["saved"]["compression"] > 0
    (optimizer,) = [entry.size for entry in registry.files(made[0].id) if "optimizer" in entry.path]
    assert report["saved"]["rules"] == {"slim": optimizer}


def test_what_a_rule_forgot_is_named(registry: Registry) -> None:
    made = trained(registry)
    body = {"project": PROJECT, "plan": None, "rule": "old", "reason": "y", "approver": "z"}
    registry.append("forget", made[0].id, body)
    registry.prune(grace=0)
    report = registry.storage_report()

    assert adds_up(report)
    assert report["saved"]["rules"] == {"old": made[0].size}
    assert f"given up by old | {made[0].size / 1e6:,.2f}" in picture(report)


def test_the_picture_of_an_empty_registry_has_no_bars(registry: Registry) -> None:
    assert "█" not in picture(registry.storage_report())
