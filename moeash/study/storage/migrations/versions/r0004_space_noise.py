"""What a study searches, and how much of a drop may be luck."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add both; older studies searched what their specification says and take drops as measured."""
    op.add_column("studies", sa.Column("space", sa.JSON))
    for table in ("evaluations", "held"):
        op.add_column(table, sa.Column("noise", sa.Float(53)))
