"""Alembic's entry: run the migrations on the connection that ``schema.upgrade`` hands over."""

from alembic import context

from moeash.study.storage.tables import METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
