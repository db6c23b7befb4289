"""Where an SQLite database lies, and reading one that may not be written."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

import moeash
from moeash.errors import StorageError, StudyNotFoundError
from moeash.study.storage.engines import sqlite
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import FACTS, add
from tests.test_bad_input import full_disk

NAMES = ["x?1.db", "x%20y.db", "x y.db", "x#1.db", "schlüssel.db", "a:b.db", "x&mode=ro.db"]
NAMES += ["x%.db", "x\ny.db", " x .db", "x\\y.db", "x'y\".db", "~x.db", "$HOME.db"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_a_path_whatever_its_letters(tmp_path, name, kind):
    path = tmp_path / name
    storage = SqlStorage(kind(path))
    storage.create_study(FACTS)
    storage.close()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert storage.url == str(path)
    assert moeash.open_storage(kind(path), create=False).study("digits").facts == FACTS
    with storage.lock("digits"):
        pass
    assert SqlStorage(storage.url).study("digits").facts == FACTS


def test_a_relative_path_that_begins_like_a_url_is_a_path_as_a_path(tmp_path, monkeypatch):
    (tmp_path / "sqlite:").mkdir()
    monkeypatch.chdir(tmp_path)
    SqlStorage(Path("sqlite://a.db")).create_study(FACTS)
    assert (tmp_path / "sqlite:" / "a.db").exists()


def test_a_url_with_options_is_refused_and_not_another_file(tmp_path):
    with pytest.raises(StorageError, match="give its path instead of a URL"):
        SqlStorage(f"sqlite:///{tmp_path}/x?1.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", ":memory:", "a\0b", "x" * 300 + "/a.db"])
def test_what_is_no_path_of_a_file_is_refused(path):
    with pytest.raises(StorageError):
        SqlStorage(path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to(os.devnull)])
@pytest.mark.parametrize("create", [True, False])
def test_what_is_no_file_is_no_database_and_stays(tmp_path, make, create):
    make(tmp_path / "x.db")
    before = os.lstat(tmp_path / "x.db")
    with pytest.raises(StorageError, match="it is a folder, a device or a pipe"):
        moeash.open_storage(tmp_path / "x.db", create=create)
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]
    assert os.lstat(tmp_path / "x.db").st_ino == before.st_ino


@pytest.mark.parametrize("content", [b"", None], ids=["no bytes", "no tables"])
def test_who_only_reads_leaves_an_empty_database_as_it_is(content, tmp_path):
    path = tmp_path / "moeash.db"
    path.touch()
    if content is None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # writes its first page, as a start does
    before = path.read_bytes()
    assert (before == b"") is (content == b"")
    with pytest.raises(StudyNotFoundError, match="is empty; run a study first"):
        moeash.open_storage(path, create=False)
    assert path.read_bytes() == before
    assert moeash.open_storage(path).studies() == []


# ---------------------------------------------------------------------- what may not be written

READ = """
    import os, sys
    import moeash
    from moeash.errors import StorageError
    from moeash.study.storage.sql import SqlStorage
    place = sys.argv[1]
    warm = SqlStorage(sys.argv[2])  # imports all it needs while the interpreter may
    warm.studies(), warm.summaries(), warm.evaluations(1), warm.holder("digits")
    if os.getuid() == 0:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)  # root may write anything
    try:
        storage = moeash.open_storage(place, create=False)
        (summary,) = storage.summaries()
        study = moeash.open_study("digits", place)
        print(summary.n(), study.status, len(study.evaluations()), len(study.front()))
        storage.set_status(1, "running")
    except StorageError as error:
        print("refused:", error)
    try:
        with storage.lock("digits"):
            print("held")
    except StorageError as error:
        print("refused:", error)
"""


def test_a_full_disk_is_told_as_one_by_who_wants_to_hold_a_study(tmp_path):
    """The note of who holds it does not fit either, and is not worth an error of its own."""
    storage = SqlStorage(tmp_path / "a.db")
    storage.create_study(FACTS)
    with full_disk(0), pytest.raises(StorageError, match="everything stored so far is safe"):
        storage.lock("digits").__enter__()
    assert storage.holder("digits") is None
    with storage.lock("digits"):
        pass


@pytest.fixture
def closed_folder():
    """A folder that everybody may read and nobody may write, once a test has filled it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # pytest's own are closed to others
        Path(name).chmod(0o755)
        folder = Path(name, "theirs")
        folder.mkdir()
        yield folder
        folder.chmod(0o755)


def read_as_somebody_else(folder, tmp_path):
    SqlStorage(tmp_path / "warm.db").close()
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith("-shm")}
    command = [sys.executable, "-c", textwrap.dedent(READ), folder / "a.db", tmp_path / "warm.db"]
    done = subprocess.run(command, capture_output=True, text=True)
    after = {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith("-shm")}
    assert after == before, "whoever reads writes nothing"
    return done.stdout.splitlines(), done.stderr


def test_a_finished_study_is_read_where_nothing_may_be_written(closed_folder, tmp_path):
    storage = SqlStorage(closed_folder / "a.db")
    study = storage.create_study(FACTS)
    add(storage, study, 1)
    storage.set_status(study.id, "finished")
    storage.close()
    lines, err = read_as_somebody_else(closed_folder, tmp_path)
    assert lines[0] == "1 finished 1 1", err
    assert "check the permissions" in lines[1] and lines[2].startswith("refused:")


@pytest.mark.slow
def test_a_study_that_is_being_written_is_read_by_who_may_not_write(closed_folder, tmp_path):
    storage = SqlStorage(closed_folder / "a.db")
    study = storage.create_study(FACTS)
    with storage.lock("digits"):
        add(storage, study, 1)
        assert (closed_folder / "a.db-wal").stat().st_size
        lines, err = read_as_somebody_else(closed_folder, tmp_path)
    assert lines[0] == "1 running 1 1", err


@pytest.mark.slow
def test_a_log_that_cannot_be_read_is_not_left_out_in_silence(closed_folder, tmp_path):
    storage = SqlStorage(tmp_path / "a.db")
    study = storage.create_study(FACTS)
    with storage.lock("digits"):
        add(storage, study, 1)
        for ending in ("", "-wal"):
            copy = closed_folder / f"a.db{ending}"
            copy.write_bytes((tmp_path / f"a.db{ending}").read_bytes())
    lines, err = read_as_somebody_else(closed_folder, tmp_path)
    assert "its log a.db-wal cannot be read" in lines[0], err


def test_a_reader_begins_anew_when_a_writer_came_in_between(tmp_path, monkeypatch):
    storage = SqlStorage(tmp_path / "a.db")
    study = storage.create_study(FACTS)
    storage.close()
    monkeypatch.setattr(sqlite, "may_be_written", lambda path: False)
    calls = []

    def read():
        if not calls:
            with sqlite3.connect(tmp_path / "a.db") as connection:
                connection.execute("UPDATE studies SET status = 'finished'")
            connection.close()
            os.utime(tmp_path / "a.db")
        calls.append(study)
        return len(calls)

    assert sqlite.undisturbed(tmp_path / "a.db", read) == 2
