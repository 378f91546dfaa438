"""A plan read column by column says what a plan read artifact by artifact says."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.retention import Decision, Item
from artifact_pipelines.registry import Registry, surveying
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.domain import plainly

POLICIES: dict[str, dict[str, Any]] = {
    "the least": {},
    "ages": {"keep": {"last": 1}, "archive_after": "0s", "slim_after": "0s"},
    "ranks": {
        "keep": {"last": 0, "best": {"metric": "loss", "mode": "min", "count": 2}, "final": True},
        "forget_after": "0s",
    },
    "rules": {
        "keep": {"last": 1, "best": 0},
        "forget_after": "0s",
        "rules": [
            {"tag": "golden", "forget_after": "never"},
            {"tag": "tier=gold", "keep": {"last": 0, "best": 2}},
            {"stage": "production", "keep": {"last": 5}},
            {"state": "production-ready", "keep": {"best": 3}},
            {"kind": "model", "keep": {"last": 1, "best": {"metric": "accuracy"}}},
            {"kind": "dataset", "forget_after": "0s", "keep": {"last": 1}},
        ],
    },
    "bytes": {"keep": {"last": 1, "best": 0}, "max_bytes": "20kB"},
}


def populate(registry: Registry) -> None:
    """Fill a registry with one of everything that a policy may ask about."""
    building.promoted(registry, "run-1")
    building.candidate(registry, "run-2", seed=2)
    run = registry.start_run(PROJECT, "run-3")
    for step, loss in ((9, 0.5), (10, 0.25), (100, 0.25), (50, float("nan"))):
        files = {"model.bin": b"%d" % step, "optimizer.bin": b"o" * 3_000}
        facts = {"metrics": {"loss": loss, "accuracy": 1 - loss}}
        registry.publish_checkpoint(run, dict(files), step=step, facts=facts)
    registry.tag("digits/run-2@0", "golden", "yes")
    registry.tag("digits/run-2@1", "tier", "gold")
    registry.tag("digits/run-1@0", "tier", "silver")
    registry.place_hold("digits/run-3@9", "case", "asked for")
    registry.slim("digits/run-3@10", reason="small")
    registry.archive(["digits/run-1@1"])


def plain(registry: Registry, policy: Policy) -> dict[str, Decision]:
    """Return what a policy decides, every fact asked for one artifact at a time."""
    held = registry.held()
    artifacts = [
        one
        for one in (
            *registry.datasets(PROJECT),
            *(run.artifact for run in registry.runs(PROJECT)),
            *registry.checkpoints(PROJECT),
            *registry.models(PROJECT),
        )
        if one.state == "live"
    ]
    items = [_item(registry, one, policy, held) for one in artifacts]
    today = datetime.fromtimestamp(registry.catalog.read(now), UTC)
    return {
        found.id: found for found in plainly.plan(items, policy.retention, policy.select, today)
    }


def _item(registry: Registry, one: Artifact, policy: Policy, held: Mapping[str, list[str]]) -> Item:
    def rows(table: sa.Table, **where: str) -> list[Any]:
        clauses = [table.c[name] == value for name, value in where.items()]
        return registry.catalog.read(
            lambda conn: list(conn.execute(sa.select(table).where(*clauses)))
        )

    models = [row.child for row in rows(tables.edge, parent=one.id, role="checkpoint")]
    judged = [rows(tables.verdict, artifact=it, policy=policy.digest) for it in (one.id, *models)]
    files = [row for row in rows(tables.artifact_file, artifact=one.id) if row.state != "removed"]
    own = registry.checkpoints(PROJECT, one.name) if one.kind == "checkpoint" else []
    runs = {run.artifact.name: run.state for run in registry.runs(PROJECT)}
    return Item(
        one.id,
        one.kind,
        one.name,
        one.version if one.step is None else one.step,
        datetime.fromisoformat(one.published),
        one.metrics,
        tuple(held.get(one.id, ())),
        sum(row.size for row in files),
        sum(row.size for row in files if row.path.startswith("optimizer.")),
        one.tier == "cold",
        bool(own) and own[-1].id == one.id and runs.get(one.name) == "finished",
        any(
            set(policy.required()) <= {row.gate for row in found if row.passed}
            and all(row.passed for row in found)
            for found in judged
            if found
        ),
        frozenset(
            row.stage for it in (one.id, *models) for row in rows(tables.stage_history, artifact=it)
        ),
        registry.tags(one.id),
    )


@pytest.mark.parametrize("name", POLICIES)
def test_columns_decide_what_single_artifacts_decide(registry: Registry, name: str) -> None:
    populate(registry)
    policy = Policy.of({**building.POLICY.document(), "retention": POLICIES[name]})
    expected = plain(registry, policy)
    found = registry.decisions(PROJECT, policy, expected)

    assert found == expected
    assert {item.artifact: item.action for item in registry.plan_items(PROJECT, policy)} == {
        one: str(decision.action) for one, decision in expected.items()
    }


def test_what_is_due_adds_up_to_the_plan(registry: Registry) -> None:
    populate(registry)
    document = {**building.POLICY.document(), "retention": POLICIES["ages"]}
    registry.set_policy(PROJECT, Policy.of(document))

    assert registry.due() == {PROJECT: registry.plan_retention(PROJECT).totals()}


def test_a_project_without_artifacts_has_an_empty_survey(registry: Registry) -> None:
    seen = registry.catalog.read(surveying.survey, "nothing", building.POLICY)

    assert len(seen.columns) == 0
    assert registry.plan_items("nothing", building.POLICY) == []


def _explained(conn: sa.Connection, text: str, values: tuple[str, ...]) -> str:
    return " ".join(row[3] for row in conn.exec_driver_sql(f"explain query plan {text}", values))


def test_a_survey_reads_two_indexes_and_no_table(registry: Registry) -> None:
    if registry.catalog.url.get_backend_name() != "sqlite":
        pytest.skip("Postgres decides by its statistics")
    building.run(registry, "run-1")
    heard: list[tuple[str, Any]] = []

    def listen(*args: Any) -> None:
        heard.append((args[2], args[3]))

    sa.event.listen(registry.catalog.engine, "before_cursor_execute", listen)
    registry.catalog.read(surveying.survey, PROJECT, building.POLICY)
    sa.event.remove(registry.catalog.engine, "before_cursor_execute", listen)
    asked = [one for one in heard if one[0].startswith("SELECT")]

    plans = [registry.catalog.read(_explained, *one) for one in asked]
    assert len(plans) == 2
    assert "USING COVERING INDEX ix_artifact_living" in plans[0]
    assert "USING COVERING INDEX ix_metric_project_kind_name_value" in plans[1]
    assert not any("TEMP B-TREE" in plan for plan in plans)


def test_applying_costs_each_item_the_same(registry: Registry) -> None:
    document = {**building.POLICY.document(), "retention": {"forget_after": "0s", "max_share": 1}}
    registry.set_policy(PROJECT, Policy.of(document))
    counts = []
    for name, steps in (("run-1", 10), ("run-2", 40)):
        run = registry.start_run(PROJECT, name)
        for step in range(steps):
            registry.publish_checkpoint(run, {"m.bin": b"%d" % step}, step=step)
        registry.finish_run(run, "finished")
        plan = registry.approve_plan(registry.plan_retention(PROJECT).id)
        heard: list[str] = []

        def listen(*args: Any, heard: list[str] = heard) -> None:
            heard.append(args[2])

        sa.event.listen(registry.catalog.engine, "before_cursor_execute", listen)
        forgotten = registry.apply_plan(plan.id).forgotten
        sa.event.remove(registry.catalog.engine, "before_cursor_execute", listen)
        counts.append((len(forgotten), len(heard)))

    (few, small), (many, large) = counts
    assert (few, many) == (9, 39)
    assert (large - small) / (many - few) < 25
