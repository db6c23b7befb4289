"""Bring a database to this moeash's schema, or say why that is not possible."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from moeash.errors import SchemaError

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""All revisions, oldest first; a test compares them with the migrations folder."""

HEAD = REVISIONS[-1]

_FIRST = {"studies", "evaluations", "generations", "events"}
"""Tables that every revision has."""


def current_revision(connection: Connection) -> str | None:
    """Return the database's revision, None when it holds no moeash schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def is_current(connection: Connection) -> bool:
    """Tell whether the database has this moeash's schema already."""
    return current_revision(connection) == HEAD


def is_empty(connection: Connection) -> bool:
    """Tell whether the database holds nothing at all."""
    return not inspect(connection).get_table_names()


def upgrade(connection: Connection) -> None:
    """Upgrade the schema to :data:`HEAD`.

    Raises:
        SchemaError: the database is newer, or holds tables that are not moeash's.
    """
    revision = current_revision(connection)
    if revision == HEAD:
        return
    tables = set(inspect(connection).get_table_names())
    if revision not in (None, *REVISIONS) and tables >= _FIRST:
        raise SchemaError(
            f"the database has schema {revision}, this moeash knows up to {HEAD}; "
            "install a newer moeash or use another --storage"
        )
    foreign = tables - {"alembic_version"}
    if foreign and revision not in REVISIONS:
        raise SchemaError(
            f"the database holds tables that are not moeash's ({', '.join(sorted(foreign)[:3])}); "
            "use another --storage"
        )
    from alembic import command  # a third of a second that only a schema change needs
    from alembic.config import Config

    config = Config()
    migrations = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", migrations.replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
