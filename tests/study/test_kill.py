"""A study killed at any moment is continued, not repeated. Real processes, real kill -9."""

import json
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from moeash.backends.inprocess import InProcessBackend
from moeash.errors import StudyLockedError
from moeash.study.run import run
from moeash.study.storage.sql import SqlStorage
from moeash.study.study import Study
from tests.contracts.counts import assert_counts_are_true
from tests.digits import BASE, digits_plan, merged
from tests.forks import Fork

# Of so many images that an evaluation takes as long as a kill comes late, on a quick machine, too.
CHANGES = {
    "data": {"splits": {"search": {"count": 1200}}},
    "merge": {"trials": 12},
    "budget": {"generations": 5},
}

CHILD = """
    import json, sys
    print("begun", flush=True)
    import moeash

    def tell(event):
        if event.kind == "opened":
            print("started", event.n_stored, flush=True)
        elif event.kind == "evaluated":
            print("known" if event.stored_before else "new", event.record.job.key, flush=True)

    moeash.run(json.loads(sys.argv[1]), storage=sys.argv[2], progress=tell)
    print("finished", flush=True)
"""


def start(path, changes=CHANGES):
    """Run the study in a process of its own."""
    return Fork(CHILD, json.dumps(merged(BASE, changes)), path)


def read_until(child, word, count):
    """Return the lines up to the ``count``-th that begins with ``word``, or to the end."""
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        count -= line.startswith(word)
        if count <= 0:
            break
    return lines


def story(study):
    return (
        [
            replace(r, created_at="", outcome=replace(r.outcome, duration_s=0.0))
            for r in study.evaluations()
        ],
        [replace(g, elapsed_s=0.0) for g in study.generations()],
        [s.as_dict() for s in study.front()],
        (study.record.status, study.record.ending),
    )


def run_here(path, make_backend=InProcessBackend):
    return run(digits_plan(**CHANGES), SqlStorage(str(path)), make_backend)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run_here(tmp_path_factory.mktemp("whole") / "a.db")


def stored(path):
    storage = SqlStorage(str(path))
    assert_counts_are_true(storage)
    return {r.number: r for s in storage.studies() for r in storage.evaluations(s.id)}


@pytest.mark.slow(seconds=30)
def test_twenty_kills_change_nothing(tmp_path, uninterrupted):
    path = tmp_path / "a.db"
    rng = np.random.default_rng(20)
    total = len(uninterrupted.evaluations())
    # Four while everything is loaded, sixteen spread over search and merges, each a moment of
    # chance after an evaluation: during the next one or during its commit.
    n_kills, told = 20, 0
    loading = set(rng.choice(n_kills, 4, replace=False).tolist())
    for kill in range(n_kills):
        before = stored(path) if path.exists() else {}
        child = start(path)
        if kill in loading:
            read_until(child, "begun", 1)
            time.sleep(float(rng.uniform(0, 0.3)))
        else:
            lines = read_until(child, "new", int(rng.integers(1, total // 20)))
            assert "finished" not in lines, "the study ended before it could be killed often enough"
            told += sum(line.startswith("new") for line in lines)
            time.sleep(float(rng.uniform(0, 0.03)))
        child.kill()
        rest, _ = child.communicate()
        told += sum(line.startswith("new") for line in rest.splitlines())
        assert child.returncode == -signal.SIGKILL
        after = stored(path)
        # Nothing that was stored is lost, changed or evaluated again.
        assert {n: after[n] for n in before} == before
        # And whoever was told of an evaluation finds it; one may be stored and not yet told.
        assert told <= len(after) <= told + kill + 1
    done = run_here(path)
    assert story(done) == story(uninterrupted)
    assert {n: r for n, r in stored(path).items() if n in after} == after
    keys = [r.job.key for r in done.evaluations()]
    assert len(keys) == len(set(keys)) == total


CALIBRATED = {
    **CHANGES,
    "data": {"splits": {"calibration": {"part": "all", "count": 60, "seed": 0}}},
    "method": {"k": None, "name": "feedback", "images": 60, "sketches": 1},
    "search": {"population": 6},
    "budget": {"generations": 2},
    "merge": {"trials": 3},
}


@pytest.mark.slow(seconds=10)
def test_a_study_with_feedback_is_continued_after_kills(tmp_path):
    whole = run(digits_plan(**CALIBRATED), SqlStorage(str(tmp_path / "w.db")), InProcessBackend)
    path = tmp_path / "a.db"
    for n_new in (1, 3, 4):
        child = start(path, CALIBRATED)
        assert "finished" not in read_until(child, "new", n_new)
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
    done = run(digits_plan(**CALIBRATED), SqlStorage(str(path)), InProcessBackend)
    assert story(done) == story(whole)
    assert done.front()


@pytest.mark.slow
def test_an_interrupt_is_recorded_and_the_study_continues(tmp_path, uninterrupted):
    path = tmp_path / "a.db"
    child = start(path)
    read_until(child, "new", 10)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode != 0 and "KeyboardInterrupt" in err
    study = Study(SqlStorage(str(path)), "digits")
    assert study.record.status == "interrupted" and len(study.evaluations()) >= 10
    assert study.record.reason == "stopped by Ctrl-C"
    ended = study.storage.events(study.record.id, kinds=["ended"])[-1]
    assert ended.payload == {"status": "interrupted", "reason": "stopped by Ctrl-C"}
    assert story(run_here(path)) == story(uninterrupted)


@pytest.mark.slow
def test_a_second_process_on_one_study_is_refused_while_the_first_one_lives(
    tmp_path, uninterrupted
):
    path = tmp_path / "a.db"
    child = start(path)
    read_until(child, "new", 3)
    child.send_signal(signal.SIGSTOP)  # alive, holding the study
    with pytest.raises(StudyLockedError, match=f"worked on by process {child.pid} on"):
        run_here(path)
    study = Study(SqlStorage(str(path)), "digits")
    assert study.status == "running"
    child.kill()
    child.communicate()
    assert study.record.status == "running", "nobody was left to write anything else"
    assert study.status == "crashed"
    assert story(run_here(path)) == story(uninterrupted)
