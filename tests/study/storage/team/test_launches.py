"""The contract of launches on both databases."""

import pytest

from moeash.study.storage.sql import SqlStorage
from tests.contracts.launches import LaunchesContract
from tests.databases import stored_at
from tests.study.storage.server import new_database, postgres_server, with_tables


class TestSqlite(LaunchesContract):
    @pytest.fixture
    def open_database(self, tmp_path):
        return lambda: stored_at(tmp_path / "a.db").database


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        yield running.url


@pytest.fixture(scope="module")
def template(server):
    return with_tables(server)


@pytest.mark.postgres
class TestPostgres(LaunchesContract):
    @pytest.fixture
    def open_database(self, server, template):
        url, opened = new_database(server, like=template), []

        def open_():
            opened.append(SqlStorage(url))
            return opened[-1].database

        yield open_
        for storage in opened:
            storage.close()
