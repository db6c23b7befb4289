"""Tokens, sessions and the audit on SQLite; on PostgreSQL in ``engines/test_postgres.py``."""

import logging
import sqlite3
from contextlib import closing

import pytest

from moeash.study.storage.access.sessions import Sessions
from moeash.study.storage.access.tokens import Tokens
from moeash.study.storage.sql import SqlStorage
from tests.contracts.access import SESSIONS, SOON, AccessContract, change


class TestAccess(AccessContract):
    @pytest.fixture
    def storage(self, tmp_path):
        storage = SqlStorage(tmp_path / "a.db")
        yield storage
        storage.close()


def test_who_may_come_in_comes_in_while_nothing_can_be_written(tmp_path, caplog):
    storage = SqlStorage(tmp_path / "a.db", busy_timeout_s=0.05)
    token, secret = Tokens(storage.database).create("viewer")
    cookie = Sessions(storage.database).create("a", "viewer", token=token)
    change(storage, SESSIONS, expires_at=SOON)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with caplog.at_level(logging.WARNING):
            assert Tokens(storage.database).find(secret) is not None
            assert Sessions(storage.database).find(cookie) is not None
        other.execute("ROLLBACK")
    assert [r.message.partition(":")[0] for r in caplog.records] == [
        f"the use of token {token.id} was not noted",
        "a session was not extended",
    ]
    storage.close()
