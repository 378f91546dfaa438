"""What a pointer move rests on, read in one view of the catalog, and the move itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from artifact_pipelines.catalog import ledger, tables
from artifact_pipelines.catalog.catalog import Transaction, batches
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.policy import PRODUCTION, Policy
from artifact_pipelines.domain.signing import PublicKey, SignedStatement
from artifact_pipelines.domain.stage import (
    ApprovalFact,
    Decision,
    PromotionCase,
    VerdictFact,
    decide_promotion,
)
from artifact_pipelines.errors import LedgerError, PromotionRefusedError
from artifact_pipelines.registry.reading import Artifact

_LOG_KEYS = (
    sa.select(tables.leaf.c.seq, tables.leaf.c.body)
    .where(tables.leaf.c.action.in_(["log_create", "log_rotate"]))
    .order_by(tables.leaf.c.seq)
)


@dataclass(frozen=True, slots=True)
class RegisteredKey:
    """A public key that the log knows.

    Attributes:
        name: Whose it is.
        id: The key's id.
        roles: What it may sign.
        public: The key in hexadecimal.
        revoked: The leaf that ended it, or nothing.
    """

    name: str
    id: str
    roles: tuple[str, ...]
    public: str
    revoked: int | None = None


def registered_keys(conn: Connection) -> list[RegisteredKey]:
    """Return the registered keys by name, those that were revoked among them."""
    table = tables.signing_key
    rows = conn.execute(sa.select(table).order_by(table.c.name, table.c.seq))
    return [
        RegisteredKey(row.name, row.id, tuple(row.roles.split(",")), row.public, row.revoked)
        for row in rows
    ]


def log_keys(conn: Connection) -> list[tuple[int, str]]:
    """Return the log's public keys, each with the leaf from which on it signs the heads."""
    found = []
    for row in conn.execute(_LOG_KEYS):
        body = digest.parse(bytes(row.body))
        if "statement" in body:
            body = {"log_key": SignedStatement.from_body(body).payload["public"]}
        found.append((row.seq, str(body["log_key"])))
    return found


def _said(row: sa.Row[Any], keys: Sequence[RegisteredKey], role: str) -> dict[str, Any] | None:
    """Return what a row's statement says, or None where its signature does not count."""
    signed = SignedStatement(row.statement, row.key, row.signature)
    for key in keys:
        in_force = key.revoked is None or row.seq < key.revoked
        if key.id == signed.key and role in key.roles and in_force:
            try:
                signed.verify(PublicKey.from_hex(key.public))
            except LedgerError:
                return None
            return signed.payload
    return None


def approvals_of(conn: Connection, models: Sequence[str]) -> list[ApprovalFact]:
    """Return the approvals of models whose signatures count, oldest first."""
    table, leaf = tables.approval, tables.leaf
    statement = sa.select(table, leaf.c.actor).join(leaf, leaf.c.seq == table.c.seq)
    keys = registered_keys(conn)
    rows = [
        row
        for part in batches(sorted(set(models)))
        for row in conn.execute(statement.where(table.c.artifact.in_(part)))
    ]
    return [
        ApprovalFact(
            seq=row.seq,
            artifact=said["artifact"],
            stage=said["stage"],
            policy=said["policy"],
            pointer=said["pointer"],
            approver=said["approver"],
            used=row.used is not None,
            by=row.actor,
        )
        for row in sorted(rows, key=lambda row: row.seq)
        if (said := _said(row, keys, "approver")) is not None
    ]


def decide(
    conn: Connection,
    model: Artifact,
    stage: str,
    policy: Policy,
    pointer: int,
    rollback_ready: bool | None,
) -> Decision:
    """Return whether a model may be promoted, by what one view of the catalog holds."""
    verdict, request, stages = tables.verdict, tables.request, tables.stage
    keys = registered_keys(conn)
    verdicts = [
        VerdictFact(
            row.seq,
            said["artifact"],
            said["gate"],
            said["passed"],
            said["policy"],
            said["baseline"],
        )
        for row in conn.execute(sa.select(verdict).where(verdict.c.artifact == model.id))
        if (said := _said(row, keys, "gate")) is not None
    ]
    authors = conn.execute(
        sa.select(request.c.author).where(
            request.c.project == model.project,
            request.c.stage == stage,
            request.c.artifact == model.id,
            request.c.state == "open",
        )
    ).scalars()
    baseline = conn.execute(
        sa.select(stages.c.artifact).where(
            stages.c.project == model.project, stages.c.stage == PRODUCTION
        )
    ).scalar()
    return decide_promotion(
        PromotionCase(
            artifact=model.id,
            stage=stage,
            policy=policy,
            pointer=pointer,
            baseline=baseline,
            verdicts=verdicts,
            approvals=approvals_of(conn, [model.id]),
            recalled=model.recalled,
            authors=tuple(authors),
            rollback_ready=rollback_ready,
        )
    )


def write_pointer(
    tx: Transaction,
    action: str,
    model: Artifact,
    stage: str,
    pointer: int,
    statement: SignedStatement,
    actor: str,
    unchanged: Callable[[Connection], tuple[str, ...]],
) -> int:
    """Move a pointer unless anything that the decision rests on has moved meanwhile.

    The decision is taken again under the ledger's lock: a verdict that came in between
    would otherwise leave a promotion that the log's signer must refuse for ever.
    """
    (locked,) = tx.lock_rows(tables.artifact, "id", [model.id])
    ledger.lock(tx)
    table = tables.stage
    found = tx.conn.execute(
        sa.select(table.c.seq).where(table.c.project == model.project, table.c.stage == stage)
    ).scalar()
    policy = tx.conn.execute(
        sa.select(tables.policy.c.digest).where(tables.policy.c.project == model.project)
    ).scalar()
    reasons = []
    if (found or 0) != pointer:
        reasons.append("somebody else moved the pointer meanwhile; look again and retry")
    if action == "promote" and policy != statement.payload["policy"]:
        reasons.append("the policy changed meanwhile; evaluate again")
    if locked.recalled or locked.state != "live":
        reasons.append("the model was recalled or forgotten meanwhile")
    reasons = reasons or list(unchanged(tx.conn))
    if reasons:
        raise PromotionRefusedError(f"{model.reference} was not moved to {stage}", reasons)
    leaf = ledger.append(
        tx,
        action=action,
        subject=f"{model.project}/{stage}",
        body=statement.as_body(),
        actor=actor,
    )
    return leaf.seq
