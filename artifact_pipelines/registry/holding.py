"""Holds: the reasons why an artifact may not be forgotten, whatever a policy says."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction, batches, now
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.keeping import Retention
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import (
    ConflictError,
    GoneError,
    InvalidNameError,
    PolicyError,
    UnknownArtifactError,
)
from artifact_pipelines.registry.promoting import Promoting
from artifact_pipelines.registry.reading import Artifact

Reason = tuple[str, str]
"""An artifact id, and why the artifact is held."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold that somebody placed.

    Attributes:
        artifact: What it is on.
        name: Its name.
        reason: Why.
        inputs: Whether it also holds all that the artifact was made from.
        by: Who placed it.
        since: When.
    """

    artifact: Artifact
    name: str
    reason: str
    inputs: bool
    by: str
    since: str


class Holding(Promoting):
    """The registry, as far as artifacts are held."""

    def place_hold(self, reference: str, name: str, reason: str, *, inputs: bool = False) -> None:
        """Keep an artifact from being forgotten, with `inputs` also all that it was made from.

        Raises:
            InvalidNameError: The name or the reason is empty.
            ConflictError: The artifact has a hold of this name.
            GoneError: It was forgotten.
        """
        if not name.strip() or not reason.strip():
            raise InvalidNameError("a hold needs a name and a reason.")
        artifact, actor = self.find(reference), self.actor
        body = {"project": artifact.project, "name": name, "reason": reason, "inputs": inputs}
        self.catalog.write(_place, artifact, body, actor)
        self.export_leaves()

    def lift_hold(self, reference: str, name: str, reason: str) -> None:
        """Lift the hold of a name.

        Raises:
            UnknownArtifactError: There is no such hold.
        """
        artifact = self.find(reference)
        if not self.catalog.read(_has_hold, artifact.id, name):
            raise UnknownArtifactError(f"{artifact.reference} has no hold {name!r}.")
        body = {"project": artifact.project, "name": name, "reason": reason}
        self.append("hold_lift", artifact.id, body)

    def holds(self, project: str | None = None) -> list[Hold]:
        """Return the holds that were placed and not lifted, oldest first."""
        found = []
        for row in self.catalog.read(_placed):
            artifact = self.get(row.artifact)
            if project in {None, artifact.project}:
                by = row.actor_name or row.actor
                found.append(Hold(artifact, row.name, row.reason, row.inputs, by, row.time))
        return found

    def held(self) -> dict[str, list[str]]:
        """Return why artifacts may not go, by id, of all projects; plans have their own say."""
        served = self._served()
        windows = {project: self._window(project) for project in self.catalog.read(_staged)}

        def reasons(conn: Connection) -> dict[str, list[str]]:
            held: dict[str, list[str]] = {}
            for artifact, reason in (
                *_pointed_at(conn),
                *_within_window(conn, windows),
                *((artifact, f"the signed log serves it as {place}") for artifact, place in served),
                *_requested(conn),
                *_on_hold(conn),
                *_read(conn),
                *_resumable(conn),
            ):
                known = held.setdefault(artifact, [])
                if reason not in known:
                    known.append(reason)
            for artifact, reason in _behind_models(conn, held):
                held.setdefault(artifact, []).append(reason)
            return held

        return self.catalog.read(reasons)

    def _window(self, project: str) -> int:
        """Return how many former models of a project's stages stay ready."""
        try:
            return self.policy(project).retention.rollback
        except PolicyError:
            return Retention().rollback

    def _served(self) -> list[tuple[str, str]]:
        """Return what the newest signed head says that stages point at."""
        newest = self.newest_head()
        if newest is None:
            return []
        pointers = digest.parse(newest[2].encode())
        history = tables.stage_history
        statement = sa.select(history.c.seq, history.c.artifact).where(
            history.c.seq.in_(sorted(pointers.values()))
        )
        rows = self.catalog.read(lambda conn: list(conn.execute(statement)))
        served = {row.seq: row.artifact for row in rows}
        return [
            (served[seq], place.replace("/", "@"))
            for place, seq in sorted(pointers.items())
            if seq in served
        ]


def ancestors(conn: Connection, starts: Iterable[str]) -> set[str]:
    """Return everything that some artifacts were made from, however far back."""
    edge = tables.edge
    found: set[str] = set()
    frontier = sorted(set(starts))
    while frontier:
        parents: set[str] = set()
        for part in batches(frontier):
            parents.update(
                conn.execute(sa.select(edge.c.parent).where(edge.c.child.in_(part))).scalars()
            )
        frontier = sorted(parents - found)
        found |= parents
    return found


def _place(tx: Transaction, artifact: Artifact, body: Mapping[str, Any], actor: str) -> None:
    (row,) = tx.lock_rows(tables.artifact, "id", [artifact.id])
    ledger.lock(tx)
    if row.state == "forgotten":
        raise GoneError(f"{artifact.reference} was forgotten, so nothing can hold it.")
    if _has_hold(tx.conn, artifact.id, body["name"]):
        raise ConflictError(
            f"{artifact.reference} is on hold as {body['name']!r} already; "
            "lift that hold, or choose another name."
        )
    ledger.append(tx, action="hold_place", subject=artifact.id, body=body, actor=actor)


def _has_hold(conn: Connection, artifact: str, name: str) -> bool:
    hold = tables.hold
    statement = sa.select(hold.c.seq).where(
        hold.c.artifact == artifact, hold.c.name == name, hold.c.lifted.is_(None)
    )
    return conn.execute(statement).first() is not None


def _placed(conn: Connection) -> list[sa.Row[Any]]:
    hold, leaf, actor = tables.hold, tables.leaf, tables.actor
    statement = (
        sa.select(hold, leaf.c.time, leaf.c.actor, actor.c.name.label("actor_name"))
        .join(leaf, leaf.c.seq == hold.c.seq)
        .outerjoin(actor, actor.c.id == leaf.c.actor)
        .where(hold.c.lifted.is_(None))
        .order_by(hold.c.seq)
    )
    return list(conn.execute(statement))


def _staged(conn: Connection) -> list[str]:
    history = tables.stage_history
    return list(conn.execute(sa.select(history.c.project).distinct()).scalars())


def _pointed_at(conn: Connection) -> Iterator[Reason]:
    for row in conn.execute(sa.select(tables.stage)):
        yield row.artifact, f"{row.project}@{row.stage} points at it"


def _within_window(conn: Connection, windows: Mapping[str, int]) -> Iterator[Reason]:
    """Yield the models that stages can be rolled back to, the last ones first."""
    history = tables.stage_history
    former: dict[tuple[str, str], list[str]] = {}
    for row in conn.execute(sa.select(history).order_by(history.c.seq)):
        former.setdefault((row.project, row.stage), []).append(row.artifact)
    for (project, stage), artifacts in former.items():
        known = [one for one in dict.fromkeys(reversed(artifacts)) if one != artifacts[-1]]
        for artifact in known[: windows[project]]:
            yield artifact, f"{project}@{stage} can be rolled back to it"


def _requested(conn: Connection) -> Iterator[Reason]:
    request = tables.request
    for row in conn.execute(sa.select(request).where(request.c.state == "open")):
        yield row.artifact, f"it is requested for {row.stage}"


def _on_hold(conn: Connection) -> Iterator[Reason]:
    """Yield what is on hold, and with it what it was made from where the hold says so."""
    for row in _placed(conn):
        yield row.artifact, f"the hold {row.name!r}: {row.reason}"
        if row.inputs:
            for artifact in sorted(ancestors(conn, [row.artifact])):
                why = f"{row.artifact[:12]}, which was made from it, is on hold"
                yield artifact, f"the hold {row.name!r}: {why}"


def _read(conn: Connection) -> Iterator[Reason]:
    reader = tables.reader
    for row in conn.execute(sa.select(reader).where(reader.c.lease_until > now(conn))):
        yield row.artifact, "somebody is reading it"


def _resumable(conn: Connection) -> Iterator[Reason]:
    """Yield the last checkpoint of every run that has not finished, or what it resumed from."""
    run, artifact, edge = tables.run, tables.artifact, tables.edge
    open_runs = {
        row.id: (row.project, row.name)
        for row in conn.execute(sa.select(run).where(run.c.state != "finished"))
    }
    last: dict[tuple[str, str], str] = {}
    for part in batches(sorted(open_runs)):
        statement = (
            sa.select(artifact.c.id, artifact.c.project, artifact.c.name)
            .join(
                run,
                sa.and_(run.c.project == artifact.c.project, run.c.name == artifact.c.name),
            )
            .where(
                run.c.id.in_(part),
                artifact.c.kind == Kind.CHECKPOINT.value,
                artifact.c.state == "live",
            )
            .order_by(artifact.c.step, artifact.c.attempt)
        )
        for row in conn.execute(statement):
            last[row.project, row.name] = row.id
        for row in conn.execute(
            sa.select(edge).where(edge.c.child.in_(part), edge.c.role == "resume")
        ):
            if open_runs[row.child] not in last:
                yield row.parent, "a run that has not finished goes on from it"
    for found in last.values():
        yield found, "its run has not finished and would resume from it"


def _behind_models(conn: Connection, held: Mapping[str, list[str]]) -> list[Reason]:
    """Return the checkpoints that held models were made from, of whatever project."""
    edge, artifact = tables.edge, tables.artifact
    found: list[Reason] = []
    for part in batches(sorted(held)):
        statement = (
            sa.select(edge.c.parent, artifact.c.project, artifact.c.version)
            .join(artifact, artifact.c.id == edge.c.child)
            .where(
                edge.c.child.in_(part),
                edge.c.role == "checkpoint",
                artifact.c.kind == Kind.MODEL.value,
            )
        )
        for row in conn.execute(statement):
            why = f"the held model {row.project}/v{row.version} was made from it"
            found.append((row.parent, why))
    return found
