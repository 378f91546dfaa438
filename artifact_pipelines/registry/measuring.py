"""The state of a registry in figures, read from the catalog by whoever watches it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import now
from artifact_pipelines.registry.opened import Opened

PREFIX = "artifact_pipelines_"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: Its name, in Prometheus's manner.
        about: What it says.
        value: How much.
        labels: Of what.
    """

    name: str
    about: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


def figures(registry: Opened) -> list[Figure]:
    """Return the figures of a registry, every one through an index or a small table."""
    return registry.catalog.read(lambda conn: list(_figures(conn)))


def exposition(found: list[Figure]) -> str:
    """Return figures in the text format that Prometheus reads."""
    lines: list[str] = []
    named = ""
    for figure in found:
        name = PREFIX + figure.name
        if name != named:
            lines += [f"# HELP {name} {figure.about}", f"# TYPE {name} gauge"]
            named = name
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in figure.labels.items())
        lines.append(f"{name}{{{inner}}} {figure.value:g}" if inner else f"{name} {figure.value:g}")
    return "\n".join(lines) + "\n"


def _figures(conn: Connection) -> Iterator[Figure]:
    head, at = ledger.head(conn), now(conn)
    yield Figure("leaves", "Leaves of the ledger.", head.size)
    yield Figure(
        "leaves_unexported", "Leaves that are not in the store yet.", head.size - head.exported
    )
    newest = conn.execute(sa.select(sa.func.max(tables.tree_head.c.size))).scalar() or 0
    yield Figure("leaves_unsigned", "Leaves that no signed head covers.", head.size - newest)
    yield Figure("last_leaf_age_seconds", "Since the ledger last grew.", max(at - head.time, 0.0))
    reported = tables.reported
    for row in conn.execute(sa.select(reported).order_by(reported.c.topic, reported.c.instance)):
        yield Figure(
            "sensor_lag_leaves",
            "Leaves that a Dagster instance was not told of by a sensor.",
            max(head.size - 1 - row.seq, 0),
            {"sensor": row.topic, "instance": row.instance[:8]},
        )
    session, pack = tables.session, tables.pack
    late = sa.func.sum(sa.case((session.c.lease_until < at, 1), else_=0))
    total, expired = conn.execute(sa.select(sa.func.count(), late)).one()
    yield Figure("sessions", "Writers at work.", total)
    yield Figure("sessions_expired", "Writers whose lease ran out.", expired or 0)
    for state in ("writing", "condemned", "deleting"):
        where = pack.c.state == state
        count = conn.execute(sa.select(sa.func.count()).select_from(pack).where(where)).scalar()
        yield Figure("packs", "Packs on their way, by state.", count or 0, {"state": state})
    request = tables.request
    open_ = sa.select(sa.func.count()).select_from(request).where(request.c.state == "open")
    yield Figure("requests_open", "Promotions that wait.", conn.execute(open_).scalar() or 0)
    yield from _latest(conn, at)


def _latest(conn: Connection, at: float) -> Iterator[Figure]:
    """Yield how long ago the last of each kind of leaf was, and how many alarms there were."""
    leaf = tables.leaf
    for action in ("publish", "verdict", "promote", "rollback", "forget", "prune", "alarm"):
        # The time of the newest is read by its number: an index holds the action with it.
        last = (
            sa.select(leaf.c.time)
            .where(leaf.c.action == action)
            .order_by(leaf.c.seq.desc())
            .limit(1)
        )
        found = conn.execute(last).scalar()
        if found is not None:
            age = max(at - datetime.fromisoformat(found).timestamp(), 0.0)
            yield Figure("last_age_seconds", "Since the last.", age, {"action": action})
    alarms = sa.select(sa.func.count()).select_from(leaf).where(leaf.c.action == "alarm")
    yield Figure("alarms", "Alarms in the ledger.", conn.execute(alarms).scalar() or 0)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
