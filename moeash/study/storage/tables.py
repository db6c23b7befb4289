"""The schema, as alembic's newest revision makes it. A test compares the two."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

METADATA = MetaData()

STUDIES = Table(
    "studies",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("spec", JSON, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("network_fingerprint", String(64), nullable=False),
    Column("data_fingerprint", String(64), nullable=False),
    Column("environment", JSON, nullable=False),
    Column("metric_name", String(200), nullable=False),
    Column("baseline", Float(53), nullable=False),
    Column("original_bytes", BigInteger, nullable=False),
    Column("n_shared", BigInteger, nullable=False),
    Column("n_kept", BigInteger, nullable=False),
    Column("n_batches", BigInteger, nullable=False),
    Column("objectives", JSON, nullable=False),
    Column("reference", JSON, nullable=False),
    Column("status", String(20), nullable=False),
    Column("ending", String(20)),
    Column("created_at", String(40), nullable=False),
    Column("updated_at", String(40), nullable=False),
    Column("workers", Integer),
)

EVALUATIONS = Table(
    "evaluations",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("stage", String(10), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("parent", Integer),
    Column("candidate", JSON, nullable=False),
    Column("runs", JSON, nullable=False),
    Column("floor", Float(53), nullable=False),
    Column("status", String(10), nullable=False),
    Column("metric", Float(53)),
    Column("bound", Float(53)),
    Column("size_bytes", BigInteger),
    Column("entries", BigInteger),
    Column("bits_per_weight", Float(53)),
    Column("fingerprint", String(64)),
    Column("n_batches", Integer, nullable=False),
    Column("duration_s", Float(53), nullable=False),
    Column("error", Text),
    Column("retriable", Boolean, nullable=False, server_default=false()),
    Column("created_at", String(40), nullable=False),
    UniqueConstraint("study_id", "number"),
    UniqueConstraint("study_id", "key"),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("text", Text, nullable=False),
)

GENERATIONS = Table(
    "generations",
    METADATA,
    Column("study_id", ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("hypervolume", Float(53), nullable=False),
    Column("n_evaluations", Integer, nullable=False),
    Column("n_front", Integer, nullable=False),
    Column("n_batches", Integer, nullable=False),
    Column("elapsed_s", Float(53), nullable=False),
)
