"""Run by Alembic for each migration."""

from alembic import context

from artifact_pipelines.catalog import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    transaction_per_migration=False,
    transactional_ddl=True,
)
context.run_migrations()
