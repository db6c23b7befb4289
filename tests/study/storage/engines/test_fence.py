"""A holder that loses its lock takes it again, or stops: on either database, at any moment."""

import random
import threading
import time

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError

from moeash.core.solutions.recipe import Recipe
from moeash.errors import StorageError, StudyLockedError
from moeash.evaluation.outcome import Job
from moeash.study.events import Doing, Note
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.tables import FENCES
from moeash.study.study import Study
from tests.contracts.storage import COMPLETE, FACTS, add, facts
from tests.databases import stored_at
from tests.forks import Fork
from tests.marks import slow
from tests.study.storage.server import new_database, postgres_server, with_tables

FACTS_OF_ONE_SIZE = facts()

# ---------------------------------------------------------------------- SQLite: the lock file


@pytest.fixture
def two(tmp_path):
    """Two who have the same SQLite file open, and a study in it."""
    one, other = stored_at(tmp_path / "a.db"), stored_at(tmp_path / "a.db")
    yield one, other, one.create_study(FACTS)
    one.close()
    other.close()


def lock_file(folder):
    (path,) = folder.glob("a.db-*.lock")
    return path


def replaced(path):
    new = path.with_name("new")
    new.write_text("somebody else's")
    new.replace(path)


LOSSES = {"deleted": lambda path: path.unlink(), "replaced": replaced}


@pytest.mark.parametrize("lose", [LOSSES["deleted"], slow(replaced)], ids=LOSSES)
def test_a_lock_file_that_is_gone_is_locked_again_by_the_next_write(two, tmp_path, lose):
    one, other, study = two
    with one.lock("digits"):
        add(one, study, 1)
        lose(lock_file(tmp_path))
        add(one, study, 2)
        with pytest.raises(StudyLockedError, match="by process"), other.lock("digits"):
            pass
    with other.lock("digits"):
        add(other, study, 3)
    assert [r.number for r in one.evaluations(study.id)] == [1, 2, 3]


WRITES = {
    "evaluation": lambda storage, study: add(storage, study, 9),
    "held outcome": lambda storage, study: storage.hold(
        study.id, Job(Recipe.of({"k": 7})), COMPLETE
    ),
    "events": lambda storage, study: storage.add_events(study.id, [Note("still here")]),
    "activity": lambda storage, study: storage.set_activity(study.id, Doing("waiting", 1, 2)),
    "status": lambda storage, study: storage.set_status(study.id, "finished"),
    "what was held": lambda storage, study: storage.drop_held(study.id),
    "failures": lambda storage, study: storage.forget_retriable(study.id),
}
QUICK = ("evaluation", "status", "held outcome")


@pytest.mark.parametrize(
    "write",
    [write if name in QUICK else slow(write) for name, write in WRITES.items()],
    ids=WRITES,
)
def test_no_write_passes_once_somebody_else_has_had_the_study(two, tmp_path, write):
    one, other, study = two
    with one.lock("digits"):
        lock_file(tmp_path).unlink()
        with other.lock("digits"):
            with pytest.raises(StudyLockedError, match="by process"):
                write(one, study)
            add(other, study, 1)
        before = one.study("digits"), one.events(study.id)
        with pytest.raises(StudyLockedError, match="was taken over by another process"):
            write(one, study)
        assert (one.study("digits"), one.events(study.id)) == before
        assert one.held(study.id) == {}
    with other.lock("digits"):
        add(other, study, 2)
    assert [r.number for r in one.evaluations(study.id)] == [1, 2]


def test_a_study_that_is_not_stored_yet_is_created_by_its_holder_alone(tmp_path):
    one, other = SqlStorage(tmp_path / "a.db"), SqlStorage(tmp_path / "a.db")
    with one.lock("digits"):
        lock_file(tmp_path).unlink()
        with other.lock("digits"):
            pass
        with pytest.raises(StudyLockedError, match="taken over"):
            one.create_study(FACTS)
    assert one.studies() == []


def test_the_end_of_a_study_that_was_taken_over_does_not_free_it(two, tmp_path):
    one, other, _ = two
    first, second = one.lock("digits"), other.lock("digits")
    first.__enter__()
    lock_file(tmp_path).unlink()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(StudyLockedError), one.lock("digits"):
        pass
    second.__exit__(None, None, None)


def test_a_database_that_was_put_back_to_an_earlier_state_is_noticed(two):
    one, other, study = two
    with one.lock("digits"):
        add(one, study, 1)
        back = update(FENCES).values(writes=FENCES.c.writes - 1)
        other.database.write(None, lambda connection: connection.execute(back))
        with pytest.raises(StorageError, match="put back to an earlier state"):
            add(one, study, 2)
    assert len(one.evaluations(study.id)) == 1


# ---------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        yield running


@pytest.fixture(scope="module")
def tables(server):
    return with_tables(server.url)


@pytest.fixture
def database(server, tables):
    return new_database(server.url, like=tables)


@pytest.fixture
def pair(database):
    one, other = SqlStorage(database), SqlStorage(database)
    yield one, other, one.create_study(FACTS)
    one.close()
    other.close()


def restart(server, mode="immediate"):
    server.stop(mode)
    server.start()


@pytest.mark.postgres
@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_a_restart_between_two_writes_costs_nothing_but_the_time(pair, server, mode):
    one, other, study = pair
    with one.lock("digits"):
        add(one, study, 1)
        restart(server, mode)
        add(one, study, 2)
        with pytest.raises(StudyLockedError, match="by process"), other.lock("digits"):
            pass
        restart(server, mode)
        assert len(one.evaluations(study.id)) == 2
        one.set_activity(study.id, Doing("waiting", 1, 2))
    with other.lock("digits"):
        add(other, study, 3)


@pytest.mark.postgres
def test_a_server_that_is_away_is_waited_for_and_not_for_ever(pair, server, database):
    one, _, study = pair
    hasty = SqlStorage(database, patience_s=0.3)
    server.stop()
    started = time.monotonic()
    with pytest.raises(StorageError, match="is the server running"):
        hasty.study("digits")
    assert time.monotonic() - started > 0.3
    back = threading.Timer(1.0, server.start)
    back.start()
    with one.lock("digits"):
        add(one, study, 1)
    back.join()
    assert len(hasty.evaluations(study.id)) == 1
    hasty.close()


@pytest.mark.postgres
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_write_passes_on_a_server_once_somebody_else_has_had_the_study(pair, server, write):
    one, other, study = pair
    with one.lock("digits"):
        add(one, study, 1)
        end_sessions(other)
        with other.lock("digits"):
            with pytest.raises(StudyLockedError, match="by process"):
                write(one, study)
            add(other, study, 2)
        with pytest.raises(StudyLockedError, match="was taken over by another process"):
            write(one, study)
    assert [r.number for r in other.evaluations(study.id)] == [1, 2]
    assert other.study("digits").status == "running"


def end_sessions(storage):
    """End every connection to a database but the one that asks."""
    query = text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    storage.database.read(lambda connection: connection.execute(query).all())


@pytest.mark.postgres
def test_a_study_that_finished_is_finished_even_if_its_lock_cannot_be_given_back(pair, server):
    one, other, study = pair
    with one.lock("digits"):
        one.set_status(study.id, "finished")
        server.stop()
    server.start()
    assert other.study("digits").status == "finished"
    with other.lock("digits"):
        pass


@pytest.mark.postgres
def test_an_error_is_not_hidden_by_a_lock_that_cannot_be_given_back(pair, server):
    one, _, _ = pair
    with pytest.raises(ZeroDivisionError), one.lock("digits"):
        server.stop()
        raise ZeroDivisionError
    server.start()


def answer_is_lost(storage, *, committed):
    """Let the next commit go through, or not, and its answer get lost."""
    dialect = storage.database.engine.dialect
    plain = dialect.do_commit

    def do_commit(connection):
        dialect.do_commit = plain
        if committed:
            plain(connection)
        connection.dbapi_connection.close()
        raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

    dialect.do_commit = do_commit


@pytest.mark.postgres
@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_in_doubt_is_looked_up_and_never_made_twice(pair, committed):
    one, _, study = pair
    with one.lock("digits"):
        add(one, study, 1)
        answer_is_lost(one, committed=committed)
        add(one, study, 2)
        answer_is_lost(one, committed=committed)
        one.add_events(study.id, [Note("once")])
        answer_is_lost(one, committed=committed)
        assert one.forget_retriable(study.id) == 0
        add(one, study, 3)
    assert [r.number for r in one.evaluations(study.id)] == [1, 2, 3]
    assert one.n_events(study.id, "note") == 1


@pytest.mark.postgres
def test_a_commit_in_doubt_of_who_holds_nothing_is_an_error_and_not_made_twice(pair):
    one, _, study = pair
    answer_is_lost(one, committed=True)
    with pytest.raises(StorageError, match="before it said whether the last write is stored"):
        add(one, study, 1)
    assert len(one.evaluations(study.id)) == 1


@pytest.mark.postgres
def test_the_server_forgets_a_lost_connection_of_ours_when_we_ask_it_to(pair):
    """A cut cable: the server keeps a connection that its client has given up."""
    one, other, study = pair
    with one.lock("digits"):
        add(one, study, 1)
        (hold,) = one.database._holds.values()
        ghost = hold._connection
        hold._connection = None
        with pytest.raises(StudyLockedError), other.lock("digits"):
            pass
        add(one, study, 2)
        with pytest.raises(OperationalError), ghost.begin():
            ghost.execute(text("SELECT 1"))
        ghost.invalidate()
        ghost.close()
    assert [r.number for r in one.evaluations(study.id)] == [1, 2]


# ---------------------------------------------------------------------- two drivers, 20 restarts

DRIVER = """
    import sys, time

    from moeash.errors import StorageError, StudyLockedError
    from moeash.study.course.budget import Budget
    from moeash.study.course.journal import Journal
    from moeash.study.course.ledger import Ledger
    from moeash.study.course.options import BudgetOptions
    from moeash.study.course.pump import Pump
    from moeash.study.course.standing import Standing
    from moeash.study.course.steady_state import SteadyState
    from moeash.study.storage.sql import SqlStorage
    from moeash.searches.space import Space
    from moeash.study.course.widening import Widening
    from tests.study.course.driving import K, Slots
    from tests.study.course.test_steady_state import Numbers, worth

    place, n, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

    def slow(job):
        time.sleep(pause)
        return worth(job)

    def once():
        with storage.lock("digits"):
            record = storage.study("digits")
            journal = Journal(storage, lambda event: None)
            journal.begin(record.id)
            ledger = Ledger(storage, record.id, journal)
            standing = Standing(record.facts, None)
            phase = SteadyState(
                Numbers(),
                standing,
                Budget(BudgetOptions(evaluations=n), clock=time.monotonic),
                journal,
                widening=Widening(Space((K,)), standing, journal),
                population=8,
                stored=list(ledger.known.values()),
            )
            Pump(Slots(slow, 1), ledger, journal).run(phase)
            journal.note("done")
            storage.set_status(record.id, "finished", ending=phase.ending)

    def opened():
        while True:
            try:
                return SqlStorage(place)
            except StorageError as error:  # a server that is not there at first is not waited for
                print("away:", error, flush=True)
                time.sleep(0.05)

    storage = opened()
    while True:
        try:
            once()
            print("finished", flush=True)
            break
        except StudyLockedError as error:
            print("locked:", error, flush=True)
            time.sleep(0.05)
"""


def drive(place, n, pause):
    return Fork(DRIVER, place, n, pause)


def story(storage):
    """What a study remembers, but for when and how long."""
    study = Study(storage, "digits")
    return (
        [(r.number, r.generation, r.job.key, r.outcome.metric) for r in study.evaluations()],
        [(g.index, g.hypervolume, g.n_evaluations, g.n_front) for g in study.generations()],
        study.front_numbers(),
        (study.status, study.record.ending),
    )


@pytest.mark.postgres
def test_of_two_drivers_one_always_wins_however_often_the_server_restarts(
    server, database, tmp_path
):
    n = 150
    undisturbed = SqlStorage(tmp_path / "a.db")
    undisturbed.create_study(FACTS_OF_ONE_SIZE)
    out, err = drive(tmp_path / "a.db", n, 0).communicate()
    assert out == "finished\n", err
    storage = SqlStorage(database)
    study = storage.create_study(FACTS_OF_ONE_SIZE)
    drivers = [drive(database, n, 0.02) for _ in range(2)]
    while not storage.evaluations(study.id):
        time.sleep(0.05)
    rng = random.Random(0)
    for _ in range(20):
        time.sleep(rng.uniform(0, 0.3))
        restart(server, rng.choice(["immediate", "fast"]))
    for driver in drivers:
        out, err = driver.communicate(timeout=120)
        assert driver.returncode == 0, err
        assert out.splitlines()[-1] == "finished"
        assert all(line.startswith(("away:", "locked:")) for line in out.splitlines()[:-1])
    assert story(storage) == story(undisturbed)
    numbers = [e.payload["number"] for e in storage.events(study.id, kinds=["evaluated"])]
    assert sorted(numbers) == list(range(1, n + 1)), "no event twice either"
    assert storage.held(study.id) == {}
    storage.close()
