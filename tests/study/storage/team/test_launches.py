"""The contract of launches on both databases."""

import uuid

import pytest

from moeash.study.storage.sql import SqlStorage
from tests.contracts.launches import LaunchesContract
from tests.study.storage.server import postgres_server


class TestSqlite(LaunchesContract):
    @pytest.fixture
    def open_database(self, tmp_path):
        return lambda: SqlStorage(tmp_path / "a.db").database


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        yield running.url


@pytest.mark.postgres
class TestPostgres(LaunchesContract):
    @pytest.fixture
    def open_database(self, server):
        from sqlalchemy import create_engine, text

        name = f"db{uuid.uuid4().hex}"
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        opened = []

        def open_():
            opened.append(SqlStorage(server.replace("/postgres?", f"/{name}?")))
            return opened[-1].database

        yield open_
        for storage in opened:
            storage.close()
