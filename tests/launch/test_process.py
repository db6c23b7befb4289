"""Launches as real processes, killed at every moment, on one database."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from moeash.errors import BackendError, InputError
from moeash.launch.identity import Identity
from moeash.launch.queue import Queue
from moeash.launch.standing import standing
from tests.launch.launching import LAUNCH, shell
from tests.marks import slow
from tests.waiting import wait_until

# A launch as moeash itself behaves: it registers, says what it does, and signs off.
REGISTERED = textwrap.dedent(
    """
    import os, sys, time
    time.sleep(float(os.environ.get("SLEEP_FIRST", 0)))
    from moeash.launch.registered import register
    me = register()
    open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
    print("begun", flush=True)
    try:
        time.sleep(float(sys.argv[2]))
    finally:
        me.end(0, None)
    """
)


def registered(ran, seconds=60):
    return lambda record, folder: [sys.executable, "-c", REGISTERED, str(ran), str(seconds)]


def the_process(record):
    return Identity.read(record.place)


STARTER = """
    import os, signal, subprocess, sys
    from moeash.launch.base import Launch
    from moeash.launch.process import Processes
    from moeash.launch.queue import Queue
    from moeash.study.storage.sql import SqlStorage

    when, database, files, *command = sys.argv[1:]

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    class Dies(Processes):
        def _make_folder(self, record):
            return die() if when == "claimed" else super()._make_folder(record)
        def _popen(self, *arguments, **options):
            child = die() if when == "prepared" else super()._popen(*arguments, **options)
            return die() if when == "spawned" else child

    processes = Dies(SqlStorage(database).database, files, command=lambda *_: command)
    queue = Queue(processes)
    queue.enqueue(Launch("digits", "x"), "ann")
    queue.tick()
    die()
"""


def start_and_die(database, tmp_path, when, command, **environment):
    """Start a launch from another process, which is killed at a moment."""
    files = str(tmp_path / "files")
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STARTER), when, database.place, files, *command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr


def test_a_study_runs_in_a_session_of_its_own_with_its_log_and_nothing_on_stdin(processes):
    own = processes(shell("cat; echo out; echo err >&2; ps -o sid= -p $$; env; pwd; exec sleep 60"))
    assert own.start(LAUNCH)
    wait_until(lambda: "PWD" in "".join(own.log("digits")))
    log = "".join(own.log("digits"))
    record = own.record("digits")
    pid = the_process(record).pid
    assert log.startswith(f"out\nerr\n{pid:7d}\n") or f"out\nerr\n{pid}\n" in log.replace(" ", "")
    assert f"MOEASH_LAUNCH={record.id}\n" in log and "MOEASH_STORAGE=" in log
    folder = Path(record.folder)
    assert (folder / "spec.toml").read_text() == LAUNCH.spec
    for path in (folder, folder.parent, folder.parent.parent):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (folder / "log").stat().st_mode & 0o777 == 0o600
    assert own.state("digits").name == "running"
    assert not own.start(LAUNCH)  # once, however often started
    assert own.stop("digits").name == "stopped"
    assert not the_process(record).is_alive


def test_a_launch_works_where_whoever_asked_for_it_stood(processes, tmp_path):
    own = processes(shell("pwd"))
    own.start(replace(LAUNCH, folder=str(tmp_path)))
    assert list(own.log("digits", follow=True)) == [f"{tmp_path}\n"]
    assert own.state("digits").name == "succeeded"


def test_how_a_process_ended_is_told_with_its_last_words(processes):
    own = processes(shell("echo one; echo 'moeash: no such file' >&2; exit 2"))
    own.start(LAUNCH)
    wait_until(lambda: own.state("digits").ended)
    record = own.record("digits")
    assert (record.exit_code, record.message) == (2, "one / moeash: no such file")
    assert own.state("digits").name == "failed"


def test_what_was_killed_is_told_with_its_signal_and_last_words(processes):
    own = processes(shell("echo generation 3; exec sleep 60"))
    own.start(LAUNCH)
    wait_until(lambda: "".join(own.log("digits")))
    os.kill(the_process(own.record("digits")).pid, signal.SIGKILL)
    wait_until(lambda: own.state("digits").ended)
    record = own.record("digits")
    said = "its process was ended by signal 9; it said last: generation 3"
    assert (record.exit_code, record.message) == (137, said)
    assert own.start(LAUNCH)  # and can be started again
    assert own.record("digits").folder != record.folder


def test_who_hears_no_stop_is_named_with_the_way_to_end_it(processes):
    own = processes(shell("echo begun; exec sleep 60"))
    own.start(LAUNCH)
    wait_until(lambda: "".join(own.log("digits")))
    process = the_process(own.record("digits"))
    os.kill(process.pid, signal.SIGSTOP)  # as deaf as in a long call of a library
    with pytest.raises(BackendError, match=f"end process {process.pid} with kill -9"):
        own.stop("digits", wait_s=0.3)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: own.state("digits").ended)


def test_what_cannot_be_started_says_so_and_is_not_tried_for_ever(processes):
    own = processes(lambda record, folder: ["/nowhere/python"])
    with pytest.raises(BackendError, match=r"one'.*could not be started.*/nowhere/python"):
        own.start(replace(LAUNCH, study="one"))
    word, why = standing(None, own.record("one"))
    assert word == "failed" and "could not be started" in why, "it says why, so it did not crash"
    queue = Queue(own)
    queue.enqueue(LAUNCH, "ann")
    queue.tick()
    assert own.state("digits").name == "failed" and queue.positions() == {}


def test_what_was_never_launched_is_refused_and_what_a_person_runs_is_named(processes, database):
    own = processes(shell("true"))
    for act in (own.stop, lambda study: list(own.log(study))):
        with pytest.raises(InputError, match="never launched"):
            act("digits")
    assert own.state("digits") is None
    with database.lock("digits"), pytest.raises(InputError, match=r"is run by process .* Ctrl-C"):
        own.stop("digits")
    with database.lock("digits"), pytest.raises(InputError, match="was not launched"):
        Queue(own).stop("digits")


@pytest.mark.parametrize("when", [slow("claimed"), "prepared"])
def test_a_starter_killed_before_it_started_anything_loses_nothing(
    processes, database, tmp_path, when
):
    start_and_die(database, tmp_path, when, ["true"])
    own = processes(shell("echo begun"))
    assert own.launches.get(1).state == "running"  # as far as the dead one could say
    Queue(own).tick()
    wait_until(lambda: "".join(own.log("digits")) == "begun\n")
    assert [record.id for record in own.launches.of_study("digits", "run")] == [1]


@pytest.mark.parametrize("when", ["spawned", slow("later")])
def test_a_study_outlives_its_starter_and_another_one_stops_it(processes, database, tmp_path, when):
    ran = tmp_path / "ran"
    start_and_die(database, tmp_path, when, registered(ran)(None, None))
    # Its number is not known yet where the starter was killed at once.
    wait_until(lambda: the_process(processes(shell("true")).launches.get(1)) is not None)
    own = processes(shell("echo a second one >> ran"))
    queue = Queue(own)
    for _ in range(3):
        queue.tick()
    wait_until(lambda: ran.exists() and ran.read_text().endswith("\n"))
    record = own.record("digits")
    assert record.state == "running" and the_process(record).pid == int(ran.read_text())
    assert own.stop("digits").name == "stopped"
    assert not the_process(record).is_alive


@pytest.mark.slow
def test_starter_and_study_killed_is_told_and_can_be_continued(processes, database, tmp_path):
    ran = tmp_path / "ran"
    start_and_die(database, tmp_path, "later", registered(ran)(None, None))
    wait_until(lambda: ran.exists() and ran.read_text().endswith("\n"))
    os.kill(int(ran.read_text()), signal.SIGKILL)
    own = processes(registered(ran, 0))
    wait_until(lambda: own.state("digits").ended)
    record = own.record("digits")
    said = "its process ended without a word; it said last: begun"
    assert (record.exit_code, record.message) == (None, said)
    assert own.start(LAUNCH)
    wait_until(lambda: own.state("digits").name == "succeeded")


@pytest.mark.slow
def test_of_two_processes_started_for_one_launch_one_runs(processes, database, tmp_path):
    # The starter dies before it notes the first, which is slow to register: it is put back.
    ran = tmp_path / "ran"
    command = registered(ran, 1)(None, None)
    start_and_die(database, tmp_path, "spawned", command, SLEEP_FIRST="1")
    own = processes(registered(ran, 1))
    Queue(own).tick()
    wait_until(lambda: own.state("digits").ended)
    time.sleep(1.5)
    assert own.state("digits").name == "succeeded"
    assert len(ran.read_text().splitlines()) == 1


def test_another_process_with_the_number_of_a_study_is_never_signalled(processes):
    own = processes(shell("exec sleep 60"))
    own.start(LAUNCH)
    record = own.record("digits")
    process = the_process(record)
    for changes in ({"started": process.started - 1}, {"boot": "another boot"}):
        stranger = replace(process, **changes)
        assert own.launches.move(record, {**record.place, "process": stranger.as_dict()})
        own.launches.ask_stop(record.id)
        own.look_after()
        assert own.launches.get(record.id).ended
        assert process.is_alive
        record = own.launches.add("run", "digits", LAUNCH.request(), "ann")
        record = own.launches.claim(record.id, "process", {"host": process.host})


def test_a_launch_of_a_machine_that_was_started_again_has_ended(processes):
    own = processes(shell("exec sleep 60"))
    own.start(LAUNCH)
    record = own.record("digits")
    before = replace(the_process(record), boot="the boot before")
    own.launches.move(record, {**record.place, "process": before.as_dict()})
    assert own.state("digits").name == "failed"
    assert "the machine was started again while it ran" in own.record("digits").message


def test_a_launch_of_another_machine_is_left_alone_and_given_up_when_it_does_not_answer(
    processes, database, monkeypatch
):
    own = processes(shell("exec sleep 60"))
    own.start(LAUNCH)
    record = own.record("digits")
    there = replace(the_process(record), host="elsewhere")
    place = {**record.place, "host": "elsewhere", "process": there.as_dict()}
    own.launches.move(record, place)
    for _ in range(2):
        assert own.state("digits").name == "running"
        with pytest.raises(BackendError, match="runs on elsewhere, which has not answered"):
            own.stop("digits", wait_s=0.2)
    with pytest.raises(BackendError, match="is on elsewhere"):
        list(own.log("digits"))
    monkeypatch.setattr("moeash.launch.process.ANSWER_S", 0.0)
    with database.lock("digits"):
        assert own.state("digits").name == "running"  # somebody holds it: it runs there
    assert own.state("digits").message == "given up: elsewhere, where it ran, has not answered"
    assert the_process(record).is_alive


@pytest.mark.slow
def test_a_follower_of_a_job_that_was_lost_is_replaced_and_a_stop_is_the_clusters(processes):
    own = processes(shell("echo follows; exec sleep 60"), address="http://127.0.0.1:9")
    queue = Queue(own)
    queue.enqueue(LAUNCH, "ann")
    queue.tick()
    record = own.record("digits")
    assert (record.launcher, record.place["address"]) == ("ray", "http://127.0.0.1:9")
    os.kill(the_process(record).pid, signal.SIGKILL)
    the_process(record).wait(60)
    queue.tick()  # the job goes on, whoever follows it
    again = own.record("digits")
    assert again.state == "running" and the_process(again) != the_process(record)
    own.launches.ask_stop(again.id)
    own.look_after()
    assert the_process(again).is_alive  # not the follower, but the job is told
    # Which nobody answers for; or Ray is not installed.
    wait_until(lambda: "127.0.0.1:9" in (log := "".join(own.log("digits"))) or "need Ray" in log)
