"""What a cluster adds: events of a study, and how many workers it has."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table of events and the number of workers."""
    op.add_column("studies", sa.Column("workers", sa.Integer))
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "study_id", sa.Integer, sa.ForeignKey("studies.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
