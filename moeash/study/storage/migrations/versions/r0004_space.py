"""The variables that a study searches, within bounds that may have been found when it began."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add them; older studies searched what their specification says."""
    op.add_column("studies", sa.Column("space", sa.JSON))
