"""The contract on a real PostgreSQL server, and what only a server can do."""

import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import create_engine, inspect, make_url, text

from moeash.errors import StorageError, StudyLockedError, StudyNotFoundError
from moeash.study.storage.sql import SqlStorage
from tests.contracts.access import AccessContract
from tests.contracts.counting import CountingContract
from tests.contracts.listing import ListingContract
from tests.contracts.storage import FACTS, StorageContract, add
from tests.study.storage.server import new_database, postgres_server, with_tables

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        yield running.url


@pytest.fixture
def database(server):
    """The URL of an empty database."""
    return new_database(server)


@pytest.fixture(scope="module")
def template(server):
    return with_tables(server)


@pytest.fixture
def migrated(server, template):
    """The URL of a database with empty tables."""
    return new_database(server, like=template)


class TestPostgres(StorageContract):
    @pytest.fixture
    def open_storage(self, migrated):
        opened = []

        def open_():
            opened.append(SqlStorage(migrated))
            return opened[-1]

        yield open_
        for storage in opened:
            storage.close()


class TestListingOnPostgres(ListingContract):
    @pytest.fixture
    def storage(self, migrated):
        storage = SqlStorage(migrated)
        yield storage
        storage.close()


class TestCounting(CountingContract):
    @pytest.fixture
    def storage(self, migrated):
        storage = SqlStorage(migrated)
        yield storage
        storage.close()


class TestAccess(AccessContract):
    @pytest.fixture
    def storage(self, migrated):
        storage = SqlStorage(migrated)
        yield storage
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


@pytest.fixture
def admin(migrated):
    """A connection of somebody who works on the same database."""
    engine = create_engine(migrated, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def waiting(admin):
    """The processes of the server that wait for a lock, once there is one."""
    query = text("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    for _ in range(200):
        admin.execute(text("SELECT pg_stat_clear_snapshot()"))  # else a transaction sees one state
        if pids := admin.execute(query).scalars().all():
            return pids
        threading.Event().wait(0.05)
    raise AssertionError("nobody waits")


@contextmanager
def blocked(admin, table):
    """Let everybody wait who wants to read or write a table."""
    admin.execute(text("BEGIN"))
    admin.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
    try:
        yield
    finally:
        admin.execute(text("ROLLBACK"))


@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_connection_ended_while_the_database_is_being_opened_is_made_again(migrated, admin, end):
    """The server was there: its address cannot be wrong."""
    with ThreadPoolExecutor(1) as pool:
        with blocked(admin, "alembic_version"):
            opened = pool.submit(SqlStorage, migrated)
            for pid in waiting(admin):
                admin.execute(text(f"SELECT {end}({pid})"))
        with closing(opened.result(60)) as storage:
            assert storage.studies() == []


@pytest.mark.parametrize("end", ["pg_cancel_backend", "lock_timeout", "statement_timeout"])
def test_a_statement_that_the_server_gave_up_is_tried_again(migrated, admin, end):
    if end.endswith("timeout"):
        database = make_url(migrated).database
        admin.execute(text(f"ALTER DATABASE {database} SET {end} = '300ms'"))
    with closing(SqlStorage(migrated)) as storage, storage.lock("digits"):
        study = storage.create_study(FACTS)
        with ThreadPoolExecutor(1) as pool:
            with blocked(admin, "evaluations"):
                added = pool.submit(add, storage, study, 1)
                for pid in waiting(admin):
                    if end == "pg_cancel_backend":
                        admin.execute(text(f"SELECT {end}({pid})"))
                threading.Event().wait(0.5)
            added.result(60)
        assert [r.number for r in storage.evaluations(study.id)] == [1]


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


def test_who_only_reads_leaves_an_empty_database_as_it_is(database):
    with pytest.raises(StudyNotFoundError, match="is empty; run a study first"):
        SqlStorage(database, create=False)
    engine = create_engine(database)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    with closing(SqlStorage(database)) as storage:
        assert storage.studies() == []


def test_a_server_that_is_not_there_is_one_line_that_keeps_the_password():
    url = "postgresql+psycopg://app:secret@127.0.0.1:9/postgres"
    with pytest.raises(StorageError, match="is the server running") as caught:
        SqlStorage(url, patience_s=0.1)
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


def test_large_artifacts_lie_in_the_folder_that_all_machines_share(database, tmp_path, monkeypatch):
    from dataclasses import replace

    from moeash.study.storage.artifacts import IN_DATABASE_BYTES, MOEASH_ARTIFACTS
    from tests.contracts.storage import COMPLETE

    big = b"x" * (IN_DATABASE_BYTES + 1)
    monkeypatch.setenv(MOEASH_ARTIFACTS, str(tmp_path / "shared"))
    storage = SqlStorage(database)
    study = storage.create_study(FACTS)
    add(storage, study, 1, outcome=replace(COMPLETE, artifact=big))
    (file,) = (tmp_path / "shared").rglob("*.moeash")
    assert file.read_bytes() == big
    assert storage.artifact(study.id, COMPLETE.fingerprint) == big
    (orphan := file.with_name("orphan.moeash")).write_bytes(b"")
    with storage.lock("digits"):
        assert not orphan.exists() and file.exists()
    monkeypatch.delenv(MOEASH_ARTIFACTS)
    elsewhere = SqlStorage(database)
    with pytest.raises(StorageError, match="lies in a folder; say in which with MOEASH_ARTIFACTS"):
        elsewhere.artifact(study.id, COMPLETE.fingerprint)
    storage.close()
    elsewhere.close()


def test_the_id_of_a_deleted_event_is_never_given_again(database):
    from sqlalchemy import create_engine, text

    from moeash.study.events import Note

    storage = SqlStorage(database)
    study = storage.create_study(FACTS)
    storage.add_events(study.id, [Note("one"), Note("two")])
    last = storage.events(study.id)[-1].id
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM events"))
    engine.dispose()
    storage.add_events(study.id, [Note("three")])
    assert storage.events(study.id)[0].id > last
    storage.close()


def test_the_tables_are_what_the_newest_migration_makes(database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from moeash.study.storage.tables import METADATA

    storage = SqlStorage(database)
    with storage.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    storage.close()
