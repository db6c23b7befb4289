"""The contract on a real PostgreSQL server, and what only a server can do."""

import signal
import subprocess
import sys
import textwrap
import threading
import uuid

import pytest

from moeash.errors import StorageError, StudyLockedError
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import FACTS, StorageContract, add
from tests.study.storage.server import postgres_server

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server():
    with postgres_server() as url:
        yield url


@pytest.fixture
def database(server):
    """The URL of an empty database."""
    from sqlalchemy import create_engine, text

    name = f"db{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.replace("/postgres?", f"/{name}?")


class TestPostgres(StorageContract):
    @pytest.fixture
    def open_storage(self, database):
        opened = []

        def open_():
            opened.append(SqlStorage(database))
            return opened[-1]

        yield open_
        for storage in opened:
            storage.close()


HOLD = """
    import sys
    from moeash.study.storage.sql import SqlStorage
    with SqlStorage(sys.argv[1]).lock("digits"):
        print("held", flush=True)
        sys.stdin.readline()
"""


def test_the_lock_of_another_process_is_respected_and_dies_with_it(database):
    storage = SqlStorage(database)
    command = [sys.executable, "-c", textwrap.dedent(HOLD), database]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(StudyLockedError, match=f"by process {other.pid} on"),
            storage.lock("digits"),
        ):
            pass
        with storage.lock("another study"):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        for _ in range(50):  # the server notices the closed socket in its own time
            try:
                with storage.lock("digits"):
                    break
            except StudyLockedError:
                threading.Event().wait(0.1)
        else:
            raise AssertionError("the lock outlived its process")
    storage.close()


def test_several_processes_may_open_an_empty_database_at_once(database):
    stores, errors = [], []

    def open_():
        try:
            stores.append(SqlStorage(database))
        except StorageError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    stores[0].create_study(FACTS)
    assert [s.study("digits").facts for s in stores] == [FACTS] * 4
    for store in stores:
        store.close()


def test_a_server_that_is_not_there_is_one_line_that_keeps_the_password():
    url = "postgresql+psycopg://app:secret@127.0.0.1:9/postgres"
    with pytest.raises(StorageError, match="is the server running") as caught:
        SqlStorage(url)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_another_driver_is_refused():
    with pytest.raises(StorageError, match=r"use postgresql\+psycopg"):
        SqlStorage("postgresql+pg8000://app@127.0.0.1/postgres")


def test_an_error_text_with_a_nul_is_stored(database):
    from dataclasses import replace

    from tests.contracts.storage import FAILED

    storage = SqlStorage(database)
    study = storage.create_study(FACTS)
    add(storage, study, 1, outcome=replace(FAILED, error="bad \0 byte"))
    assert storage.evaluations(study.id)[0].outcome.error == r"bad \0 byte"
    storage.close()
