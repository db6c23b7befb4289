"""The schema, as alembic's newest revision makes it. A test compares the two."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA = MetaData()


def _study() -> Column[int]:
    return Column(
        "study_id",
        Integer,
        ForeignKey("studies.id", ondelete="CASCADE"),
        primary_key=True,
        nullable=False,
    )


def _artifact() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["study_id", "artifact"], ["artifacts.study_id", "artifacts.fingerprint"]
    )


def _job_and_outcome(*, by_key: bool) -> list[Column[Any]]:
    return [
        # PostgreSQL cannot index a long text, so a digest of the recipe stands for it.
        Column("key", String(32), primary_key=by_key, nullable=False),
        Column("recipe", Text, nullable=False),
        Column("floor", Float(53), nullable=False),
        Column("status", String(10), nullable=False),
        Column("metric", Float(53)),
        Column("bound", Float(53)),
        Column("noise", Float(53)),
        Column("size_bytes", BigInteger),
        Column("entries", BigInteger),
        Column("bits_per_weight", Float(53)),
        Column("fingerprint", String(64)),
        Column("artifact", String(64)),
        Column("n_batches", Integer, nullable=False),
        Column("duration_s", Float(53), nullable=False),
        Column("error", Text),
        Column("retriable", Boolean, nullable=False),
        Column("worker", String(300)),
        Column("ended_at", String(40)),
    ]


STUDIES = Table(
    "studies",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("uid", String(32), nullable=False),
    Column("name", String(200), nullable=False, unique=True),
    Column("spec", JSON, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("network_fingerprint", String(64), nullable=False),
    Column("data_fingerprint", String(64), nullable=False),
    Column("environment", JSON, nullable=False),
    Column("keeping", JSON, nullable=False),
    Column("metric_name", String(200), nullable=False),
    Column("baseline", Float(53), nullable=False),
    Column("remeasured_baseline", Float(53)),
    Column("sample", JSON, nullable=False),
    Column("wanted_floor", Float(53), nullable=False),
    Column("original_bytes", BigInteger, nullable=False),
    Column("n_shared", BigInteger, nullable=False),
    Column("n_kept", BigInteger, nullable=False),
    Column("n_batches", BigInteger, nullable=False),
    Column("objectives", JSON, nullable=False),
    Column("reference", JSON, nullable=False),
    Column("status", String(20), nullable=False),
    Column("ending", String(20)),
    Column("reason", Text),
    Column("owner", Text),
    Column("activity", JSON(none_as_null=True)),
    Column("histogram", JSON(none_as_null=True)),
    Column("space", JSON(none_as_null=True)),
    Column("inputs_fingerprint", String(64)),
    Column("created_at", String(40), nullable=False),
    Column("updated_at", String(40), nullable=False),
)
"""``uid`` names the folder of a study's artifacts: random, so that no two studies share one."""

ARTIFACTS = Table(
    "artifacts",
    METADATA,
    _study(),
    Column("fingerprint", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("digest", String(32), nullable=False),
    Column("content", LargeBinary),
    Column("path", Text),
)

EVALUATIONS = Table(
    "evaluations",
    METADATA,
    _study(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(10), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("parent", Integer),
    *_job_and_outcome(by_key=False),
    Column("created_at", String(40), nullable=False),
    UniqueConstraint("study_id", "key"),
    Index("evaluations_by_status", "study_id", "status", "number"),
    _artifact(),
)

COUNTS = Table(
    "counts",
    METADATA,
    _study(),
    Column("stage", String(10), primary_key=True),
    Column("status", String(10), primary_key=True),
    Column("n", Integer, nullable=False),
    Column("n_retriable", Integer, nullable=False),
    Column("n_batches", BigInteger, nullable=False),
    Column("duration_s", Float(53), nullable=False),
    Column("smallest_bytes", BigInteger),
)
"""How many evaluations there are, and what they took; see :mod:`moeash.study.storage.counts`."""

HELD = Table(
    "held",
    METADATA,
    _study(),
    *_job_and_outcome(by_key=True),
    _artifact(),
)
"""Outcomes whose place in the order of evaluations is not known yet."""

GENERATIONS = Table(
    "generations",
    METADATA,
    _study(),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("hypervolume", Float(53), nullable=False),
    Column("n_evaluations", Integer, nullable=False),
    Column("n_front", Integer, nullable=False),
    Column("n_batches", Integer, nullable=False),
    Column("elapsed_s", Float(53), nullable=False),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("studies.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("payload", JSON, nullable=False),
    Index("events_of_a_study", "study_id", "kind", "id"),
    Index("events_in_order", "study_id", "id"),
    # Without it SQLite would give the id of a deleted event again, and a stream would miss the new.
    sqlite_autoincrement=True,
)

FENCES = Table(
    "fences",
    METADATA,
    Column("study", String(200), primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("writes", BigInteger, nullable=False),
)
"""Who may write a study, by name, because a study is held before it is stored; see
:mod:`moeash.study.storage.engines.fence`."""

# ------------------------------------------------------------------ what people do with studies

LABELS = Table(
    "labels",
    METADATA,
    _study(),
    Column("notes", Text, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("pins", JSON, nullable=False),
    Column("archived", Boolean, nullable=False),
)
"""What people say of a study; a study without a row has said nothing."""

LAUNCHES = Table(
    "launches",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("study", String(200), nullable=False),
    Column("state", String(10), nullable=False),
    Column("request", JSON, nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("requested_at", String(40), nullable=False),
    Column("launcher", String(10)),
    Column("place", JSON(none_as_null=True)),
    Column("folder", Text),
    Column("started_at", String(40)),
    Column("ended_at", String(40)),
    Column("exit_code", Integer),
    Column("message", Text),
    Index("launches_by_state", "state", "id"),
    Index("launches_of_a_study", "study", "kind", "id"),
    Index(
        "one_run_a_study",
        "study",
        unique=True,
        sqlite_where=text("kind = 'run' AND state IN ('queued', 'running')"),
        postgresql_where=text("kind = 'run' AND state IN ('queued', 'running')"),
    ),
    sqlite_autoincrement=True,
)
"""What is to be run, runs, or has run: studies and exports. By name, because a study that waits in
the queue is not stored yet. ``place`` says how its process is found."""

TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("role", String(10), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", String(40), nullable=False),
    Column("expires_at", String(40)),
    Column("revoked_at", String(40)),
    Column("used_at", String(40)),
    sqlite_autoincrement=True,
)
"""Who may use the service, by a digest of what they show."""

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("token_id", Integer, ForeignKey("tokens.id", ondelete="CASCADE")),
    Column("name", String(200), nullable=False),
    Column("role", String(10), nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("expires_at", String(40), nullable=False),
)
"""Browsers that have logged in, by a digest of their cookie; without a token, by the link that the
service printed when it started."""

AUDIT = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", String(40), nullable=False),
    Column("who", String(200), nullable=False),
    Column("role", String(10), nullable=False),
    Column("action", String(100), nullable=False),
    Column("target", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("address", String(100), nullable=False),
    sqlite_autoincrement=True,
)
"""Who did what through the service, when, and from where."""
