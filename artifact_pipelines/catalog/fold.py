"""What each ledger leaf does to the catalog's tables.

The catalog is this fold over the leaves and the publish objects they cite. A use case
checks its rules, then appends a leaf; the tables change here and nowhere else.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa

from artifact_pipelines.catalog import tables
from artifact_pipelines.catalog.catalog import Transaction, batches
from artifact_pipelines.domain import digest
from artifact_pipelines.domain.leaf import Leaf
from artifact_pipelines.domain.manifest import TRAINING_ONLY
from artifact_pipelines.domain.publication import Publication
from artifact_pipelines.domain.record import Kind, Record
from artifact_pipelines.errors import LedgerError

Body = Mapping[str, Any]


def apply(tx: Transaction, leaf: Leaf, body: Body, publication: Publication | None = None) -> None:
    """Bring the tables to the state after a leaf.

    Args:
        tx: The transaction that also inserted the leaf.
        leaf: The leaf.
        body: Its body.
        publication: The object that a `publish` leaf cites.

    Raises:
        LedgerError: The action is unknown, or a `publish` leaf came without its object.
    """
    if leaf.action == "publish":
        _publish(tx, leaf, body, publication)
        return
    handler = _HANDLERS.get(leaf.action)
    if handler is None:
        raise LedgerError(f"leaf {leaf.seq} has the unknown action {leaf.action!r}.")
    handler(tx, leaf, body)


def _publish(tx: Transaction, leaf: Leaf, body: Body, publication: Publication | None) -> None:
    if publication is None:
        raise LedgerError(f"leaf {leaf.seq} cites a publish object that is not there.")
    record, manifest = publication.record, publication.manifest
    tx.conn.execute(
        sa.insert(tables.artifact).values(
            id=record.id,
            seq=leaf.seq,
            kind=str(record.kind),
            project=record.project,
            name=record.name,
            step=record.step,
            attempt=record.attempt,
            version=body["version"],
            content=record.content,
            record=record.encode(),
            object=body["object"],
            annex=body["annex"],
            size=manifest.size,
            there=manifest.size,
            training=manifest.training,
            published=leaf.time,
            state="live",
            recalled=False,
            tier="hot",
            run=_run_behind(tx, record),
            lock=record.lock,
        )
    )
    _insert(
        tx,
        tables.artifact_file,
        [
            {
                "artifact": record.id,
                "path": entry.path,
                "size": entry.size,
                "sha256": entry.sha256,
                "media_type": entry.media_type,
                "state": "present",
            }
            for entry in manifest.files
        ],
    )
    parents = {(item.id, item.role) for item in record.inputs}
    if record.run is not None:
        parents.add((record.run, "run"))
    _insert(
        tx,
        tables.edge,
        [
            {"child": record.id, "parent": parent, "role": role, "kind": "observed"}
            for parent, role in sorted(parents)
        ],
    )
    _descend(tx, leaf.seq, {parent for parent, _ in parents})
    _insert(
        tx,
        tables.metric,
        [
            {
                "artifact": record.id,
                "name": name,
                "project": record.project,
                "kind": str(record.kind),
                "value": _finite(value),
                "seq": leaf.seq,
            }
            for name, value in sorted(record.facts.get("metrics", {}).items())
        ],
    )
    _index(tx, leaf, record)
    if record.kind == "training_run":
        _no_longer_planned(tx, record.project, record.name)
        tx.conn.execute(
            sa.insert(tables.run).values(
                id=record.id,
                project=record.project,
                name=record.name,
                state="running",
                reason="",
                seq=leaf.seq,
            )
        )


def _run_behind(tx: Transaction, record: Record) -> str | None:
    """Return the training run that stands behind an artifact."""
    if record.kind is Kind.TRAINING_RUN:
        return record.id
    if record.kind is not Kind.MODEL:
        return record.run
    checkpoint = next((item.id for item in record.inputs if item.role == "checkpoint"), None)
    table = tables.artifact
    found = sa.select(table.c.run).where(table.c.id == checkpoint)
    behind: str | None = tx.conn.execute(found).scalar()
    return behind


def _index(tx: Transaction, leaf: Leaf, record: Record) -> None:
    """Enter what an artifact is looked for by: parameters, code, facts, packages and words."""
    facts = {
        name: value
        for name, value in record.facts.items()
        if name not in {"metrics", "packages", "statistics", "columns", "card"}
    }
    found: dict[str, Any] = {}
    for group, values in (("params", record.params), ("code", record.code), ("facts", facts)):
        _flatten(group, values, found)
    _insert(
        tx,
        tables.parameter,
        [
            {"artifact": record.id, "name": name, "number": _number(value), "text": _text(value)}
            for name, value in sorted(found.items())
        ],
    )
    package = tables.package
    installed = record.facts.get("packages") or {}
    if record.lock is not None and installed:
        there = sa.select(package.c.lock).where(package.c.lock == record.lock).limit(1)
        if tx.conn.execute(there).first() is None:
            _insert(
                tx,
                package,
                [
                    {"lock": record.lock, "name": name, "version": version}
                    for name, version in sorted(installed.items())
                ],
            )
    if record.kind is not Kind.CHECKPOINT or "card" in record.facts:
        said = [value for value in found.values() if isinstance(value, str)]
        card = str(record.facts.get("card", ""))
        _say(tx, leaf, record.id, "\n".join([record.project, record.name, *said, card]))


def _flatten(name: str, value: object, found: dict[str, Any]) -> None:
    """Enter the plain values of nested mappings by their dotted names."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, found)
    elif isinstance(value, list):
        plain = [str(item) for item in value if isinstance(item, str | int | float)]
        if plain:
            found[name] = ", ".join(plain)
    elif value is not None:
        found[name] = value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _say(tx: Transaction, leaf: Leaf, artifact: str, text: str) -> None:
    tx.conn.execute(sa.insert(tables.words).values(seq=leaf.seq, artifact=artifact, text=text))


def _run_finish(tx: Transaction, leaf: Leaf, body: Body) -> None:
    tx.conn.execute(
        sa.update(tables.run)
        .where(tables.run.c.id == leaf.subject)
        .values(state=body["outcome"], reason=body["reason"], seq=leaf.seq)
    )


def _run_resume(tx: Transaction, leaf: Leaf, _body: Body) -> None:
    tx.conn.execute(
        sa.update(tables.run)
        .where(tables.run.c.id == leaf.subject)
        .values(state="running", reason="", seq=leaf.seq)
    )


def _run_plan(tx: Transaction, leaf: Leaf, body: Body) -> None:
    rows = [
        {
            "project": body["project"],
            "name": name,
            "plan": body["plan"],
            "asked": digest.canonical(
                {
                    "params": params,
                    "inputs": body["inputs"],
                    "resume_from": body["resume_from"],
                }
            ).decode(),
            "seq": leaf.seq,
        }
        for name, params in sorted(body["runs"].items())
    ]
    _insert(tx, tables.planned, rows)


def _run_withdraw(tx: Transaction, _leaf: Leaf, body: Body) -> None:
    _no_longer_planned(tx, body["project"], body["name"])


def _no_longer_planned(tx: Transaction, project: str, name: str) -> None:
    table = tables.planned
    tx.conn.execute(sa.delete(table).where(table.c.project == project, table.c.name == name))


def _log_create(tx: Transaction, leaf: Leaf, body: Body) -> None:
    owner = body["owner"]
    _register(tx, leaf, owner["name"], owner["public"], ["owner"])


def _key_register(tx: Transaction, leaf: Leaf, body: Body) -> None:
    said = _statement(body)
    _register(tx, leaf, said["name"], said["public"], said["roles"])


def _key_revoke(tx: Transaction, leaf: Leaf, body: Body) -> None:
    _revoke(tx, leaf, _statement(body)["key"])


def _key_rotate(tx: Transaction, leaf: Leaf, body: Body) -> None:
    said, key = _statement(body), tables.signing_key
    roles = tx.conn.execute(sa.select(key.c.roles).where(key.c.id == said["key"])).scalar_one()
    _revoke(tx, leaf, said["key"])
    _register(tx, leaf, said["name"], said["public"], roles.split(","))


def _revoke(tx: Transaction, leaf: Leaf, key: str) -> None:
    table = tables.signing_key
    tx.conn.execute(sa.update(table).where(table.c.id == key).values(revoked=leaf.seq))


def _register(tx: Transaction, leaf: Leaf, name: str, public: str, roles: list[str]) -> None:
    tx.conn.execute(
        sa.insert(tables.signing_key).values(
            id=digest.sha256(bytes.fromhex(public))[:16],
            name=name,
            public=public,
            roles=",".join(sorted(roles)),
            seq=leaf.seq,
        )
    )


def _policy_set(tx: Transaction, leaf: Leaf, body: Body) -> None:
    said = _statement(body)
    table = tables.policy
    tx.conn.execute(sa.delete(table).where(table.c.project == said["project"]))
    tx.conn.execute(
        sa.insert(table).values(project=said["project"], digest=said["policy"], seq=leaf.seq)
    )


def _schema_register(tx: Transaction, leaf: Leaf, body: Body) -> None:
    said = _statement(body)
    tx.conn.execute(
        sa.insert(tables.layout).values(
            project=said["project"],
            name=said["name"],
            version=said["version"],
            digest=said["layout"],
            mode=said["mode"],
            seq=leaf.seq,
        )
    )


def _verdict(tx: Transaction, leaf: Leaf, body: Body) -> None:
    said = _statement(body)
    tx.conn.execute(
        sa.insert(tables.verdict).values(
            seq=leaf.seq,
            artifact=said["artifact"],
            gate=said["gate"],
            passed=said["passed"],
            policy=said["policy"],
            baseline=said["baseline"],
            key=body["key"],
            statement=body["statement"],
            signature=body["signature"],
        )
    )


def _request(tx: Transaction, leaf: Leaf, body: Body) -> None:
    tx.conn.execute(
        sa.insert(tables.request).values(
            seq=leaf.seq,
            project=body["project"],
            stage=body["stage"],
            artifact=body["artifact"],
            policy=body["policy"],
            pointer=body["pointer"],
            author=body["author"],
            reason=body["reason"],
            state="open",
        )
    )


def _approval(tx: Transaction, leaf: Leaf, body: Body) -> None:
    said = _statement(body)
    tx.conn.execute(
        sa.insert(tables.approval).values(
            seq=leaf.seq,
            project=said["project"],
            stage=said["stage"],
            artifact=said["artifact"],
            key=body["key"],
            statement=body["statement"],
            signature=body["signature"],
            used=None,
        )
    )


def _pointer(tx: Transaction, leaf: Leaf, body: Body) -> None:
    said = _statement(body)
    project, stage = said["project"], said["stage"]
    tx.conn.execute(
        sa.delete(tables.stage).where(
            tables.stage.c.project == project, tables.stage.c.stage == stage
        )
    )
    tx.conn.execute(
        sa.insert(tables.stage).values(
            project=project, stage=stage, artifact=said["artifact"], seq=leaf.seq
        )
    )
    tx.conn.execute(
        sa.insert(tables.stage_history).values(
            seq=leaf.seq,
            project=project,
            stage=stage,
            artifact=said["artifact"],
            previous=said["previous"],
            action=leaf.action,
            original=said.get("original", leaf.seq),
            policy=said["policy"],
        )
    )
    used = said.get("approvals", [])
    if used:
        tx.conn.execute(
            sa.update(tables.approval).where(tables.approval.c.seq.in_(used)).values(used=leaf.seq)
        )
    tx.conn.execute(
        sa.update(tables.request)
        .where(
            tables.request.c.project == project,
            tables.request.c.stage == stage,
            tables.request.c.artifact == said["artifact"],
            tables.request.c.state == "open",
        )
        .values(state="done")
    )


def _hold_place(tx: Transaction, leaf: Leaf, body: Body) -> None:
    tx.conn.execute(
        sa.insert(tables.hold).values(
            seq=leaf.seq,
            artifact=leaf.subject,
            name=body["name"],
            reason=body["reason"],
            inputs=body["inputs"],
        )
    )


def _hold_lift(tx: Transaction, leaf: Leaf, body: Body) -> None:
    hold = tables.hold
    tx.conn.execute(
        sa.update(hold)
        .where(
            hold.c.artifact == leaf.subject, hold.c.name == body["name"], hold.c.lifted.is_(None)
        )
        .values(lifted=leaf.seq)
    )


def _recall(tx: Transaction, _leaf: Leaf, body: Body) -> None:
    for artifact in [body["artifact"], *body["descendants"]]:
        tx.conn.execute(
            sa.update(tables.artifact).where(tables.artifact.c.id == artifact).values(recalled=True)
        )


def _plan_made(tx: Transaction, leaf: Leaf, body: Body) -> None:
    plan = tables.plan
    tx.conn.execute(
        sa.update(plan)
        .where(plan.c.project == body["project"], plan.c.state == "open")
        .values(state="superseded")
    )
    tx.conn.execute(
        sa.insert(tables.plan).values(
            id=leaf.subject, seq=leaf.seq, project=body["project"], state="open"
        )
    )


def _plan_approve(tx: Transaction, leaf: Leaf, body: Body) -> None:
    tx.conn.execute(
        sa.update(tables.plan)
        .where(tables.plan.c.id == leaf.subject)
        .values(state="approved", approver=body["approver"])
    )


def _plan_applied(tx: Transaction, leaf: Leaf, _body: Body) -> None:
    tx.conn.execute(
        sa.update(tables.plan).where(tables.plan.c.id == leaf.subject).values(state="applied")
    )


def _forget(tx: Transaction, leaf: Leaf, body: Body) -> None:
    artifact, file = tables.artifact, tables.artifact_file
    tx.conn.execute(
        sa.update(artifact)
        .where(artifact.c.id == leaf.subject)
        .values(state="forgotten", there=0, training=0)
    )
    tx.conn.execute(sa.update(file).where(file.c.artifact == leaf.subject).values(state="removed"))
    tx.conn.execute(
        sa.delete(tables.quarantine).where(tables.quarantine.c.artifact == leaf.subject)
    )
    tx.conn.execute(
        sa.insert(tables.tombstone).values(
            artifact=leaf.subject,
            seq=leaf.seq,
            plan=body["plan"],
            rule=body["rule"],
            reason=body["reason"],
            approver=body["approver"],
        )
    )


def _archive(tx: Transaction, leaf: Leaf, _body: Body) -> None:
    _place(tx, leaf, "cold", "present", "archived")


def _restore(tx: Transaction, leaf: Leaf, _body: Body) -> None:
    _place(tx, leaf, "hot", "archived", "present")


def _place(tx: Transaction, leaf: Leaf, tier: str, before: str, after: str) -> None:
    artifact, file = tables.artifact, tables.artifact_file
    tx.conn.execute(sa.update(artifact).where(artifact.c.id == leaf.subject).values(tier=tier))
    tx.conn.execute(
        sa.update(file)
        .where(file.c.artifact == leaf.subject, file.c.state == before)
        .values(state=after)
    )


def _slim(tx: Transaction, leaf: Leaf, body: Body) -> None:
    file = tables.artifact_file
    for path in body["files"]:
        tx.conn.execute(
            sa.update(file)
            .where(file.c.artifact == leaf.subject, file.c.path == path)
            .values(state="removed")
        )
    artifact = tables.artifact
    left = sa.select(sa.func.coalesce(sa.func.sum(file.c.size), 0)).where(
        file.c.artifact == leaf.subject, file.c.state != "removed"
    )
    training = left.where(file.c.path.startswith(TRAINING_ONLY, autoescape=True))
    tx.conn.execute(
        sa.update(artifact)
        .where(artifact.c.id == leaf.subject)
        .values(there=left.scalar_subquery(), training=training.scalar_subquery())
    )


def _scope_create(tx: Transaction, leaf: Leaf, body: Body) -> None:
    tx.conn.execute(
        sa.insert(tables.scope).values(
            id=body["scope"], project=body["project"], state="active", seq=leaf.seq
        )
    )


def _scope_shred(tx: Transaction, leaf: Leaf, body: Body) -> None:
    table = tables.scope
    tx.conn.execute(
        sa.update(table).where(table.c.id == body["scope"]).values(state="shredded", seq=leaf.seq)
    )


def _quarantine(tx: Transaction, leaf: Leaf, body: Body) -> None:
    table = tables.quarantine
    for key, pack, what in body["chunks"]:
        tx.conn.execute(
            sa.delete(table).where(table.c.artifact == leaf.subject, table.c.key == key)
        )
        tx.conn.execute(
            sa.insert(table).values(
                artifact=leaf.subject, key=key, pack=pack, what=what, seq=leaf.seq
            )
        )


def _heal(tx: Transaction, leaf: Leaf, body: Body) -> None:
    table = tables.quarantine
    for key in body["chunks"]:
        tx.conn.execute(
            sa.delete(table).where(table.c.artifact == leaf.subject, table.c.key == key)
        )


def _tag(tx: Transaction, leaf: Leaf, body: Body) -> None:
    label = tables.label
    tx.conn.execute(
        sa.delete(label).where(label.c.artifact == leaf.subject, label.c.name == body["name"])
    )
    if body["value"] is not None:
        tx.conn.execute(
            sa.insert(label).values(
                artifact=leaf.subject, name=body["name"], value=body["value"], seq=leaf.seq
            )
        )


def _alias_set(tx: Transaction, leaf: Leaf, body: Body) -> None:
    alias, here = tables.alias, {"project": body["project"], "name": body["name"]}
    tx.conn.execute(
        sa.delete(alias).where(alias.c.project == here["project"], alias.c.name == here["name"])
    )
    if body["artifact"] is not None:
        tx.conn.execute(sa.insert(alias).values(**here, artifact=body["artifact"], seq=leaf.seq))


def _annotate(tx: Transaction, leaf: Leaf, body: Body) -> None:
    _say(tx, leaf, leaf.subject, body["text"])
    said = {"text": body["text"], "reason": body["reason"]}
    tx.conn.execute(sa.insert(tables.annotation).values(seq=leaf.seq, subject=leaf.subject, **said))


def _banner_set(tx: Transaction, leaf: Leaf, body: Body) -> None:
    banner = tables.banner
    tx.conn.execute(sa.delete(banner).where(banner.c.subject == leaf.subject))
    if body["text"] is not None:
        said = {"text": body["text"], "reason": body["reason"]}
        tx.conn.execute(sa.insert(banner).values(subject=leaf.subject, seq=leaf.seq, **said))


def _erase(tx: Transaction, leaf: Leaf, _body: Body) -> None:
    """Take out what was erased; what a rebuild from the store never saw is out already."""
    what, _, target = leaf.subject.partition("/")
    if what == "actor":
        tx.conn.execute(sa.delete(tables.actor).where(tables.actor.c.id == target))
    elif what == "leaf":
        seq, table = int(target), tables.leaf
        erased = tx.conn.execute(sa.select(table).where(table.c.seq == seq)).one()
        tx.conn.execute(sa.update(table).where(table.c.seq == seq).values(body=None, project=None))
        tx.conn.execute(sa.delete(tables.annotation).where(tables.annotation.c.seq == seq))
        tx.conn.execute(sa.delete(tables.words).where(tables.words.c.seq == seq))
        if erased.action == "banner_set":
            # The one before went when this one came, which a rebuild without its body missed.
            banner = tables.banner
            mine = banner.c.subject == erased.subject
            tx.conn.execute(sa.delete(banner).where(mine, banner.c.seq <= seq))


def _declare(tx: Transaction, leaf: Leaf, body: Body) -> None:
    edge = tables.edge
    where = sa.and_(
        edge.c.child == leaf.subject,
        edge.c.parent == body["parent"],
        edge.c.role == body["role"],
        edge.c.kind != "observed",
    )
    tx.conn.execute(sa.delete(edge).where(where))
    there = sa.select(edge.c.kind).where(
        edge.c.child == leaf.subject, edge.c.parent == body["parent"], edge.c.role == body["role"]
    )
    # What was seen needs nobody's word.
    if tx.conn.execute(there).first() is None:
        tx.conn.execute(
            sa.insert(edge).values(
                child=leaf.subject, parent=body["parent"], role=body["role"], kind=body["kind"]
            )
        )
    number = sa.select(tables.artifact.c.seq).where(tables.artifact.c.id == leaf.subject)
    _descend(tx, tx.conn.execute(number).scalar_one(), [body["parent"]])


def _descend(tx: Transaction, child: int, parents: Iterable[str]) -> None:
    """Note what an artifact descends from, by the numbers of the leaves."""
    artifact, ancestry = tables.artifact, tables.ancestry
    there = sa.select(ancestry.c.parent).where(
        ancestry.c.child == child, ancestry.c.parent == artifact.c.seq
    )
    for part in batches(sorted(parents)):
        found = sa.select(sa.literal(child, tables.BigInteger), artifact.c.seq).where(
            artifact.c.id.in_(part), ~there.exists()
        )
        tx.conn.execute(sa.insert(ancestry).from_select(["child", "parent"], found))


def _nothing(_tx: Transaction, _leaf: Leaf, _body: Body) -> None:
    """Leave the tables as they are: the leaf itself is the fact."""


_HANDLERS: Mapping[str, Callable[[Transaction, Leaf, Body], None]] = {
    "log_create": _log_create,
    "log_rotate": _nothing,
    "key_register": _key_register,
    "key_revoke": _key_revoke,
    "key_rotate": _key_rotate,
    "policy_set": _policy_set,
    "schema_register": _schema_register,
    "run_finish": _run_finish,
    "run_resume": _run_resume,
    "run_plan": _run_plan,
    "run_withdraw": _run_withdraw,
    "verdict": _verdict,
    "request": _request,
    "approval": _approval,
    "promote": _pointer,
    "rollback": _pointer,
    "hold_place": _hold_place,
    "hold_lift": _hold_lift,
    "recall": _recall,
    "plan_made": _plan_made,
    "plan_approve": _plan_approve,
    "plan_applied": _plan_applied,
    "forget": _forget,
    "archive": _archive,
    "restore": _restore,
    "slim": _slim,
    "scope_create": _scope_create,
    "scope_shred": _scope_shred,
    "quarantine": _quarantine,
    "heal": _heal,
    "prune": _nothing,
    "alarm": _nothing,
    "drill": _nothing,
    "tag": _tag,
    "annotate": _annotate,
    "alias_set": _alias_set,
    "banner_set": _banner_set,
    "erase": _erase,
    "declare": _declare,
}

ACTIONS: Final = frozenset({"publish", *_HANDLERS})
"""What a leaf may say was done."""


def _statement(body: Body) -> dict[str, Any]:
    return digest.parse(str(body["statement"]).encode())


def _finite(value: str | float) -> float | None:
    """Return a number as the database can order it; canonical JSON spells NaN as text."""
    number = float(value)
    return number if math.isfinite(number) else None


def _insert(tx: Transaction, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        tx.conn.execute(sa.insert(table), rows)
