"""What in an installation's surroundings would break a registry: clocks, databases, buckets."""

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.errors import StoreError
from artifact_pipelines.registry.opened import Opened
from artifact_pipelines.store.s3 import S3Backend

SKEW = 60.0
"""Seconds between this machine's clock and the catalog's from which it is worth a word."""

REFUSED_SKEW = 900.0
"""Seconds from which an S3 server refuses what was signed by this machine."""

_SLOW_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})

Check = tuple[str, str, str]


def examine(registry: Opened) -> list[Check]:
    """Return the name, the state (`ok`, `warn`, `fail`) and the finding of each check."""
    at, version = registry.catalog.read(_clock_and_version)
    backend = registry.store.backend
    checks = [("catalog", "ok", version), clocks(time.time() - at, s3=is_s3(backend))]
    if isinstance(backend, S3Backend):
        checks += _bucket_checks(backend)
    return checks


def is_s3(backend: object) -> bool:
    """Return whether a store signs its requests with this machine's time."""
    return isinstance(backend, S3Backend)


def clocks(skew: float, *, s3: bool) -> Check:
    """Return what a difference between this machine's clock and the catalog's means."""
    if abs(skew) < SKEW:
        return "clocks", "ok", f"this machine and the catalog differ by {abs(skew):.1f} s."
    where = "ahead of" if skew > 0 else "behind"
    said = f"this machine is {abs(skew):.0f} s {where} the catalog's newest leaf or clock; "
    if s3 and abs(skew) >= REFUSED_SKEW:
        return "clocks", "fail", f"{said}S3 refuses its requests: set its clock."
    return "clocks", "warn", f"{said}the registry goes by the catalog's, but set the clock."


def lifecycle(rules: list[Mapping[str, Any]], prefix: str) -> list[str]:
    """Return what a bucket's lifecycle rules would do to a store below a prefix."""
    found = []
    for rule in rules:
        under = str(rule.get("Filter", {}).get("Prefix", rule.get("Prefix", "")) or "")
        narrowed = {"Tag", "And"} & set(rule.get("Filter", {}))
        apart = not (under.startswith(prefix) or prefix.startswith(under))
        if rule.get("Status") != "Enabled" or apart or narrowed:
            continue
        name = rule.get("ID", "without a name")
        if rule.get("Expiration", {}).keys() & {"Days", "Date"}:
            found.append(f"the rule {name!r} deletes objects of the store")
        slow = {move.get("StorageClass") for move in rule.get("Transitions", ())} & _SLOW_CLASSES
        if slow:
            found.append(f"the rule {name!r} moves objects to {', '.join(sorted(slow))}")
    return found


def _clock_and_version(conn: Connection) -> tuple[float, str]:
    if conn.dialect.name == "sqlite":
        version = conn.exec_driver_sql("select sqlite_version()").scalar_one()
        return now(conn), f"SQLite {version}"
    return now(conn), f"PostgreSQL {conn.execute(sa.text('show server_version')).scalar_one()}"


def _bucket_checks(backend: S3Backend) -> list[Check]:
    try:
        protection = backend.protection()
    except StoreError as error:
        return [("bucket", "warn", f"its settings cannot be read: {error}")]
    checks: list[Check] = []
    if protection.locked:
        said = f"objects are locked by default ({protection.locked}): prune can delete nothing yet."
        checks.append(("bucket lock", "warn", said))
    if protection.versioned:
        said = (
            "every version is kept: add a rule that expires noncurrent ones, or nothing is freed."
        )
        checks.append(("bucket versions", "warn", said))
    try:
        found = backend.ask(
            "", lambda: backend.client.get_bucket_lifecycle_configuration(Bucket=backend.bucket)
        )
        broken = lifecycle(found.get("Rules", []), backend.prefix)
    except (StoreError, LookupError):
        broken = []  # a bucket without rules has no answer
    if broken:
        checks.append(("bucket lifecycle", "fail", f"{'; '.join(broken)}: remove it."))
    return checks or [("bucket", "ok", f"{backend.url} keeps what is written to it.")]
