"""Sessions: browsers that have logged in, by a digest of their cookie."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from moeash.errors import StorageError
from moeash.study.storage.access.roles import Role
from moeash.study.storage.access.secrets import digest_of, moment_of, new_secret, present, written
from moeash.study.storage.access.tokens import TokenRecord, token_of
from moeash.study.storage.engines.database import Database
from moeash.study.storage.reading import read_rows
from moeash.study.storage.records import now
from moeash.study.storage.tables import SESSIONS, TOKENS

IDLE = timedelta(days=7)
"""How long a session lives that nobody uses."""

LONGEST = timedelta(days=30)
"""How long one lives at most."""

EXTENDED_EVERY = timedelta(hours=1)
"""How often the end of a session that is used is moved, at most."""

MOST = 1000
"""Sessions kept; the oldest make room."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionRecord:
    """A stored session.

    Attributes:
        token_id: the token it began with; None: a one-time login.
        name: who logged in.
        role: what they may do.
        created_at: UTC, ISO 8601.
        expires_at: likewise; moved while the session is used, up to :data:`LONGEST`.
    """

    token_id: int | None
    name: str
    role: Role
    created_at: str
    expires_at: str


class Sessions:
    """The sessions of a database. Every method raises StorageError when the database refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, role: Role, *, token: TokenRecord | None = None) -> str:
        """Begin a session and return its cookie, which is not stored.

        Args:
            name: who logged in.
            role: what they may do.
            token: what they logged in with; the session ends with it. None: a one-time login.
        """
        cookie = new_secret("")
        moment = present()
        values = {
            "digest": digest_of(cookie),
            "token_id": None if token is None else token.id,
            "name": name,
            "role": role,
            "created_at": written(moment),
            "expires_at": written(moment + IDLE),
        }
        # Moments are written so that their texts are ordered as they are.
        kept = select(SESSIONS.c.digest).order_by(SESSIONS.c.created_at.desc()).limit(MOST)

        def work(connection: Connection) -> None:
            connection.execute(insert(SESSIONS).values(values))
            connection.execute(delete(SESSIONS).where(SESSIONS.c.expires_at <= now()))
            connection.execute(delete(SESSIONS).where(SESSIONS.c.digest.not_in(kept)))

        self._database.write(None, work)
        return cookie

    def find(self, cookie: str) -> SessionRecord | None:
        """Return the living session of a cookie; None when there is none.

        Args:
            cookie: whatever was shown.
        """
        digest = digest_of(cookie)
        query = select(SESSIONS).where(SESSIONS.c.digest == digest)

        def work(connection: Connection) -> SessionRecord | None:
            for record in read_rows(connection, query, session_of):
                if moment_of(record.expires_at) <= present():
                    return None
                if record.token_id is not None:
                    of_token = select(TOKENS).where(TOKENS.c.id == record.token_id)
                    if not any(t.is_valid for t in read_rows(connection, of_token, token_of)):
                        return None
                return record
            return None

        found = self._database.read(work)
        if found is not None:
            self._extend(found, digest)
        return found

    def end(self, cookie: str) -> None:
        """End a session, if there is one."""
        query = delete(SESSIONS).where(SESSIONS.c.digest == digest_of(cookie))
        self._database.write(None, lambda connection: connection.execute(query))

    def _extend(self, record: SessionRecord, digest: str) -> None:
        end = min(present() + IDLE, last_moment_of(record.created_at))
        if end - moment_of(record.expires_at) < EXTENDED_EVERY:
            return
        query = update(SESSIONS).where(SESSIONS.c.digest == digest).values(expires_at=written(end))
        try:
            self._database.write(None, lambda connection: connection.execute(query), durable=False)
        except StorageError as error:
            # A full disk must not lock out those who come to look why.
            _log.warning("a session was not extended: %s", error)


def session_of(row: Row[Any]) -> SessionRecord:
    """Return the record of a row of sessions."""
    values = row._mapping
    record = SessionRecord(**{name: values[name] for name in SessionRecord.__dataclass_fields__})
    last_moment_of(record.created_at), moment_of(record.expires_at)
    return record


def last_moment_of(created_at: str) -> datetime:
    """Return when a session ends that began then, however much it is used.

    Raises:
        ValueError, OverflowError: no session began then.
    """
    return moment_of(created_at) + LONGEST
