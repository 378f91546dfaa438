"""Withdrawing a dataset, package or licence: everything made from it is found and stopped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction
from artifact_pipelines.catalog.search import normal
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.record import Kind
from artifact_pipelines.errors import UnknownArtifactError
from artifact_pipelines.registry.keys import LOG
from artifact_pipelines.registry.reading import Artifact
from artifact_pipelines.registry.signing_off import SigningOff

FORMAT: Final = "artifact-pipelines/recall/v1"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What a recall is about, or was about.

    Attributes:
        what: What is withdrawn, in words.
        roots: The artifacts that are withdrawn themselves.
        descendants: Everything that was made from them.
        serving: The stages that point at one of all these, as `project@stage`.
        leaves: The leaves that recalled them; none before it was done.
        receipt: The digest of the stored receipt, or nothing before it was done.
    """

    what: str
    roots: tuple[Artifact, ...]
    descendants: tuple[Artifact, ...]
    serving: tuple[str, ...]
    leaves: tuple[int, ...] = ()
    receipt: str | None = None


class Recalling(SigningOff):
    """The registry, as far as artifacts are withdrawn."""

    def plan_recall(
        self, *, artifact: str | None = None, package: str | None = None, licence: str | None = None
    ) -> Withdrawal:
        """Return what withdrawing something would stop, without stopping it.

        Args:
            artifact: A reference, such as a dataset's.
            package: A package that runs had installed, `name` or `name==version`.
            licence: An SPDX identifier that datasets have in their licence.

        Raises:
            UnknownArtifactError: Nothing was made with it.
        """
        roots: list[Artifact] = []
        if artifact is not None:
            roots = [self.find(artifact)]
            what = roots[0].reference
        elif package is not None:
            what = f"the package {package}"
            roots = list(self.by_ids(self.catalog.read(_ran_with, package)).values())
        else:
            what = f"the licence {licence}"
            datasets = self.by_ids(self.catalog.read(_datasets)).values()
            roots = [one for one in datasets if licence in _licences(one)]
        if not roots:
            raise UnknownArtifactError(f"nothing here was made with {what}.")
        found = {root.id for root in roots}
        descendants: dict[str, Artifact] = {}
        for root in roots:
            for edge in self.lineage(root.id, down=True):
                if edge.child.id not in found:
                    descendants[edge.child.id] = edge.child
        affected = [*found, *descendants]
        return Withdrawal(
            what,
            tuple(sorted(roots, key=lambda one: one.seq)),
            tuple(sorted(descendants.values(), key=lambda one: one.seq)),
            self.catalog.read(_serving, affected),
        )

    def recall(
        self,
        reason: str,
        *,
        artifact: str | None = None,
        package: str | None = None,
        licence: str | None = None,
    ) -> Withdrawal:
        """Withdraw something: nothing made from it is promoted, resolved or rolled back to.

        What is made from it meanwhile is found when the same recall is run again.
        """
        plan = self.plan_recall(artifact=artifact, package=package, licence=licence)
        roots = [one for one in plan.roots if not self._is_recalled_whole(one)]
        actor = self.actor
        leaves = tuple(self.catalog.write(_recall, root, reason, actor) for root in roots)
        self.export_leaves()
        receipt = digest.canonical(
            {
                "format": FORMAT,
                "origin": self.origin,
                "what": plan.what,
                "reason": reason,
                "withdrawn": [one.id for one in plan.roots],
                "descendants": [one.id for one in plan.descendants],
                "serving": list(plan.serving),
                "leaves": list(leaves),
            }
        )
        name = self.store.put_object(receipt)
        if self.keys.has(LOG):
            self.sign_head()
        again = self.plan_recall(artifact=artifact, package=package, licence=licence)
        return Withdrawal(plan.what, again.roots, again.descendants, again.serving, leaves, name)

    def _is_recalled_whole(self, root: Artifact) -> bool:
        below = self.lineage(root.id, down=True)
        return root.recalled and all(edge.child.recalled for edge in below)


def _recall(tx: Transaction, root: Artifact, reason: str, actor: str) -> int:
    """Recall an artifact with what was made from it up to this very leaf."""
    ledger.lock(tx)
    edge = tables.edge
    found, frontier = {root.id}, [root.id]
    while frontier:
        rows = tx.conn.execute(sa.select(edge.c.child).where(edge.c.parent.in_(frontier[:500])))
        fresh = sorted(set(rows.scalars()) - found)
        found.update(fresh)
        frontier = frontier[500:] + fresh
    body = {
        "project": root.project,
        "artifact": root.id,
        "reason": reason,
        "descendants": sorted(found - {root.id}),
    }
    return ledger.append(tx, action="recall", subject=root.id, body=body, actor=actor).seq


def _ran_with(conn: Connection, package: str) -> list[str]:
    """Return the runs that had a package installed."""
    table, artifact = tables.package, tables.artifact
    name, _, version = package.partition("==")
    locks = sa.select(table.c.lock).where(table.c.name == normal(name))
    if version:
        locks = locks.where(table.c.version == version)
    statement = sa.select(artifact.c.id).where(artifact.c.lock.in_(locks))
    return list(conn.execute(statement).scalars())


def _datasets(conn: Connection) -> list[str]:
    artifact = tables.artifact
    statement = sa.select(artifact.c.id).where(artifact.c.kind == Kind.DATASET.value)
    return list(conn.execute(statement).scalars())


def _serving(conn: Connection, artifacts: Sequence[str]) -> tuple[str, ...]:
    stage = tables.stage
    wanted = set(artifacts)
    rows = conn.execute(sa.select(stage).order_by(stage.c.project, stage.c.stage))
    return tuple(f"{row.project}@{row.stage}" for row in rows if row.artifact in wanted)


def _licences(dataset: Artifact) -> set[str]:
    """Return the identifiers in a dataset's licence expression."""
    said = dataset.record.facts.get("licence")
    return set(str(said).replace("(", " ").replace(")", " ").split()) if said else set()
