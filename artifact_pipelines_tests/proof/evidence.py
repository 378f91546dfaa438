"""A registry with a past, and the bundle that it exports."""

from dataclasses import dataclass
from pathlib import Path

from artifact_pipelines.domain.policy import Policy
from artifact_pipelines.domain.signing import SigningKey
from artifact_pipelines.registry import open_registry
from artifact_pipelines_tests import building
from artifact_pipelines_tests.building import PROJECT

OTHER = "churn"


@dataclass(frozen=True)
class Evidence:
    """An exported bundle.

    Attributes:
        folder: Where it is.
        files: What is in it.
        key: The log's key, which an attacker may have got hold of.
        heads: The signed heads, the oldest first.
    """

    folder: Path
    files: dict[str, bytes]
    key: SigningKey
    heads: tuple[str, ...]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def evidence(folder: Path) -> Evidence:
    """Return the bundle of a project with promotions, a rollback, a failure and a new policy."""
    with open_registry(folder / "home", actor="tester") as registry:
        first = building.promoted(registry, "run-1")
        registry.publish_dataset(OTHER, "rows", {"rows.csv": b"1\n2\n"})
        building.promoted(registry, "run-2", seed=2)
        failed = registry.publish_model(building.run(registry, "run-3", seed=3)[-1])
        building.judge(registry, failed, passed=False)
        registry.rollback(PROJECT, "production", reason="it was better")
        strict = {**building.POLICY.document(), "promotion": {"production": {"approvals": 2}}}
        registry.set_policy(PROJECT, Policy.of(strict))
        last = registry.publish_model(building.run(registry, "run-4", seed=4)[-1])
        building.judge(registry, last)
        registry.create_key("bob")
        building.approve(registry, last)
        registry.approve(last.reference, "production", "bob")
        registry.promote(last.reference, "production")
        registry.place_hold(first.reference, "lawsuit", "asked for")
        bundle = registry.export_bundle("digits@production", folder / "bundle")
        key = registry.keys.load("log")

    assert bundle.ok, bundle.report
    files = contents(folder / "bundle")
    lines = files["heads.jsonl"].splitlines()
    return Evidence(folder / "bundle", files, key, tuple(map(_note, lines)))


def _note(line: bytes) -> str:
    import json

    return str(json.loads(line)["note"])
