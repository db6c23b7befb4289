"""Stamps of an SQLite file: another one after every commit, whoever made it."""

import sqlite3

import pytest

from moeash.study.storage.engines.stamping import Watch


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    yield path, connection
    connection.close()


@pytest.fixture
def watch(database):
    watch = Watch(database[0])
    yield watch
    watch.close()


def test_a_stamp_stays_until_something_is_committed(database, watch):
    _, connection = database
    before = watch.stamp()
    connection.execute("SELECT * FROM t").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES (1)")
    assert before == watch.stamp() is not None
    connection.execute("COMMIT")
    after = watch.stamp()
    assert after != before and watch.stamp() == after


def test_a_file_put_in_the_place_of_another_has_another_stamp(database, watch):
    path, connection = database
    before = watch.stamp()
    connection.close()
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    assert watch.stamp() is None, "there is no file"
    assert not path.exists(), "looking makes none"
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    assert watch.stamp() not in (None, before)
