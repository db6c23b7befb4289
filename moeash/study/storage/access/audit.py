"""Audit: who did what through the service, when, and from where. Rows are added, never changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, insert, select

from moeash.study.storage.access.roles import AuditRole
from moeash.study.storage.access.secrets import moment_of
from moeash.study.storage.engines.database import Database
from moeash.study.storage.reading import read_rows
from moeash.study.storage.records import now
from moeash.study.storage.rows import stored_text
from moeash.study.storage.tables import AUDIT

LONGEST_TARGET = 1000
"""Characters kept of what was acted on."""


@dataclass(frozen=True)
class AuditRecord:
    """What somebody did.

    Attributes:
        id: increases strictly.
        at: UTC, ISO 8601.
        who: the name of their token, or of the one-time login.
        role: theirs.
        action: method and route, such as ``POST /api/v1/studies``.
        target: the path, such as ``/api/v1/studies/digits``.
        status: HTTP status of the answer.
        address: where it came from.
    """

    id: int
    at: str
    who: str
    role: AuditRole
    action: str
    target: str
    status: int
    address: str


class Audit:
    """The audit of a database. Every method raises StorageError when the database refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, *, who: str, role: AuditRole, action: str, target: str, status: int, address: str
    ) -> None:
        """Store what somebody did; texts that are too long are cut."""
        values = {
            "at": now(),
            "who": _cut(who, 200),
            "role": role,
            "action": _cut(action, 100),
            "target": _cut(target, LONGEST_TARGET),
            "status": status,
            "address": _cut(address, 100),
        }
        self._database.write(None, lambda c: c.execute(insert(AUDIT).values(values)))

    def page(self, *, before: int | None = None, limit: int = 100) -> Sequence[AuditRecord]:
        """Return what was done, newest first.

        Args:
            before: only rows older than the one of this id; None: from the newest.
            limit: rows at most.
        """
        query = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(AUDIT.c.id < before)
        return self._database.read(lambda c: read_rows(c, query, audit_of))


def _cut(text: str, longest: int) -> str:
    text = stored_text(text.encode("utf-8", "backslashreplace").decode())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def audit_of(row: Row[Any]) -> AuditRecord:
    """Return the record of a row of the audit."""
    values = row._mapping
    record = AuditRecord(**{name: values[name] for name in AuditRecord.__dataclass_fields__})
    moment_of(record.at)
    return record
