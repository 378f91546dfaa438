"""The catalog is a fold of the ledger over the records: the store alone brings it back."""

from pathlib import Path

import pytest

from artifact_pipelines.catalog import ledger
from artifact_pipelines.catalog.catalog import Catalog
from artifact_pipelines.errors import BehindError, CatalogError, LedgerError
from artifact_pipelines.registry import Registry, open_registry
from artifact_pipelines.registry.auditing import facts
from artifact_pipelines.registry.opened import leaf_key
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT
from artifact_pipelines_tests.databases import Databases


def history(registry: Registry) -> None:
    """Do a bit of everything."""
    building.promoted(registry, "run-1")
    building.promoted(registry, "run-2", seed=2)
    registry.rollback(PROJECT, "production")
    registry.plan_runs(
        PROJECT, "sweep", {name: {"lr": 0.1} for name in ("run-3", "run-4", "run-5")}
    )
    building.run(registry, "run-3", seed=3)
    registry.withdraw_run(PROJECT, "run-4", "one is enough")
    registry.place_hold("digits/run-1@0", "lawsuit", "asked for")
    plan = registry.plan_retention(PROJECT)
    registry.approve_plan(plan.id)
    registry.apply_plan(plan.id)
    registry.prune(grace=0)
    registry.sign_head()


def test_a_rebuilt_catalog_equals_the_catalog(registry: Registry, tmp_path: Path) -> None:
    history(registry)
    url = f"sqlite:///{tmp_path / 'again.db'}"
    leaves = registry.rebuild(url)
    again = Catalog(url)

    assert again.read(facts) == registry.catalog.read(facts)
    assert leaves == len(registry.events(limit=10_000))
    again.close()


def test_a_lost_catalog_comes_back_and_serves(
    registry: Registry, tmp_path: Path, databases: Databases
) -> None:
    history(registry)
    served = registry.resolve("digits@production").model
    registry.close()
    databases.lose(tmp_path / "home")
    with pytest.raises(BehindError, match="catalog rebuild"):
        open_registry(tmp_path / "home", actor="tester")
    databases.lose(tmp_path / "home")

    registry.rebuild(databases.url(tmp_path / "home"))
    with open_registry(tmp_path / "home", actor="tester") as reopened:
        assert reopened.resolve("digits@production").model == served
        assert reopened.verify("digits@production").ok
        assert reopened.verify_ledger().problems == ()
        building.dataset(reopened, rows=99)
        assert reopened.prune(grace=0).disagreements == ()


def test_an_older_catalog_is_refused(
    registry: Registry, tmp_path: Path, databases: Databases
) -> None:
    building.dataset(registry)
    registry.close()
    copy = databases.copy(tmp_path / "home")
    building.dataset(registry, rows=9)

    with pytest.raises(BehindError, match="older than the store"):
        open_registry(tmp_path / "home", catalog_url=copy)


def test_a_catalog_in_use_is_not_rebuilt_over(registry: Registry) -> None:
    with pytest.raises(CatalogError, match="holds a ledger already"):
        registry.rebuild(registry.catalog.url.render_as_string(hide_password=False))


def test_a_changed_exported_leaf_is_found(registry: Registry) -> None:
    building.dataset(registry)
    key = leaf_key(2)
    changed = registry.store.backend.get(key).replace(b"digits", b"digitz")
    registry.store.backend.put(key, changed)

    assert not registry.verify_ledger().ok
    with pytest.raises(LedgerError, match="changed"):
        registry.rebuild("sqlite://")


def test_a_fork_of_the_log_is_refused(registry: Registry) -> None:
    building.dataset(registry)
    size = len(registry.events(limit=10_000))
    other = registry.store.backend.get(leaf_key(size - 1)).replace(b"publish", b"unpubli")
    registry.store.backend.put(leaf_key(size), other)

    with pytest.raises(LedgerError, match="forked"):
        building.dataset(registry, rows=9)


def test_a_log_shorter_than_its_signed_head_is_not_rebuilt(registry: Registry) -> None:
    building.dataset(registry)
    head = registry.sign_head()
    registry.store.backend.delete(leaf_key(head.size - 1))

    with pytest.raises(LedgerError, match="leaves are lost"):
        registry.rebuild("sqlite://")


def test_a_catalog_that_lost_signed_leaves_is_refused(
    registry: Registry, tmp_path: Path, databases: Databases
) -> None:
    building.dataset(registry)
    registry.close()
    copy = databases.copy(tmp_path / "home")
    size = registry.catalog.read(ledger.head).size
    building.dataset(registry, rows=9)
    registry.sign_head()
    registry.store.backend.delete(leaf_key(size))

    with pytest.raises(BehindError, match="its signer has signed"):
        open_registry(tmp_path / "home", catalog_url=copy)
