"""Which calibration and training images a study's candidates are made from."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add their fingerprint; of older studies nobody knows it."""
    op.add_column("studies", sa.Column("inputs_fingerprint", sa.String(64)))
