from moeash.study.course.journal import ACTIVITY_EVERY_S, Journal
from moeash.study.events import Note, PhaseStarted
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import facts


def test_what_is_said_before_the_study_exists_is_stored_as_soon_as_it_does(tmp_path):
    storage, heard = SqlStorage(str(tmp_path / "a.db")), []
    journal = Journal(storage, heard.append)
    journal.note("first")
    study = storage.create_study(facts())
    journal.begin(study.id)
    journal.say(PhaseStarted("search", 10))
    stored = storage.events(study.id)
    assert [event.kind for event in stored] == ["note", "phase_started"]
    assert stored[0].payload == {"text": "first"}
    assert heard == [Note("first"), PhaseStarted("search", 10)]


def test_passing_events_are_heard_at_once_and_the_last_is_stored_now_and_then(tmp_path):
    now = 0.0
    storage, heard = SqlStorage(str(tmp_path / "a.db")), []
    study = storage.create_study(facts())
    journal = Journal(storage, heard.append, clock=lambda: now)
    journal.begin(study.id)
    for done in range(5):
        journal.progress("measuring", done, 5)
    assert [(event.what, event.done, event.total) for event in heard] == [
        ("measuring", done, 5) for done in range(5)
    ]
    assert storage.study(study.facts.name).activity.payload["done"] == 0
    now = ACTIVITY_EVERY_S
    journal.progress("measuring", 5, 5)
    assert storage.study(study.facts.name).activity.payload["done"] == 5
    assert storage.events(study.id) == []


def test_time_left_follows_from_the_pace_of_the_step_alone(tmp_path):
    now = 100.0
    heard = []
    journal = Journal(SqlStorage(str(tmp_path / "a.db")), heard.append, clock=lambda: now)
    journal.progress("loading", 0, None)
    journal.progress("measuring", 0, 10)
    now = 104.0
    journal.progress("measuring", 2, 10)
    now = 106.0
    journal.progress("measuring", 4, 10)
    journal.progress("factorising", 3, 4)
    now = 107.0
    journal.progress("factorising", 4, 4)
    assert [event.left_s for event in heard] == [None, None, 16.0, 9.0, None, 0.0]


def test_time_left_is_told_of_trainings_that_say_something_else_every_time_and_of_two_at_once(
    tmp_path,
):
    now = 0.0
    heard = []
    journal = Journal(SqlStorage(str(tmp_path / "a.db")), heard.append, clock=lambda: now)
    for now in (0.0, 10.0, 20.0):
        steps = int(now)
        journal.progress(f"k=1: training, stage 1 of 2: {now} bits, loss {now}", steps, 100)
        journal.progress(f"k=2: training, stage 1 of 2: {now} bits, loss {now}", 5 * steps, 200)
    assert [event.left_s for event in heard] == [None, None, 90.0, 30.0, 80.0, 20.0]
    journal.progress("k=2: training, stage 2 of 2: 1 bits, loss 3", 150, 200)
    assert heard[-1].left_s is None, "a stage has a pace of its own"
