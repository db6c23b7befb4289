"""Who evaluated what, and when that ended."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what a timeline of workers is drawn from; older evaluations have none."""
    for table in ("evaluations", "held"):
        op.add_column(table, sa.Column("worker", sa.String(300)))
        op.add_column(table, sa.Column("ended_at", sa.String(40)))
