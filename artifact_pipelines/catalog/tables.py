"""The tables of the catalog.

Every table but the ones of sessions, claims, leases and cursors is a fold of the ledger
over published records: a rebuild from the store alone gives the same rows.
"""

from sqlalchemy import BigInteger as _BigInteger
from sqlalchemy import (
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

# SQLite counts rows in 64 bits only when the column is called INTEGER.
BigInteger = _BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Facts: what was registered.

artifact = Table(
    "artifact",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False, comment="the leaf that published it"),
    Column("kind", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("step", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("version", Integer, comment="of a dataset or model, counted per name"),
    Column("content", Text, nullable=False, comment="SHA-256 of the manifest"),
    Column("record", LargeBinary, nullable=False, comment="the exact bytes behind the id"),
    Column("object", Text, nullable=False, comment="the session that wrote the publish object"),
    Column("annex", Text),
    Column("size", BigInteger, nullable=False),
    Column("there", BigInteger, nullable=False, comment="its bytes that nothing has removed"),
    Column("training", BigInteger, nullable=False, comment="those of them only training needs"),
    Column("published", Text, nullable=False),
    Column("state", Text, nullable=False, comment="live, forgotten"),
    Column("recalled", Boolean, nullable=False),
    Column("tier", Text, nullable=False, comment="hot, cold"),
    Column("run", Text, comment="the training run that stands behind it, itself where it is one"),
    Column("lock", Text, comment="of a run: SHA-256 of the list of its packages"),
    Index("ix_artifact_run_kind", "run", "kind"),
    Index("ix_artifact_lock", "lock"),
    Index("ix_artifact_project_kind_name_step", "project", "kind", "name", "step"),
    Index(
        "ix_artifact_living",  # all that a plan asks of every artifact, and nothing else
        *("project", "kind", "name", "step", "version", "seq"),
        *("there", "training", "tier", "published", "state"),
        sqlite_where=text("state = 'live'"),
        postgresql_where=text("state = 'live'"),
    ),
    Index("ix_artifact_project_kind_seq", "project", "kind", "seq"),
    Index("ix_artifact_seq", "seq", unique=True),
    Index("ix_artifact_content", "content"),
    Index(
        "uq_artifact_slot",
        "project",
        "kind",
        "name",
        text("coalesce(step, -1)"),
        "attempt",
        unique=True,
        sqlite_where=text("version IS NULL"),
        postgresql_where=text("version IS NULL"),
    ),
    Index(
        "uq_artifact_version",
        "project",
        "kind",
        "name",
        "version",
        unique=True,
        sqlite_where=text("version IS NOT NULL"),
        postgresql_where=text("version IS NOT NULL"),
    ),
)

artifact_file = Table(
    "artifact_file",
    metadata,
    Column("artifact", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("state", Text, nullable=False, comment="present, archived, removed"),
    sqlite_with_rowid=False,
)

edge = Table(
    "edge",
    metadata,
    Column("child", Text, primary_key=True),
    Column("parent", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("kind", Text, nullable=False, comment="observed, declared, rederivable"),
    Index("ix_edge_parent", "parent"),
    sqlite_with_rowid=False,
)

ancestry = Table(
    "ancestry",
    metadata,
    Column("child", BigInteger, primary_key=True, autoincrement=False),
    Column("parent", BigInteger, primary_key=True, autoincrement=False),
    Index("ix_ancestry_parent_child", "parent", "child"),
    comment="the edges once more, by the leaves of their ends: numbers are followed faster",
    sqlite_with_rowid=False,
)

metric = Table(
    "metric",
    metadata,
    Column("artifact", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Double, comment="null when it was not a finite number"),
    Column("seq", BigInteger, nullable=False, comment="the leaf that published the artifact"),
    Index("ix_metric_project_kind_name_value", "project", "kind", "name", "value", "seq"),
    sqlite_with_rowid=False,
)

parameter = Table(
    "parameter",
    metadata,
    Column("artifact", Text, primary_key=True),
    Column("name", Text, primary_key=True, comment="params.…, code.…, facts.…"),
    Column("number", Double),
    Column("text", Text),
    Index("ix_parameter_name_number", "name", "number"),
    Index("ix_parameter_name_text", "name", "text"),
    sqlite_with_rowid=False,
)

package = Table(
    "package",
    metadata,
    Column("lock", Text, primary_key=True, comment="the list of packages that it is in"),
    Column("name", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Index("ix_package_name_version", "name", "version"),
    sqlite_with_rowid=False,
)

words = Table(
    "words",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("artifact", Text, nullable=False),
    Column("text", Text, nullable=False),
    Index("ix_words_artifact", "artifact"),
    comment="names, notes and cards; a full-text index is kept over them",
)

run = Table(
    "run",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False, comment="running, finished, failed"),
    Column("reason", Text, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="the leaf that gave this state"),
    Index("ix_run_project_name", "project", "name"),
)

planned = Table(
    "planned",
    metadata,
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("plan", Text, nullable=False),
    Column("asked", Text, nullable=False, comment="params, inputs, resume_from; JSON"),
    Column("seq", BigInteger, nullable=False),
)

# Bytes: where chunks are, and who may still need them.

pack = Table(
    "pack",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False, comment="writing, live, condemned, deleting"),
    Column("session", Text, comment="the writer, while it is writing"),
    Column("version", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("condemned_at", Double),
    Index("ix_pack_state", "state"),
    Index("ix_pack_session", "session"),
)

chunk = Table(
    "chunk",
    metadata,
    Column("key", Text, primary_key=True),
    Column("pack", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("codec", Text, nullable=False),
    Column("base", Text),
    Column("key_id", Text),
    Index("ix_chunk_pack", "pack"),
    Index("ix_chunk_base", "base"),
    sqlite_with_rowid=False,
)

artifact_pack = Table(
    "artifact_pack",
    metadata,
    Column("artifact", Text, primary_key=True),
    Column("pack", Text, primary_key=True),
    Index("ix_artifact_pack_pack", "pack"),
    sqlite_with_rowid=False,
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("artifact", Text, primary_key=True),
    Column("key", Text, primary_key=True, comment="a damaged chunk that it needs"),
    Column("pack", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="the leaf that said so"),
)

scope = Table(
    "scope",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False, comment="active, shredded"),
    Column("seq", BigInteger, nullable=False, comment="the leaf that gave this state"),
)

session = Table(
    "session",
    metadata,
    Column("id", Text, primary_key=True),
    Column("lease_until", Double, nullable=False),
)

claim = Table(
    "claim",
    metadata,
    Column("session", Text, primary_key=True),
    Column("pack", Text, primary_key=True),
    Index("ix_claim_pack", "pack"),
)

reader = Table(
    "reader",
    metadata,
    Column("id", Text, primary_key=True),
    Column("artifact", Text, nullable=False),
    Column("lease_until", Double, nullable=False),
    Index("ix_reader_artifact", "artifact"),
)

# Governance: what may be used, and who said so.

signing_key = Table(
    "signing_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, comment="unique among keys in force"),
    Column("public", Text, nullable=False),
    Column("roles", Text, nullable=False, comment="comma-separated, sorted"),
    Column("seq", BigInteger, nullable=False),
    Column("revoked", BigInteger, comment="the leaf that ended it"),
)

layout = Table(
    "layout",
    metadata,
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", Text, nullable=False, comment="SHA-256 of the stored document"),
    Column("mode", Text, nullable=False, comment="what it was checked for when it was registered"),
    Column("seq", BigInteger, nullable=False),
)

policy = Table(
    "policy",
    metadata,
    Column("project", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

verdict = Table(
    "verdict",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("artifact", Text, nullable=False),
    Column("gate", Text, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("policy", Text, nullable=False),
    Column("baseline", Text),
    Column("key", Text, nullable=False),
    Column("statement", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Index("ix_verdict_artifact", "artifact"),
    Index("ix_verdict_policy", "policy"),
)

request = Table(
    "request",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("project", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("artifact", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("pointer", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", Text, nullable=False, comment="open, done"),
    Index("ix_request_project_stage_state", "project", "stage", "state"),
)

approval = Table(
    "approval",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("project", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("artifact", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("statement", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("used", BigInteger, comment="the pointer leaf that used it up"),
    Index("ix_approval_artifact_stage", "artifact", "stage"),
)

stage = Table(
    "stage",
    metadata,
    Column("project", Text, primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("artifact", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

stage_history = Table(
    "stage_history",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("project", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("artifact", Text, nullable=False),
    Column("previous", Text),
    Column("action", Text, nullable=False, comment="promote, rollback"),
    Column("original", BigInteger, nullable=False, comment="the leaf that proved the artifact"),
    Column("policy", Text, nullable=False),
    Index("ix_stage_history_project_stage", "project", "stage"),
    Index("ix_stage_history_artifact", "artifact"),
)

hold = Table(
    "hold",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("artifact", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("inputs", Boolean, nullable=False, comment="whether it also holds all inputs"),
    Column("lifted", BigInteger),
    Index("ix_hold_artifact", "artifact"),
)

plan = Table(
    "plan",
    metadata,
    Column("id", Text, primary_key=True, comment="SHA-256 of the stored plan"),
    Column("seq", BigInteger, nullable=False),
    Column("project", Text, nullable=False),
    Column("state", Text, nullable=False, comment="open, approved, applied, superseded"),
    Column("approver", Text),
    Index("ix_plan_project", "project"),
)

tombstone = Table(
    "tombstone",
    metadata,
    Column("artifact", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("plan", Text),
    Column("rule", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("approver", Text, nullable=False),
)

label = Table(
    "label",
    metadata,
    Column("artifact", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

alias = Table(
    "alias",
    metadata,
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("artifact", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

annotation = Table(
    "annotation",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("subject", Text, nullable=False, comment="an artifact"),
    Column("text", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("ix_annotation_subject", "subject"),
)

banner = Table(
    "banner",
    metadata,
    Column("subject", Text, primary_key=True, comment="an artifact or a project"),
    Column("seq", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

# Proof: the ledger.

leaf = Table(
    "leaf",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("project", Text),
    Column("envelope", LargeBinary, nullable=False),
    Column("body", LargeBinary, comment="null once it was erased"),
    Column("hash", LargeBinary, nullable=False),
    Column(
        "nodes",
        LargeBinary,
        nullable=False,
        comment="the hashes of the tree nodes that it completes, the lowest first",
    ),
    Index("ix_leaf_subject", "subject"),
    Index("ix_leaf_action", "action"),
    Index("ix_leaf_project", "project"),
)

ledger_head = Table(
    "ledger_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("origin", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("peaks", LargeBinary, nullable=False, comment="roots of the complete subtrees"),
    Column("time", Double, nullable=False, comment="of the last leaf; the clock's low-water mark"),
    Column("exported", BigInteger, nullable=False, comment="leaves known to be in the store"),
)

tree_head = Table(
    "tree_head",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
    Column("pointers", Text, nullable=False, comment="canonical JSON behind the note's digest"),
)

actor = Table(
    "actor",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

# Progress: who has seen what.

reported = Table(
    "reported",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

attempt = Table(
    "attempt",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("count", Integer, nullable=False),
)

outline = Table(
    "outline",
    metadata,
    Column("project", Text, primary_key=True),
    Column("document", Text, nullable=False),
    comment="what Dagster last said of a project: parameters and datasets, canonical JSON",
)

LOCAL = frozenset({session, claim, reader, reported, attempt, outline})
"""The tables that a rebuild leaves empty: they say what is going on, not what is true."""
