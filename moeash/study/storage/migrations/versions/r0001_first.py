"""The first schema: studies and all they have, and who may write them."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _study(**options: Any) -> sa.Column[int]:
    study = sa.ForeignKey("studies.id", ondelete="CASCADE")
    return sa.Column("study_id", sa.Integer, study, nullable=False, **options)


def _artifact() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["study_id", "artifact"], ["artifacts.study_id", "artifacts.fingerprint"]
    )


def _job_and_outcome(*, by_key: bool) -> list[sa.Column[Any]]:
    return [
        sa.Column("key", sa.String(32), primary_key=by_key, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("floor", sa.Float(53), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("metric", sa.Float(53)),
        sa.Column("bound", sa.Float(53)),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("entries", sa.BigInteger),
        sa.Column("bits_per_weight", sa.Float(53)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("artifact", sa.String(64)),
        sa.Column("n_batches", sa.Integer, nullable=False),
        sa.Column("duration_s", sa.Float(53), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("retriable", sa.Boolean, nullable=False),
    ]


def upgrade() -> None:
    """Create the first schema."""
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("network_fingerprint", sa.String(64), nullable=False),
        sa.Column("data_fingerprint", sa.String(64), nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("keeping", sa.JSON, nullable=False),
        sa.Column("metric_name", sa.String(200), nullable=False),
        sa.Column("baseline", sa.Float(53), nullable=False),
        sa.Column("remeasured_baseline", sa.Float(53)),
        sa.Column("sample", sa.JSON, nullable=False),
        sa.Column("wanted_floor", sa.Float(53), nullable=False),
        sa.Column("original_bytes", sa.BigInteger, nullable=False),
        sa.Column("n_shared", sa.BigInteger, nullable=False),
        sa.Column("n_kept", sa.BigInteger, nullable=False),
        sa.Column("n_batches", sa.BigInteger, nullable=False),
        sa.Column("objectives", sa.JSON, nullable=False),
        sa.Column("reference", sa.JSON, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("ending", sa.String(20)),
        sa.Column("reason", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("activity", sa.JSON),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("updated_at", sa.String(40), nullable=False),
    )
    op.create_table(
        "artifacts",
        _study(primary_key=True),
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("content", sa.LargeBinary),
        sa.Column("path", sa.Text),
    )
    op.create_table(
        "evaluations",
        _study(primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("stage", sa.String(10), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("parent", sa.Integer),
        *_job_and_outcome(by_key=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.UniqueConstraint("study_id", "key"),
        _artifact(),
    )
    op.create_index("evaluations_by_status", "evaluations", ["study_id", "stage", "status"])
    op.create_table(
        "held",
        _study(primary_key=True),
        *_job_and_outcome(by_key=True),
        _artifact(),
    )
    op.create_table(
        "generations",
        _study(primary_key=True),
        sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hypervolume", sa.Float(53), nullable=False),
        sa.Column("n_evaluations", sa.Integer, nullable=False),
        sa.Column("n_front", sa.Integer, nullable=False),
        sa.Column("n_batches", sa.Integer, nullable=False),
        sa.Column("elapsed_s", sa.Float(53), nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        _study(),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_of_a_study", "events", ["study_id", "kind", "id"])
    op.create_table(
        "fences",
        sa.Column("study", sa.String(200), primary_key=True),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("writes", sa.BigInteger, nullable=False),
    )
