"""The steps that bring a catalog of any earlier release to this one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

_MIGRATION_LOCK = 0x41_50_43_41_54


def migrate(conn: Connection, revision: str) -> None:
    """Bring the catalog behind a connection to a revision, inside its transaction."""
    if conn.dialect.name == "postgresql":
        # Two processes that open a new catalog at once must not both create it.
        conn.exec_driver_sql(f"select pg_advisory_xact_lock({_MIGRATION_LOCK})")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = conn
    command.upgrade(config, revision)
