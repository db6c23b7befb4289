"""launch, stop and logs on this machine, as a person types them. On a cluster: test_ray_cluster."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from moeash.launch.base import Export
from moeash.launch.exports import export_state, exported_file
from moeash.launch.identity import Identity
from moeash.launch.process import Processes
from moeash.launch.queue import Queue
from moeash.launch.standing import standing
from moeash.study.storage.sql import SqlStorage
from tests.forks import MOEASH, Fork
from tests.waiting import wait_until

pytestmark = pytest.mark.slow(seconds=13)

SPLITS = 'data.splits={search={part="all",range=[0,600]}}'
LONG = ("--set", "method.k=[6,250]", "--set", "merge.trials=0", "--set", "name=long")
LONG += ("--set", SPLITS, "--set", "evaluation.metric=slowly:score")

SLOWLY = """
import os, time

def score(outputs, labels):
    if not os.path.exists("FAST"):
        time.sleep(0.02)
    return (outputs.argmax(1) == labels).float()
"""
"""A metric that keeps a study going until a test has seen enough, however fast the machine."""


@pytest.fixture
def terminal(tmp_path):
    """The command line in a process of its own, which is gone when it has answered."""

    def call(*arguments, code=0):
        process = Fork(MOEASH, *arguments, cwd=tmp_path)
        out, err = process.communicate()
        assert process.returncode == code, out + err
        return out if code == 0 else err

    return call


def stands(tmp_path, study):
    storage = SqlStorage(tmp_path / "moeash.db")
    summaries = storage.summaries([study])
    launch = Processes(storage.database).record(study)
    return standing(summaries[0] if summaries else None, launch)


def last(tmp_path, study):
    storage = SqlStorage(tmp_path / "moeash.db")
    return Processes(storage.database).record(study)


def test_a_launched_study_is_followed_to_its_end_and_launched_again_ends_at_once(
    terminal, tmp_path, bare
):
    said = terminal("launch", bare, "--follow")
    assert said.startswith("study tiny: started as launch 1, process ")
    assert "front of tiny" in said
    assert terminal("logs", "tiny") in said
    assert stands(tmp_path, "tiny") == ("finished", "")
    again = json.loads(terminal("launch", bare, "--json"))
    assert (again["study"], again["launch"], again["state"]) == ("tiny", 2, "started")
    assert "front of tiny" in terminal("logs", "tiny", "--follow")


def test_a_study_that_another_process_launched_is_stopped_continued_and_killed(
    terminal, tmp_path, bare
):
    (tmp_path / "slowly.py").write_text(SLOWLY)
    launched = json.loads(terminal("launch", bare, *LONG, "--json"))
    assert "already running as launch 1" in terminal("launch", bare, *LONG)
    storage = SqlStorage(tmp_path / "moeash.db")
    wait_until(lambda: storage.studies() and len(storage.generations(1)) >= 2)
    wait_until(lambda: "generation 2" in terminal("logs", "long"))
    assert stands(tmp_path, "long") == ("running", "")
    assert terminal("stop", "long") == "study long: stopped\n"
    assert not Identity.read(last(tmp_path, "long").place).is_alive
    assert stands(tmp_path, "long") == ("interrupted", "stopped by SIGTERM")
    record = last(tmp_path, "long")
    assert record.exit_code == 130 and "everything evaluated is stored" in record.message
    assert "moeash: interrupted" in terminal("logs", "long", "--follow", code=130)

    launched = json.loads(terminal("launch", bare, *LONG, "--json"))
    wait_until(lambda: storage.study("long").status == "running")
    wait_until(lambda: "continuing after" in terminal("logs", "long"))
    os.kill(launched["process"], signal.SIGKILL)
    wait_until(lambda: stands(tmp_path, "long")[0] == "crashed")
    assert "its process ended without a word; it said last: " in stands(tmp_path, "long")[1]
    n = len(storage.evaluations(1))
    assert 0 < n < 60
    (tmp_path / "FAST").touch()
    log = terminal("launch", bare, *LONG, "--follow")
    assert f"continuing after {n} stored evaluations" in log
    assert stands(tmp_path, "long") == ("finished", "")
    assert len(storage.evaluations(1)) == 60
    storage.close()


def test_a_study_that_fails_before_it_is_stored_says_why(terminal, tmp_path, bare):
    missing = ("--set", 'network.checkpoint="nowhere.pt"')
    said = terminal("launch", bare, *missing, "--follow", code=1)
    assert "study tiny failed: cannot" in said and "nowhere.pt" in said
    how, why = stands(tmp_path, "tiny")
    assert how == "failed" and "nowhere.pt" in why
    assert "serch" in terminal("launch", bare, "--set", "serch.population=4", code=2)
    assert "never launched" in terminal("stop", "other", code=2)


def test_an_export_runs_as_a_launch_and_tells_what_it_verified(tiny, tmp_path):
    storage = SqlStorage(tiny.storage)
    queue = Queue(Processes(storage.database, tmp_path / "files"))
    good = queue.enqueue(Export("tiny", "smallest", max_drop=0.5), "ann")
    bad = queue.enqueue(Export("tiny", max_bytes=1), "ann")
    assert export_state(good).status == "queued"
    queue.tick()
    assert {export_state(r).status for r in queue.launches.active("export")} == {"running"}
    wait_until(lambda: queue.tick() or not queue.processes.children)

    record = queue.launches.get(good.id)
    state = export_state(record)
    assert (state.status, state.error) == ("finished", None), state.error
    (file,) = state.files
    path, same = exported_file(record, file.name)
    assert same == file and path.stat().st_size == file.size_bytes == state.report["size_bytes"]
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert digest.stdout.split()[0] == file.sha256
    assert state.inspection["size_bytes"] == file.size_bytes
    assert state.report["holdout"]["n_images"] == 100
    assert json.loads(json.dumps(state.as_dict()))["files"][0]["name"] == "tiny.moeash"
    with pytest.raises(ValueError, match=r"has no file '../report.json'"):
        exported_file(record, "../report.json")
    path.unlink()
    assert "is no longer in" in export_state(record).error

    failed = export_state(queue.launches.get(bad.id))
    assert (failed.status, failed.files) == ("failed", ())
    assert failed.error.startswith("no solution") and queue.launches.get(bad.id).exit_code == 3
    storage.close()


def test_a_process_that_is_no_longer_wanted_does_not_run(terminal, tmp_path, bare, monkeypatch):
    storage = SqlStorage(tmp_path / "moeash.db")
    launches = Processes(storage.database).launches
    record = launches.add("run", "tiny", {}, "ann")
    monkeypatch.setenv("MOEASH_LAUNCH", str(record.id))
    assert "launch 1 of study 'tiny' is queued" in terminal("run", bare, code=1)
    launches.ask_stop(record.id)
    assert "is ended" in terminal("run", bare, code=1)
    monkeypatch.setenv("MOEASH_LAUNCH", "7")
    assert "there is no launch 7" in terminal("run", bare, code=2)
    monkeypatch.setenv("MOEASH_LAUNCH", "x")
    assert "should be the number of a launch" in terminal("run", bare, code=2)
    assert Path(tmp_path / "moeash.db").exists() and not storage.studies()
    storage.close()
