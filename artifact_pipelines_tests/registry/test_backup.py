"""The runbook of `docs/deployment.md`: what was backed up comes back whole."""

import shutil
from pathlib import Path

import pytest

from artifact_pipelines.errors import BehindError
from artifact_pipelines.registry import open_registry
from artifact_pipelines.registry.auditing import rebuild
from artifact_pipelines.store.opening import open_backend
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Databases


def test_a_backup_of_the_catalog_then_the_store_restores_everything(
    tmp_path: Path, databases: Databases
) -> None:
    home, restored = tmp_path / "home", tmp_path / "restored"
    with open_registry(home, actor="tester") as registry:
        before = building.promoted(registry, "run-1")
    catalog = databases.copy(home)  # first the catalog …
    with open_registry(home, actor="tester") as registry:
        between = building.run(registry, "run-2", seed=2)[-1]  # … while people go on working …
    shutil.copytree(home / "store", restored / "store")  # … and then the store
    shutil.copytree(home / "keys", restored / "keys")
    with open_registry(home, actor="tester") as registry:
        building.dataset(registry, rows=99)

    with pytest.raises(BehindError, match="catalog rebuild"):
        open_registry(restored, catalog_url=catalog)
    databases.lose(tmp_path / "fresh")
    (tmp_path / "fresh").mkdir()
    fresh = databases.url(tmp_path / "fresh")
    rebuild(open_backend((restored / "store").as_uri()), fresh)
    with open_registry(restored, catalog_url=fresh, actor="tester") as registry:
        assert registry.resolve(f"{PROJECT}@production").model == before
        assert registry.verify(before.reference).ok
        assert registry.verify(between.reference).ok
        assert registry.scrub().ok
        assert registry.verify_ledger().ok
        assert registry.prune(grace=0).disagreements == ()
        building.dataset(registry, rows=7)  # and work goes on


def test_a_lost_catalog_alone_needs_no_backup(tmp_path: Path, databases: Databases) -> None:
    home = tmp_path / "home"
    with open_registry(home, actor="tester") as registry:
        model = building.promoted(registry, "run-1")
        leaves = len(registry.events())
    databases.lose(home)
    with pytest.raises(BehindError):
        open_registry(home)
    databases.lose(home)

    assert rebuild(open_backend((home / "store").as_uri()), databases.url(home)) == leaves
    with open_registry(home, actor="tester") as registry:
        assert registry.resolve(f"{PROJECT}@production").model == model


def test_what_was_pruned_after_the_backup_is_not_missed(
    tmp_path: Path, databases: Databases
) -> None:
    """An old catalog beside the living store: the store's ledger says what has gone since."""
    home = tmp_path / "home"
    with open_registry(home, actor="tester") as registry:
        registry.set_policy(PROJECT, building.POLICY)
        building.run(registry, "run-1", steps=4)
    old = databases.copy(home)
    with open_registry(home, actor="tester") as registry:
        plan = registry.plan_retention(PROJECT)
        registry.approve_plan(plan.id)
        gone = registry.apply_plan(plan.id).forgotten
        registry.prune(grace=0)
    assert gone

    with pytest.raises(BehindError, match="older than the store"):
        open_registry(home, catalog_url=old)
