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
        key: The log's key, which an attacker may have got hold of; `ended` has the one before.
        heads: The signed heads, the oldest first.
        ended: Keys that were rotated or revoked, which an attacker kept, by name.
        service: The key that signs for the gates and the operator.
    """

    folder: Path
    files: dict[str, bytes]
    key: SigningKey
    heads: tuple[str, ...]
    ended: dict[str, SigningKey]
    service: SigningKey


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def evidence(folder: Path) -> Evidence:
    """Return the bundle of a project with promotions, a rollback, a failure and a new policy.

    Keys were rotated and revoked on the way, and a note and a name were erased.
    """
    with open_registry(folder / "home", actor="tester") as registry:
        first = building.promoted(registry, "run-1")
        registry.publish_dataset(OTHER, "rows", {"rows.csv": b"1\n2\n"})
        building.promoted(registry, "run-2", seed=2)
        failed = registry.publish_model(building.run(registry, "run-3", seed=3)[-1])
        building.judge(registry, failed, passed=False)
        registry.rollback(PROJECT, "production", reason="it was better")
        strict = {**building.POLICY.document(), "promotion": {"production": {"approvals": 2}}}
        registry.set_policy(PROJECT, Policy.of(strict))
        ended = {name: registry.keys.load(name) for name in ("service", "log")}
        registry.rotate_key("service", reason="yearly")
        registry.rotate_log_key("yearly")
        with open_registry(folder / "home", actor="intern") as other:
            other.annotate(first.reference, "the phone number of somebody")
        registry.erase_body(registry.annotations(first.id)[0].seq, "it was asked for")
        registry.erase_actor("intern", "it was asked for")
        registry.rotate_key("alice", reason="lost")
        last = registry.publish_model(building.run(registry, "run-4", seed=4)[-1])
        building.judge(registry, last)
        ended["bob"] = registry.keys.load(registry.create_key("carol").name)
        registry.revoke_key("carol", "stolen")
        registry.create_key("bob")
        building.approve(registry, last)
        registry.approve(last.reference, "production", "bob")
        registry.promote(last.reference, "production")
        registry.place_hold(first.reference, "lawsuit", "asked for")
        bundle = registry.export_bundle("digits@production", folder / "bundle")
        key, service = registry.keys.load("log"), registry.keys.load("service")

    assert bundle.ok, bundle.report
    files = contents(folder / "bundle")
    lines = files["heads.jsonl"].splitlines()
    return Evidence(folder / "bundle", files, key, tuple(map(_note, lines)), ended, service)


def _note(line: bytes) -> str:
    import json

    return str(json.loads(line)["note"])
