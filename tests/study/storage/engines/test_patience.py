"""A database that is away, or that another keeps writing: waited for, and not in silence."""

import sqlite3
import threading
import time
from contextlib import closing

import pytest

from moeash.errors import StorageError
from moeash.study.storage.engines import patience
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import FACTS, add
from tests.databases import stored_at
from tests.study.storage.server import new_database, postgres_server


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Who waits is told so soon."""
    monkeypatch.setattr(patience, "SILENT_S", 0.1)


@pytest.mark.postgres
def test_a_server_that_is_not_there_yet_is_waited_for_with_a_word(server, caplog):
    database = new_database(server.url)
    server.stop()
    start = threading.Timer(0.5, server.start)
    start.start()
    with closing(SqlStorage(database)) as storage:
        assert storage.studies() == []
    start.join()
    away, back = caplog.messages
    assert "does not answer" in away and "waiting for it for up to 30 s" in away
    assert "answers again, after" in back


@pytest.mark.postgres
def test_a_server_that_goes_away_is_waited_for_with_a_word(server, caplog):
    with closing(SqlStorage(new_database(server.url))) as storage:
        server.stop()
        start = threading.Timer(0.5, server.start)
        start.start()
        assert storage.studies() == []
        start.join()
    assert "waiting for it for up to 120 s" in caplog.messages[0]


@pytest.mark.postgres
@pytest.mark.parametrize("other", ["/nobodys?", "?user=nobody&"])
def test_a_server_that_lets_nobody_in_by_that_name_is_not_waited_for(server, other):
    began = time.monotonic()
    with pytest.raises(StorageError, match="does not exist"):
        SqlStorage(server.url.replace("/postgres?", other).replace("app@", ""))
    assert time.monotonic() - began < patience.FIRST_PATIENCE_S / 2


def writing(path):
    """Another process's transaction, as far as SQLite tells: on a connection of its own."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_who_holds_a_study_waits_while_another_keeps_writing(tmp_path, caplog):
    stored_at(tmp_path / "a.db").close()
    storage = SqlStorage(tmp_path / "a.db", busy_timeout_s=0.05)
    study = storage.create_study(FACTS)
    with closing(writing(tmp_path / "a.db")) as other:
        threading.Timer(0.4, other.rollback).start()
        with storage.lock("digits"):
            add(storage, study, 1)
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(0.4, other.rollback).start()
            add(storage, study, 2)
    assert [r.number for r in storage.evaluations(study.id)] == [1, 2]
    assert "database is locked" in caplog.messages[0]


def test_who_holds_a_study_does_not_wait_for_ever(tmp_path):
    stored_at(tmp_path / "a.db").close()
    storage = SqlStorage(tmp_path / "a.db", busy_timeout_s=0.05, patience_s=0.2)
    study = storage.create_study(FACTS)
    with (
        storage.lock("digits"),
        closing(writing(tmp_path / "a.db")),
        pytest.raises(StorageError, match="kept writing"),
    ):
        add(storage, study, 1)


def database_files(folder):
    return [path for path in folder.glob("a.db*") if not path.name.endswith(".lock")]


def test_a_database_that_is_deleted_under_its_study_is_not_made_anew(tmp_path):
    storage = stored_at(tmp_path / "a.db")
    study = storage.create_study(FACTS)
    with storage.lock("digits"):
        for path in database_files(tmp_path):
            path.rename(tmp_path / f"moved-{path.name}")
        with pytest.raises(StorageError, match="is gone: it was deleted or moved"):
            add(storage, study, 1)
        assert not (tmp_path / "a.db").exists()
        for path in tmp_path.glob("moved-*"):
            path.rename(tmp_path / path.name.removeprefix("moved-"))
        add(storage, study, 1)
    assert [r.number for r in storage.evaluations(study.id)] == [1]


def test_a_database_that_is_replaced_by_an_empty_one_says_so(tmp_path):
    storage = stored_at(tmp_path / "a.db")
    study = storage.create_study(FACTS)
    with storage.lock("digits"):
        for path in database_files(tmp_path):
            path.unlink()
        (tmp_path / "a.db").touch()
        with pytest.raises(StorageError, match="emptied or replaced while it was in use"):
            add(storage, study, 1)
