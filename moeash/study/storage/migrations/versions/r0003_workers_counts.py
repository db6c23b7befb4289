"""Who evaluated what, and when that ended; counts of evaluations; how the float weights lie."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

COUNT = """
INSERT INTO counts
    (study_id, stage, status, n, n_retriable, n_batches, duration_s, smallest_bytes)
SELECT e.study_id, e.stage, e.status, count(*), sum(CASE WHEN e.retriable THEN 1 ELSE 0 END),
    sum(e.n_batches), sum(e.duration_s),
    min(CASE WHEN e.status = 'complete' AND e.metric >= s.wanted_floor THEN e.size_bytes END)
FROM evaluations e JOIN studies s ON s.id = e.study_id
GROUP BY e.study_id, e.stage, e.status
"""


def upgrade() -> None:
    """Add what a timeline of workers is drawn from, which older evaluations have not; count."""
    for table in ("evaluations", "held"):
        op.add_column(table, sa.Column("worker", sa.String(300)))
        op.add_column(table, sa.Column("ended_at", sa.String(40)))
    op.add_column("studies", sa.Column("histogram", sa.JSON))
    op.drop_index("evaluations_by_status", "evaluations")
    op.create_index("evaluations_by_status", "evaluations", ["study_id", "status", "number"])
    op.create_table(
        "counts",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("studies.id", ondelete="CASCADE"),
            primary_key=True,
            nullable=False,
        ),
        sa.Column("stage", sa.String(10), primary_key=True),
        sa.Column("status", sa.String(10), primary_key=True),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("n_retriable", sa.Integer, nullable=False),
        sa.Column("n_batches", sa.BigInteger, nullable=False),
        sa.Column("duration_s", sa.Float(53), nullable=False),
        sa.Column("smallest_bytes", sa.BigInteger),
    )
    op.execute(sa.text(COUNT))
