"""Which images a study is reported on."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add it; of older studies nobody can say whether their holdout images are what they were."""
    op.add_column("studies", sa.Column("holdout_fingerprint", sa.String(64)))
