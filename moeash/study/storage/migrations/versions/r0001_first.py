"""Studies, evaluations, generations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first schema."""
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("network_fingerprint", sa.String(64), nullable=False),
        sa.Column("data_fingerprint", sa.String(64), nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("metric_name", sa.String(200), nullable=False),
        sa.Column("baseline", sa.Float(53), nullable=False),
        sa.Column("original_bytes", sa.BigInteger, nullable=False),
        sa.Column("n_shared", sa.BigInteger, nullable=False),
        sa.Column("n_kept", sa.BigInteger, nullable=False),
        sa.Column("n_batches", sa.BigInteger, nullable=False),
        sa.Column("objectives", sa.JSON, nullable=False),
        sa.Column("reference", sa.JSON, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("ending", sa.String(20)),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("updated_at", sa.String(40), nullable=False),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "study_id", sa.Integer, sa.ForeignKey("studies.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("stage", sa.String(10), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("candidate", sa.JSON, nullable=False),
        sa.Column("runs", sa.JSON, nullable=False),
        sa.Column("floor", sa.Float(53), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("metric", sa.Float(53)),
        sa.Column("bound", sa.Float(53)),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("entries", sa.BigInteger),
        sa.Column("bits_per_weight", sa.Float(53)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("n_batches", sa.Integer, nullable=False),
        sa.Column("duration_s", sa.Float(53), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.UniqueConstraint("study_id", "number"),
        sa.UniqueConstraint("study_id", "key"),
    )
    op.create_table(
        "generations",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("studies.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("index", sa.Integer, primary_key=True),
        sa.Column("hypervolume", sa.Float(53), nullable=False),
        sa.Column("n_evaluations", sa.Integer, nullable=False),
        sa.Column("n_front", sa.Integer, nullable=False),
        sa.Column("n_batches", sa.Integer, nullable=False),
        sa.Column("elapsed_s", sa.Float(53), nullable=False),
    )
