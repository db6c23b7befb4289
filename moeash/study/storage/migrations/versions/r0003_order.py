"""The last event of a study is found without counting all."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the index."""
    op.create_index("events_in_order", "events", ["study_id", "id"])
