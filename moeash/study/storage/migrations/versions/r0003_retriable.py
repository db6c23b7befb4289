"""Failures that say nothing about their candidate may be tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Mark such failures; those stored before are known by what the pool said of them."""
    op.add_column(
        "evaluations",
        sa.Column("retriable", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.execute(
        "UPDATE evaluations SET retriable = true "
        "WHERE status = 'failed' AND error LIKE 'gave up after%'"
    )
