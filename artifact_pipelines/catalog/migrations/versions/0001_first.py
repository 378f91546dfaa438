"""Make the tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite counts rows in 64 bits only when the column is called INTEGER.
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table and index."""
    op.create_table(
        "actor",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_actor"),
        sa.UniqueConstraint("name", name="uq_actor_name"),
    )
    op.create_table(
        "ancestry",
        sa.Column("child", _BIG, autoincrement=False, nullable=False),
        sa.Column("parent", _BIG, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("child", "parent", name="pk_ancestry"),
        comment="the edges once more, by the leaves of their ends: numbers are followed faster",
        sqlite_with_rowid=False,
    )
    op.create_index("ix_ancestry_parent_child", "ancestry", ["parent", "child"], unique=False)
    op.create_table(
        "approval",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("used", _BIG, nullable=True, comment="the pointer leaf that used it up"),
        sa.PrimaryKeyConstraint("seq", name="pk_approval"),
    )
    op.create_index("ix_approval_artifact_stage", "approval", ["artifact", "stage"], unique=False)
    op.create_table(
        "artifact",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False, comment="the leaf that published it"),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("step", _BIG, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column(
            "version",
            sa.Integer(),
            nullable=True,
            comment="of a dataset or model, counted per name",
        ),
        sa.Column("content", sa.Text(), nullable=False, comment="SHA-256 of the manifest"),
        sa.Column(
            "record", sa.LargeBinary(), nullable=False, comment="the exact bytes behind the id"
        ),
        sa.Column(
            "object", sa.Text(), nullable=False, comment="the session that wrote the publish object"
        ),
        sa.Column("annex", sa.Text(), nullable=True),
        sa.Column("size", _BIG, nullable=False),
        sa.Column("there", _BIG, nullable=False, comment="its bytes that nothing has removed"),
        sa.Column("training", _BIG, nullable=False, comment="those of them only training needs"),
        sa.Column("published", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="live, forgotten"),
        sa.Column("recalled", sa.Boolean(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False, comment="hot, cold"),
        sa.Column(
            "run",
            sa.Text(),
            nullable=True,
            comment="the training run that stands behind it, itself where it is one",
        ),
        sa.Column(
            "lock",
            sa.Text(),
            nullable=True,
            comment="of a run: SHA-256 of the list of its packages",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_artifact"),
    )
    op.create_index("ix_artifact_run_kind", "artifact", ["run", "kind"], unique=False)
    op.create_index("ix_artifact_lock", "artifact", ["lock"], unique=False)
    op.create_index("ix_artifact_content", "artifact", ["content"], unique=False)
    op.create_index(
        "ix_artifact_project_kind_name_step",
        "artifact",
        ["project", "kind", "name", "step"],
        unique=False,
    )
    op.create_index(
        "ix_artifact_living",
        "artifact",
        [
            *("project", "kind", "name", "step", "version", "seq"),
            *("there", "training", "tier", "published", "state"),
        ],
        unique=False,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_index(
        "ix_artifact_project_kind_seq",
        "artifact",
        ["project", "kind", "seq"],
        unique=False,
    )
    op.create_index("ix_artifact_seq", "artifact", ["seq"], unique=True)
    op.create_index(
        "uq_artifact_version",
        "artifact",
        ["project", "kind", "name", "version"],
        unique=True,
        sqlite_where=sa.text("version IS NOT NULL"),
        postgresql_where=sa.text("version IS NOT NULL"),
    )
    op.create_table(
        "artifact_file",
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size", _BIG, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="present, archived, removed"),
        sa.PrimaryKeyConstraint("artifact", "path", name="pk_artifact_file"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "artifact_pack",
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("artifact", "pack", name="pk_artifact_pack"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_artifact_pack_pack", "artifact_pack", ["pack"], unique=False)
    op.create_table(
        "attempt",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_attempt"),
    )
    op.create_table(
        "outline",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", name="pk_outline"),
        comment="what Dagster last said of a project: parameters and datasets, canonical JSON",
    )
    op.create_table(
        "chunk",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.Column("offset", _BIG, nullable=False),
        sa.Column("stored", _BIG, nullable=False),
        sa.Column("length", _BIG, nullable=False),
        sa.Column("codec", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_chunk"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_chunk_base", "chunk", ["base"], unique=False)
    op.create_index("ix_chunk_pack", "chunk", ["pack"], unique=False)
    op.create_table(
        "claim",
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session", "pack", name="pk_claim"),
    )
    op.create_index("ix_claim_pack", "claim", ["pack"], unique=False)
    op.create_table(
        "edge",
        sa.Column("child", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="observed, declared, rederivable"),
        sa.PrimaryKeyConstraint("child", "parent", "role", name="pk_edge"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_edge_parent", "edge", ["parent"], unique=False)
    op.create_table(
        "hold",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "inputs", sa.Boolean(), nullable=False, comment="whether it also holds all inputs"
        ),
        sa.Column("lifted", _BIG, nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_hold"),
    )
    op.create_index("ix_hold_artifact", "hold", ["artifact"], unique=False)
    op.create_table(
        "alias",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name="pk_alias"),
    )
    op.create_table(
        "annotation",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="an artifact"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_annotation"),
    )
    op.create_index("ix_annotation_subject", "annotation", ["subject"], unique=False)
    op.create_table(
        "banner",
        sa.Column("subject", sa.Text(), nullable=False, comment="an artifact or a project"),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_banner"),
    )
    op.create_table(
        "label",
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("artifact", "name", name="pk_label"),
    )
    op.create_table(
        "leaf",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("time", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True, comment="null once it was erased"),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "nodes",
            sa.LargeBinary(),
            nullable=False,
            comment="the hashes of the tree nodes that it completes, the lowest first",
        ),
        sa.PrimaryKeyConstraint("seq", name="pk_leaf"),
    )
    op.create_index("ix_leaf_action", "leaf", ["action"], unique=False)
    op.create_index("ix_leaf_project", "leaf", ["project"], unique=False)
    op.create_index("ix_leaf_subject", "leaf", ["subject"], unique=False)
    op.create_table(
        "ledger_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("size", _BIG, nullable=False),
        sa.Column(
            "peaks", sa.LargeBinary(), nullable=False, comment="roots of the complete subtrees"
        ),
        sa.Column(
            "time",
            sa.Double(),
            nullable=False,
            comment="of the last leaf; the clock's low-water mark",
        ),
        sa.Column("exported", _BIG, nullable=False, comment="leaves known to be in the store"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_head"),
    )
    op.create_table(
        "metric",
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "value", sa.Double(), nullable=True, comment="null when it was not a finite number"
        ),
        sa.Column("seq", _BIG, nullable=False, comment="the leaf that published the artifact"),
        sa.PrimaryKeyConstraint("artifact", "name", name="pk_metric"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_metric_project_kind_name_value",
        "metric",
        ["project", "kind", "name", "value", "seq"],
        unique=False,
    )
    op.create_table(
        "pack",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="writing, live, condemned, deleting"),
        sa.Column("session", sa.Text(), nullable=True, comment="the writer, while it is writing"),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("size", _BIG, nullable=False),
        sa.Column("condemned_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pack"),
    )
    op.create_index("ix_pack_session", "pack", ["session"], unique=False)
    op.create_index("ix_pack_state", "pack", ["state"], unique=False)
    op.create_table(
        "plan",
        sa.Column("id", sa.Text(), nullable=False, comment="SHA-256 of the stored plan"),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column(
            "state", sa.Text(), nullable=False, comment="open, approved, applied, superseded"
        ),
        sa.Column("approver", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_plan"),
    )
    op.create_index("ix_plan_project", "plan", ["project"], unique=False)
    op.create_table(
        "layout",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False, comment="SHA-256 of the stored document"),
        sa.Column(
            "mode",
            sa.Text(),
            nullable=False,
            comment="what it was checked for when it was registered",
        ),
        sa.Column("seq", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("project", "name", "version", name="pk_layout"),
    )
    op.create_table(
        "policy",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("project", name="pk_policy"),
    )
    op.create_table(
        "reader",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reader"),
    )
    op.create_index("ix_reader_artifact", "reader", ["artifact"], unique=False)
    op.create_table(
        "reported",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("instance", "topic", name="pk_reported"),
    )
    op.create_table(
        "request",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("pointer", _BIG, nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="open, done"),
        sa.PrimaryKeyConstraint("seq", name="pk_request"),
    )
    op.create_index(
        "ix_request_project_stage_state", "request", ["project", "stage", "state"], unique=False
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="running, finished, failed"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False, comment="the leaf that gave this state"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
    )
    op.create_index("ix_run_project_name", "run", ["project", "name"], unique=False)
    op.create_table(
        "planned",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("asked", sa.Text(), nullable=False, comment="params, inputs, resume_from; JSON"),
        sa.Column("seq", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name="pk_planned"),
    )
    op.create_table(
        "quarantine",
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="a damaged chunk that it needs"),
        sa.Column("pack", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False, comment="the leaf that said so"),
        sa.PrimaryKeyConstraint("artifact", "key", name="pk_quarantine"),
    )
    op.create_table(
        "scope",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="active, shredded"),
        sa.Column("seq", _BIG, nullable=False, comment="the leaf that gave this state"),
        sa.PrimaryKeyConstraint("id", name="pk_scope"),
        sa.UniqueConstraint("project", name="uq_scope_project"),
    )
    op.create_table(
        "session",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_session"),
    )
    op.create_table(
        "signing_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="unique among keys in force"),
        sa.Column("public", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False, comment="comma-separated, sorted"),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("revoked", _BIG, nullable=True, comment="the leaf that ended it"),
        sa.PrimaryKeyConstraint("id", name="pk_signing_key"),
    )
    op.create_table(
        "stage",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("project", "stage", name="pk_stage"),
    )
    op.create_table(
        "stage_history",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False, comment="promote, rollback"),
        sa.Column("original", _BIG, nullable=False, comment="the leaf that proved the artifact"),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_stage_history"),
    )
    op.create_index("ix_stage_history_artifact", "stage_history", ["artifact"], unique=False)
    op.create_index(
        "ix_stage_history_project_stage", "stage_history", ["project", "stage"], unique=False
    )
    op.create_table(
        "tombstone",
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("plan", sa.Text(), nullable=True),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("approver", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("artifact", name="pk_tombstone"),
    )
    op.create_table(
        "tree_head",
        sa.Column("size", _BIG, autoincrement=False, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column(
            "pointers", sa.Text(), nullable=False, comment="canonical JSON behind the note's digest"
        ),
        sa.PrimaryKeyConstraint("size", name="pk_tree_head"),
    )
    op.create_table(
        "verdict",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("gate", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("baseline", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_verdict"),
    )
    op.create_index("ix_verdict_artifact", "verdict", ["artifact"], unique=False)
    op.create_index("ix_verdict_policy", "verdict", ["policy"], unique=False)
    op.create_index(
        "uq_artifact_slot",
        "artifact",
        ["project", "kind", "name", sa.text("coalesce(step, -1)"), "attempt"],
        unique=True,
        sqlite_where=sa.text("version IS NULL"),
        postgresql_where=sa.text("version IS NULL"),
    )
    op.create_table(
        "parameter",
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="params.…, code.…, facts.…"),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("artifact", "name", name="pk_parameter"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_parameter_name_number", "parameter", ["name", "number"], unique=False)
    op.create_index("ix_parameter_name_text", "parameter", ["name", "text"], unique=False)
    op.create_table(
        "package",
        sa.Column("lock", sa.Text(), nullable=False, comment="the list of packages that it is in"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("lock", "name", name="pk_package"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_package_name_version", "package", ["name", "version"], unique=False)
    op.create_table(
        "words",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_words"),
        comment="names, notes and cards; a full-text index is kept over them",
    )
    op.create_index("ix_words_artifact", "words", ["artifact"], unique=False)
    _index_words()


def _index_words() -> None:
    """Keep a full-text index over names, notes and cards, by what the database has for it."""
    if op.get_bind().dialect.name != "sqlite":
        op.execute("CREATE INDEX ix_words_text ON words USING gin (to_tsvector('simple', text))")
        return
    op.execute(
        "CREATE VIRTUAL TABLE words_index USING fts5"
        "(text, content='words', content_rowid='seq', tokenize='unicode61')"
    )
    for event, change in (
        ("INSERT", "INSERT INTO words_index (rowid, text) VALUES (new.seq, new.text)"),
        (
            "DELETE",
            (
                "INSERT INTO words_index (words_index, rowid, text) "
                "VALUES ('delete', old.seq, old.text)"
            ),
        ),
    ):
        op.execute(
            f"CREATE TRIGGER words_{event.lower()} AFTER {event} ON words BEGIN {change}; END"
        )
