"""Tokens: who may use the service. Only a digest is stored; the secret is shown once."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from moeash.errors import InputError, StorageError
from moeash.study.storage.access.roles import ROLES, Role, covers
from moeash.study.storage.access.secrets import digest_of, moment_of, new_secret, present, written
from moeash.study.storage.engines.database import Database
from moeash.study.storage.engines.stamping import Recent
from moeash.study.storage.reading import read_rows
from moeash.study.storage.records import now
from moeash.study.storage.tables import SESSIONS, TOKENS

PREFIX = "moeash_"
USED_EVERY = timedelta(minutes=1)
"""How often the last use of a token is written, at most."""

LONGEST_NAME, MOST_DAYS = 200, 36_500
MOST_REMEMBERED = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenRecord:
    """A stored token.

    Attributes:
        id: key of the row, never given again.
        name: whose it is, or what for.
        role: what it allows.
        created_at: UTC, ISO 8601.
        expires_at: likewise; None: never.
        revoked_at: likewise; None: it was not.
        used_at: likewise, to about a minute; None: never.
    """

    id: int
    name: str
    role: Role
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    used_at: str | None

    @property
    def is_valid(self) -> bool:
        """Whether it lets anybody in now."""
        expired = self.expires_at is not None and moment_of(self.expires_at) <= present()
        return self.revoked_at is None and not expired

    @property
    def state(self) -> str:
        """Valid, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.is_valid else "expired"


class Tokens:
    """The tokens of a database. Every method raises StorageError when the database refuses."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: Recent[TokenRecord] = Recent(MOST_REMEMBERED)

    def create(
        self, role: Role, *, name: str | None = None, expires_days: float | None = None
    ) -> tuple[TokenRecord, str]:
        """Make a token; return it and its secret, which is not stored and never shown again.

        Args:
            role: what it allows.
            name: whose it is, or what for; default: the role.
            expires_days: after which it lets nobody in; None: never.

        Raises:
            InputError: an argument is none of these.
        """
        if role not in ROLES:
            raise InputError(f"role is {role!r:.60}, needed one of {', '.join(ROLES)}")
        name = role if name is None else name.strip()
        if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise InputError(
                f"the token's name is {name!r:.60}, needed 1 to {LONGEST_NAME} printable characters"
            )
        expires = None
        if expires_days is not None:
            if not 0 < expires_days <= MOST_DAYS:
                raise InputError(
                    f"expires_days is {expires_days:g}, needed a number above 0 and up to "
                    f"{MOST_DAYS}"
                )
            expires = written(present() + timedelta(days=expires_days))
        secret = new_secret(PREFIX)
        values = {
            "name": name,
            "role": role,
            "digest": digest_of(secret),
            "created_at": now(),
            "expires_at": expires,
        }
        query = insert(TOKENS).values(values).returning(TOKENS.c.id)
        number = self._database.write(None, lambda c: c.execute(query).scalar_one())
        return self.get(number), secret

    def list(self) -> Sequence[TokenRecord]:
        """Return all tokens, oldest first, with those that let nobody in any more."""
        query = select(TOKENS).order_by(TOKENS.c.id)
        return self._database.read(lambda c: read_rows(c, query, token_of))

    def get(self, number: int) -> TokenRecord:
        """Return a token.

        Raises:
            InputError: there is none of that id.
        """
        query = select(TOKENS).where(TOKENS.c.id == number)
        for record in self._database.read(lambda c: read_rows(c, query, token_of)):
            return record
        raise InputError(f"there is no token {number}; `moeash token list` shows all")

    def find(self, secret: str) -> TokenRecord | None:
        """Return the valid token of a secret, and note that it was used; None when there is none.

        Args:
            secret: whatever was shown.
        """
        digest = digest_of(secret)
        stamp = self._database.stamp()  # before it is read
        known = self._found.get(digest, stamp)  # every request asks for it
        if known is not None:
            found = [known]
        else:
            query = select(TOKENS).where(TOKENS.c.digest == digest)
            found = self._database.read(lambda c: read_rows(c, query, token_of))
        for record in found:
            if record.is_valid:
                self._found.keep(digest, stamp, record)
                self._note_use(record)
                return record
        return None

    def revoke(self, number: int) -> TokenRecord:
        """Let nobody in with a token any more, nor with a session that began with it.

        Raises:
            InputError: there is none of that id.
        """
        self.get(number)
        revoked = update(TOKENS).where(TOKENS.c.id == number, TOKENS.c.revoked_at.is_(None))

        def work(connection: Connection) -> None:
            connection.execute(revoked.values(revoked_at=now()))
            connection.execute(delete(SESSIONS).where(SESSIONS.c.token_id == number))

        self._database.write(None, work)
        return self.get(number)

    def any_valid(self, role: Role) -> bool:
        """Tell whether a valid token allows as much as a role."""
        return any(token.is_valid and covers(token.role, role) for token in self.list())

    def _note_use(self, record: TokenRecord) -> None:
        moment = present()
        if record.used_at is not None and moment - moment_of(record.used_at) < USED_EVERY:
            return
        query = update(TOKENS).where(TOKENS.c.id == record.id).values(used_at=written(moment))
        try:
            self._database.write(None, lambda c: c.execute(query), durable=False)
        except StorageError as error:
            # A full disk must not lock out those who come to look why.
            _log.warning("the use of token %d was not noted: %s", record.id, error)


def token_of(row: Row[Any]) -> TokenRecord:
    """Return the record of a row of tokens."""
    values = row._mapping
    record = TokenRecord(**{name: values[name] for name in TokenRecord.__dataclass_fields__})
    for moment in (record.created_at, record.expires_at, record.revoked_at, record.used_at):
        if moment is not None:
            moment_of(moment)
    if len(values["digest"]) != 64:
        raise ValueError("digest is no SHA-256")
    return record
