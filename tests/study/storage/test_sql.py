import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from moeash.errors import SchemaError, StorageError, StudyLockedError
from moeash.study.storage.artifacts import IN_DATABASE_BYTES
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import COMPLETE, FACTS, StorageContract, add
from tests.databases import stored_at
from tests.marks import slow


class TestSqlite(StorageContract):
    @pytest.fixture
    def open_storage(self, tmp_path):
        return lambda: stored_at(str(tmp_path / "a.db"))


def python(code, *arguments, **options):
    """Start a Python process that runs ``code`` and talks through pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


HOLD = """
    import sys
    from moeash.study.storage.sql import SqlStorage
    with SqlStorage(sys.argv[1]).lock("digits"):
        print("held", flush=True)
        sys.stdin.readline()
"""


def test_the_lock_of_another_process_is_respected_and_dies_with_it(tmp_path):
    path = str(tmp_path / "a.db")
    storage = SqlStorage(path)
    with python(HOLD, path) as other:
        assert other.stdout.readline() == "held\n"
        message = f"by process {other.pid} on"
        with pytest.raises(StudyLockedError, match=message), storage.lock("digits"):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        with storage.lock("digits"):
            pass


def test_a_lock_is_one_lock_whatever_the_path_is_called(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    one = SqlStorage(str(tmp_path / "real" / "a.db"))
    monkeypatch.chdir(tmp_path)
    two = SqlStorage("link/a.db")
    monkeypatch.chdir("/")
    with one.lock("digits"), pytest.raises(StudyLockedError), two.lock("digits"):
        pass
    one.create_study(FACTS)
    assert two.study("digits").facts == FACTS


def _open(path):
    return [r.facts.name for r in SqlStorage(path).studies()]


def test_who_creates_a_database_waits_for_its_turn(tmp_path):
    database = tmp_path / "a.db"
    # A writer who has not written yet: SQLite refuses the switch to WAL without waiting.
    with python(LOCK_DATABASE.replace("EXCLUSIVE", "IMMEDIATE"), database) as process:
        assert process.stdout.readline() == "locked\n"
        threading.Timer(0.5, process.kill).start()
        assert SqlStorage(str(database)).studies() == []


@pytest.mark.slow
def test_many_processes_may_create_one_database(tmp_path):
    with get_context("spawn").Pool(4) as pool:
        assert pool.map(_open, [str(tmp_path / "a.db")] * 8, chunksize=1) == [[]] * 8


LOCK_DATABASE = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    print("locked", flush=True)
    sys.stdin.readline()
"""


def test_a_database_somebody_keeps_writing_is_a_storage_error_and_nothing_is_lost(tmp_path):
    path = str(tmp_path / "a.db")
    storage = SqlStorage(path, busy_timeout_s=0.2)
    study = storage.create_study(FACTS)
    first = add(storage, study, 1)
    with python(LOCK_DATABASE, path) as other:
        assert other.stdout.readline() == "locked\n"
        assert storage.evaluations(study.id) == [first]  # readers are not disturbed
        with pytest.raises(StorageError, match=r"kept writing for 0\.2 s, try again"):
            add(storage, study, 2)
        other.communicate("\n")
    second = add(storage, study, 2)
    assert storage.evaluations(study.id) == [first, second]


def test_a_full_disk_is_a_storage_error_and_what_was_stored_stays(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    study = storage.create_study(FACTS)
    from sqlalchemy import event

    @event.listens_for(storage.database.engine, "connect")
    def _limit(connection, record):
        connection.execute("PRAGMA max_page_count = 24")  # SQLite then says what a full disk says

    stored = []
    with pytest.raises(StorageError, match="full; free some space, everything stored"):
        for number in range(1, 1000):
            stored.append(add(storage, study, number))
    assert len(stored) > 3
    assert SqlStorage(str(tmp_path / "a.db")).evaluations(study.id) == stored


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk\n" * 100)
    with pytest.raises(StorageError, match="is something else, use another --storage"):
        SqlStorage(str(path))
    assert path.read_text() == "remember the milk\n" * 100


def test_a_database_of_somebody_else_is_left_alone(tmp_path):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
    connection.close()
    with pytest.raises(SchemaError, match=r"not moeash's \(invoices\)"):
        SqlStorage(str(path))
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('ae1027a6acf')")
    connection.close()
    with pytest.raises(SchemaError, match=r"not moeash's \(invoices\)"):
        SqlStorage(str(path))


def test_a_database_of_a_newer_moeash_is_refused(tmp_path):
    path = tmp_path / "a.db"
    SqlStorage(str(path)).create_study(FACTS)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    connection.close()
    with pytest.raises(SchemaError, match="has schema 0999, this moeash knows up to"):
        SqlStorage(str(path))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}/no/such/folder/a.db", "folder .* does not exist; create it first"),
        ("sqlite://", "would forget the study"),
        ("sqlite:///:memory:", "would forget the study"),
        ("mysql://user:secret@host/db", r"mysql://user:\*\*\*@host/db' is not supported"),
        ("nonsense://x", "is not supported|neither a path nor"),
        ("{}", "cannot be a database: it is a folder"),
    ],
)
def test_a_url_that_cannot_be_opened_is_refused_with_the_reason(tmp_path, url, message):
    with pytest.raises(StorageError, match=message) as caught:
        SqlStorage(url.format(tmp_path))
    assert "secret" not in str(caught.value)


WRITE = """
    import os, sys
    from moeash.errors import StorageError
    from moeash.study.storage.sql import SqlStorage
    SqlStorage(sys.argv[1]).study("digits")  # imports all it needs while the interpreter may
    if os.getuid() == 0:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)  # root may write anything
    try:
        storage = SqlStorage(sys.argv[1])
        storage.set_status(storage.study("digits").id, "finished")
    except StorageError as error:
        print("refused:", error)
"""


def test_a_file_that_may_not_be_written_is_refused(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = folder / "a.db"
    storage = SqlStorage(str(path))
    storage.create_study(FACTS)
    for reachable in (folder, *list(folder.parents)[:4]):
        reachable.chmod(reachable.stat().st_mode | 0o055)
    path.chmod(0o444)
    folder.chmod(0o555)
    out, err = python(WRITE, path).communicate()
    folder.chmod(0o755)
    assert out.startswith("refused:") and "check the permissions" in out, (out, err)
    assert storage.study("digits").status == "running"


@pytest.mark.slow
def test_the_folder_of_the_migrations_may_have_any_name(tmp_path):
    import moeash

    package = tmp_path / "50% off" / "moeash"
    package.parent.mkdir()
    package.symlink_to(Path(moeash.__file__).parent)
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
        import moeash
        assert "50% off" in moeash.__file__
        from moeash.study.storage.sql import SqlStorage
        print(len(SqlStorage(sys.argv[2]).studies()))
    """
    out, err = python(code, package.parent, tmp_path / "a.db").communicate()
    assert out == "0\n", err


# ---------------------------------------------------------------------- events


def test_the_id_of_a_deleted_event_is_never_given_again(tmp_path):
    from moeash.study.events import Note

    path = tmp_path / "a.db"
    storage = SqlStorage(str(path))
    study = storage.create_study(FACTS)
    storage.add_events(study.id, [Note("one"), Note("two")])
    last = storage.events(study.id)[-1].id
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM events")
    connection.close()
    storage.add_events(study.id, [Note("three")])
    assert storage.events(study.id)[0].id > last


# ---------------------------------------------------------------------- artifacts in files

BIG = b"\x00moeash" * (IN_DATABASE_BYTES // 6)


@pytest.fixture
def with_file(tmp_path):
    """Storage with one artifact that is too large for the database; and its file."""
    storage = SqlStorage(str(tmp_path / "a.db"))
    study = storage.create_study(FACTS)
    add(storage, study, 1, outcome=replace(COMPLETE, artifact=BIG))
    (file,) = (tmp_path / "a.db.artifacts").rglob("*.moeash")
    return storage, study, file


def test_a_large_artifact_is_a_file_beside_the_database(with_file):
    storage, study, file = with_file
    assert file.read_bytes() == BIG
    assert storage.database.path.stat().st_size < len(BIG)
    add(storage, study, 2, outcome=replace(COMPLETE, fingerprint="cd" * 16, artifact=b"small"))
    assert list(file.parent.iterdir()) == [file]


def test_a_database_that_is_moved_with_its_folder_keeps_its_artifacts(with_file, tmp_path):
    storage, study, _ = with_file
    storage.close()
    (tmp_path / "there").mkdir()
    for path in tmp_path.glob("a.db*"):
        path.rename(tmp_path / "there" / path.name)
    moved = SqlStorage(str(tmp_path / "there" / "a.db"))
    assert moved.artifact(study.id, COMPLETE.fingerprint) == BIG


@pytest.mark.parametrize("damage", [BIG[:-1], BIG[:-1] + b"!", b""])
def test_a_damaged_file_is_never_given_out(with_file, damage):
    storage, study, file = with_file
    file.write_bytes(damage)
    with pytest.raises(StorageError, match="is damaged; put it back from a backup"):
        storage.artifact(study.id, COMPLETE.fingerprint)


def test_a_damaged_row_is_never_given_out(with_file, tmp_path):
    storage, study, _ = with_file
    add(storage, study, 2, outcome=replace(COMPLETE, fingerprint="cd" * 16, artifact=b"small"))
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE artifacts SET content = x'00' WHERE content IS NOT NULL")
    connection.close()
    with pytest.raises(StorageError, match="in the database, is damaged"):
        storage.artifact(study.id, "cd" * 16)


@pytest.mark.parametrize("seed", range(30))
def test_a_database_with_damaged_bytes_works_or_is_refused_with_our_error(tmp_path, seed):
    path = tmp_path / "a.db"
    storage = SqlStorage(str(path))
    study = storage.create_study(FACTS)
    add(storage, study, 1)
    storage.close()
    draw, content = random.Random(seed), bytearray(path.read_bytes())
    # The first page names the tables: what cannot be read there stops a driver in its own words.
    for end in [4096] * 10 + [len(content)] * 20:
        content[draw.randrange(100, end)] = draw.randrange(256)
    path.write_bytes(content)
    with contextlib.suppress(StorageError):
        damaged = SqlStorage(str(path))
        damaged.evaluations(damaged.study("digits").id)


def test_a_missing_file_is_named_with_the_folder_it_belongs_to(with_file):
    storage, study, file = with_file
    file.unlink()
    with pytest.raises(StorageError, match=f"cannot be read from {file}.*keep the two together"):
        storage.artifact(study.id, COMPLETE.fingerprint)


def test_a_folder_that_cannot_be_written_stores_nothing(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    study = storage.create_study(FACTS)
    (tmp_path / "a.db.artifacts").write_text("in the way")
    with pytest.raises(StorageError, match="the artifact cannot be stored"):
        add(storage, study, 1, outcome=replace(COMPLETE, artifact=BIG))
    assert storage.evaluations(study.id) == [] and storage.artifacts(study.id) == {}


def test_files_without_a_row_are_removed_when_their_study_is_held_and_no_others(with_file):
    storage, study, file = with_file
    other = storage.create_study(replace(FACTS, name="other"))
    add(storage, other, 1, outcome=replace(COMPLETE, artifact=BIG))
    (orphan := file.with_name("0" * 32 + ".moeash")).write_bytes(b"whole, but without a row")
    (partial := file.with_name(".half.tmp")).write_bytes(b"half")
    with storage.lock("other"):
        assert orphan.exists() and partial.exists()
    with storage.lock("digits"):
        assert list(file.parent.iterdir()) == [file]
    for held in (study, other):
        assert storage.artifact(held.id, COMPLETE.fingerprint) == BIG


DIE = """
    import os, signal, sys
    from dataclasses import replace
    from sqlalchemy import event
    from moeash.study.storage.sql import SqlStorage
    from tests.contracts.storage import COMPLETE, add
    from tests.study.storage.test_sql import BIG

    storage = SqlStorage(sys.argv[1])
    study = storage.study("digits")
    moment = sys.argv[2]
    if moment == "while the file is written":
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
    @event.listens_for(storage.database.engine, "before_cursor_execute")
    def _die(connection, cursor, statement, *rest):
        if statement.startswith(moment):
            os.kill(os.getpid(), signal.SIGKILL)
    with storage.lock("digits"):
        add(storage, study, 1, outcome=replace(COMPLETE, artifact=BIG))
"""


@pytest.mark.parametrize(
    "moment",
    [slow("while the file is written"), slow("INSERT INTO artifacts"), slow("UPDATE studies")],
)
def test_a_kill_between_file_and_row_leaves_nothing_but_a_file_that_is_removed(tmp_path, moment):
    path = tmp_path / "a.db"
    storage = SqlStorage(str(path))
    study = storage.create_study(FACTS)
    child = python(DIE, path, moment)
    _, err = child.communicate()
    assert child.returncode == -signal.SIGKILL, err
    left = [p for p in (tmp_path / "a.db.artifacts").rglob("*") if p.is_file()]
    assert len(left) == 1, "it was killed too early or too late"
    assert storage.evaluations(study.id) == [] and storage.artifacts(study.id) == {}
    with storage.lock("digits"):
        assert not left[0].exists()
        add(storage, study, 1, outcome=replace(COMPLETE, artifact=BIG))
    assert storage.artifact(study.id, COMPLETE.fingerprint) == BIG
