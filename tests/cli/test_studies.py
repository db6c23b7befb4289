import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from moeash.evaluation.outcome import CAUTION
from moeash.launch.identity import Identity
from moeash.study.events import GenerationStarted, WorkersChanged
from moeash.study.storage.counts import count_anew
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.launches import Launches
from tests.marks import slow

FRONT_KEYS = {
    "id",
    "recipe",
    "stage",
    "metric",
    "metric_name",
    "drop",
    "size_bytes",
    "ratio",
    "entries",
    "bits_per_weight",
}


@pytest.fixture
def stored(monkeypatch, tiny):
    monkeypatch.setenv("MOEASH_STORAGE", tiny.storage)
    return tiny


def without_output(study):
    return study.spec.read_text().partition("[output]")[0]


def test_run_leaves_the_front_pictures_and_a_verified_file(stored):
    names = {path.name for path in (stored.folder / "results").iterdir()}
    assert names == {
        "tiny.moeash",
        "front.json",
        "front.png",
        "hypervolume.png",
        "codebook.png",
        "bytes.png",
    }
    summary = json.loads((stored.folder / "results" / "front.json").read_text())
    assert summary["exported"]["size_bytes"] == stored.file.stat().st_size
    assert summary["exported"]["holdout"]["n_images"] == 100


@pytest.mark.slow
def test_run_on_a_finished_study_evaluates_nothing_and_writes_its_output_again(moeash, stored):
    before = moeash("status", "tiny", "--json").json
    answer = moeash("run", stored.spec, "--json")
    assert answer.code == 0
    assert answer.json["study"] == "tiny" and answer.json["ending"] == before["ending"]
    assert "continuing after" in answer.err and "evaluations" in answer.err
    assert answer.json["exported"]["path"] == "results/tiny.moeash"
    assert moeash("verify", "results/tiny.moeash", "--study", "tiny").code == 0
    assert moeash("status", "tiny", "--json").json["evaluations"] == before["evaluations"]


@pytest.mark.slow
def test_a_pick_that_nothing_meets_has_its_own_exit_code_and_leaves_the_front(moeash, stored):
    answer = moeash("run", stored.spec, "--set", "output.max_bytes=100", "--json")
    assert answer.code == 3
    assert [path.rpartition("/")[2] for path in answer.json["files"]] == [
        "front.png",
        "hypervolume.png",
        "front.json",
    ]
    assert answer.json["exported"] is None
    least = answer.json["front"][0]
    *_, said = answer.err.splitlines()
    assert said.startswith(
        f"moeash: no solution within 100 bytes; the smallest one, id {least['id']}"
    )
    text = moeash("run", stored.spec, "--set", "output.max_bytes=100")
    assert text.code == 3
    assert "wrote results/front.json\n" in text.out
    assert text.err.splitlines()[-1] == said


def test_a_folder_that_cannot_be_written_ends_the_run_before_it_begins(moeash, tiny, tmp_path):
    (tmp_path / "results").write_text("mine")
    answer = moeash("run", tiny.spec, "--storage", "new.db")
    assert (answer.code, answer.out) == (1, "")
    assert "cannot write to the output folder results" in answer.err
    assert "loading" not in answer.err
    assert not (tmp_path / "new.db").exists()


@pytest.mark.slow
def test_where_norms_are_measured_again_both_baselines_are_shown(moeash, stored, tmp_path):
    spec = tmp_path / "again.toml"
    text = without_output(stored).replace('name = "tiny"', 'name = "again"')
    spec.write_text(text + "\n[codec]\nnorms = 'remeasured'\n")
    calibration = 'data.splits.calibration={part = "all", range = [160, 260]}'
    options = ("--storage", str(tmp_path / "a.db"))
    ran = moeash("run", spec, "--set", calibration, "--set", "method.k=[8, 10]", *options)
    assert ran.code == 0
    status = moeash("status", "again", "--json", *options).json
    given, again = status["baseline"], status["remeasured_baseline"]
    assert 0.8 < again <= 1
    both = f"{given:.4f} ({again:.4f} with BatchNorms measured again)"
    assert both in ran.err
    assert "2 BatchNorms are measured again on 100 calibration images" in ran.err
    assert both in moeash("status", "again", *options).out
    assert both in moeash("front", "again", *options).out
    exported = moeash("export", "again", "--to", tmp_path / "x.moeash", *options)
    assert "float with BatchNorms measured again: top-1" in exported.out
    checked = moeash("verify", tmp_path / "x.moeash", "--study", "again", *options)
    assert checked.code == 0


def test_front_has_the_promised_keys_smallest_first(moeash, stored):
    front = moeash("front", "tiny", "--json").json
    assert len(front) > 1
    assert all(set(row) >= FRONT_KEYS for row in front)
    assert all(row["stage"] in ("search", "merged") for row in front)
    assert [r["size_bytes"] for r in front] == sorted(r["size_bytes"] for r in front)
    assert [r["metric"] for r in front] == sorted(r["metric"] for r in front)


def test_front_says_what_it_is_measured_against(moeash, stored):
    title, heading, *rows = moeash("front", "tiny").out.splitlines()
    assert "220,664 B" in title and "top1" in title
    assert heading.split() == [
        "id", "recipe", "bytes", "ratio", "entries", "bits/weight", "top1", "drop",
    ]  # fmt: skip
    assert len(rows) == len(moeash("front", "tiny", "--json").json)


def test_list_names_every_study(moeash, stored):
    (row,) = moeash("list", "--json").json
    assert (row["name"], row["status"]) == ("tiny", "finished")
    assert "tiny" in moeash("list").out


def test_studies_that_wait_or_never_got_as_far_as_being_stored_are_told_of(
    moeash, stored, tmp_path
):
    copy = tmp_path / "asked.db"
    shutil.copy(stored.storage, copy)
    store = SqlStorage(str(copy))
    launches = Launches(store.database)
    launches.add("run", "waits", {}, "ann")
    launches.end(launches.add("run", "vain", {}, "ann").id, 2, "moeash: no images")
    launches.add("run", "tiny", {}, "ann")
    where = ("--storage", copy)
    rows = moeash("list", *where, "--json").json
    assert [(row["name"], row["status"]) for row in rows] == [
        ("tiny", "queued"),
        ("vain", "failed"),
        ("waits", "queued"),
    ]
    assert ["vain", "failed", "0"] in [
        line.split()[:3] for line in moeash("list", *where).out.splitlines()
    ]
    assert moeash("status", "vain", *where).out == "study vain: failed; no images\n"
    assert moeash("status", "waits", *where, "--json").json["status"] == "queued"
    assert moeash("status", "tiny", *where).out.startswith("study tiny: queued; it waits for its")
    assert "no study 'none'" in moeash("status", "none", *where).err
    store.close()


LIST = """
import contextlib, os, sys
from moeash.cli.main import main
theirs, ours = sys.argv[1:]
sys.argv = ["moeash", "list", "--json", "--storage", ours]
with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
    main()  # imports what others may not read
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)  # root may write anything
sys.argv[-1] = theirs
main()
"""


@pytest.mark.slow
def test_who_may_only_read_lists_a_launch_whose_process_has_died(stored, tmp_path):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # pytest's own are closed to others
        folder = Path(name)
        shutil.copy(stored.storage, folder / "a.db")
        store = SqlStorage(folder / "a.db")
        launches = Launches(store.database)
        died = {"process": replace(Identity.mine(), started=1).as_dict()}
        launches.claim(launches.add("run", "tiny", {}, "ann").id, "process", died)
        store.close()
        ours = shutil.copy(folder / "a.db", tmp_path)
        (folder / "a.db").chmod(0o444)
        folder.chmod(0o555)
        command = [sys.executable, "-c", LIST, folder / "a.db", ours]
        done = subprocess.run(command, capture_output=True, text=True)
        folder.chmod(0o755)
        assert done.returncode == 0, done.stderr
        assert [row["name"] for row in json.loads(done.stdout)] == ["tiny"]
        store = SqlStorage(folder / "a.db")
        assert Launches(store.database).newest(["tiny"])["tiny"].state == "running"
        store.close()


def test_a_study_whose_process_was_killed_has_crashed_and_says_what_it_was_at(
    moeash, stored, tmp_path
):
    copy = tmp_path / "killed.db"
    shutil.copy(stored.storage, copy)
    store = SqlStorage(str(copy))
    study_id = store.study("tiny").id
    store.set_status(study_id, "running")  # what kill -9 leaves behind
    store.add_events(study_id, [WorkersChanged(3)])
    store.set_activity(study_id, GenerationStarted(7, 20, 20))
    where = ("--storage", copy)
    status = moeash("status", "tiny", *where, "--json").json
    assert (status["status"], status["workers"]) == ("crashed", 0)
    said = moeash("status", "tiny", *where).out
    assert re.match(r"study tiny: crashed; last: evaluating generation 7, \d\d:\d\d:\d\d\n", said)
    assert moeash("list", *where, "--json").json[0]["status"] == "crashed"
    assert "crashed" in moeash("list", *where).out
    with store.lock("tiny"):
        status = moeash("status", "tiny", *where, "--json").json
        assert (status["status"], status["workers"]) == ("running", 3)
        assert "workers: 3; evaluating generation 7" in moeash("status", "tiny", *where).out
    store.set_status(study_id, "failed", reason="StorageError: the disk is full")
    assert "tiny: failed; StorageError: the disk is full\n" in moeash("status", "tiny", *where).out
    store.close()


@pytest.mark.slow
def test_status_says_which_failures_can_be_tried_again_and_run_does(moeash, stored, tmp_path):
    copy = tmp_path / "failed.db"
    shutil.copy(stored.storage, copy)
    where = ("--storage", copy)
    before = moeash("front", "tiny", *where, "--json").json
    with sqlite3.connect(copy) as database:
        database.execute(
            "UPDATE evaluations SET status = 'failed', retriable = 1, metric = NULL, bound = NULL, "
            "error = 'gave up after 3 tries: died (3 times)' WHERE number IN (2, 5)"
        )
    database.close()
    with create_engine(f"sqlite:///{copy}").begin() as connection:
        count_anew(connection, 1)
    status = moeash("status", "tiny", *where, "--json").json
    assert (status["failed"], status["retriable"]) == (2, 2)
    assert all(e["retriable"] and e["error"].startswith("gave up") for e in status["errors"])
    assert "2 failed through no fault of their own" in moeash("status", "tiny", *where).out
    spec = tmp_path / "tiny.toml"
    spec.write_text(without_output(stored))
    answer = moeash("run", spec, *where)
    assert answer.code == 0 and moeash("status", "tiny", *where, "--json").json["failed"] == 2
    answer = moeash("run", spec, *where, "--retry-failed")
    assert answer.code == 0 and "2 failed evaluations will be tried again" in answer.err
    assert moeash("status", "tiny", *where, "--json").json["failed"] == 0
    assert moeash("front", "tiny", *where, "--json").json == before


def test_status_counts_add_up(moeash, stored):
    status = moeash("status", "tiny", "--json").json
    assert status["evaluations"] == status["complete"] + status["stopped"] + status["failed"]
    assert status["forward_batches"] <= status["forward_batches_of_full_evaluations"]
    assert status["front"] == len(moeash("front", "tiny", "--json").json)
    text = moeash("status", "tiny").out
    assert "54,864 weights shared, 300 kept" in text


@pytest.mark.parametrize(
    "options, chosen",
    [
        (["--pick", "smallest"], lambda front: front[0]),
        (["--pick", "smallest", "--max-drop", "0.05"], None),
        slow(["--pick", "best"], lambda front: front[-1]),
        (["--id", "last"], lambda front: front[-1]),
    ],
)
def test_export_writes_the_solution_that_was_asked_for(moeash, stored, options, chosen):
    front = moeash("front", "tiny", "--json").json
    options = [str(front[-1]["id"]) if option == "last" else option for option in options]
    within = [row for row in front if row["drop"] + CAUTION * row["noise"] <= 0.05]
    expected = within[0] if chosen is None else chosen(front)
    report = moeash("export", "tiny", "--to", "x.moeash", *options, "--json").json
    assert report["solution"] == expected
    assert report["size_bytes"] == expected["size_bytes"]
    assert moeash("inspect", "x.moeash", "--json").json["size_bytes"] == expected["size_bytes"]


def test_export_prints_the_holdout_with_its_interval(moeash, stored):
    answer = moeash("export", "tiny", "--to", "x.moeash", "--pick", "knee")
    assert answer.code == 0
    assert "holdout (100 images): top-1" in answer.out and "[95 %:" in answer.out


def test_export_of_nothing_within_the_drop_names_the_nearest(moeash, stored, tmp_path):
    answer = moeash("export", "tiny", "--to", "x.moeash", "--max-drop", "-1")
    assert answer.code == 3
    assert "no solution within a drop of -1.0; the best one, id" in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["front", slow("hypervolume"), slow("codebook"), slow("bytes")])
def test_every_kind_of_plot_is_written_as_png_and_svg(moeash, stored, tmp_path, kind):
    assert moeash("plot", "tiny", "--kind", kind, "--to", "p.svg").out == "wrote p.svg\n"
    assert moeash("plot", "tiny", "--kind", kind, "--to", "p.png", "--json").json == {
        "wrote": "p.png"
    }
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()


def test_another_spec_under_the_same_name_is_refused_with_the_difference(moeash, stored):
    answer = moeash("run", stored.spec, "--set", "seed=7")
    assert answer.code == 2
    assert "seed: stored 0, now 7" in answer.err


@pytest.mark.parametrize(
    "override, message",
    [
        ("foo", "--set 'foo' is not KEY.PATH=VALUE"),
        ("search.populatoin=3", "unknown key 'search.populatoin'; nearest: 'population'"),
        ("method.name=unifrom", "no method 'unifrom'; nearest: 'uniform'"),
        ("evaluation.metric=top2", "no metric 'top2'; nearest: 'top1'"),
        ("network.source=resnet21", "resnet20"),
        ("seed.x=1", "'seed' is a value, not a table"),
    ],
)
def test_overrides_that_say_nothing_valid_are_refused_with_the_way_out(
    moeash, tiny, override, message
):
    answer = moeash("run", tiny.spec, "--set", "seed=0", "--set", override)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.splitlines()[-1].startswith("moeash: ")


@pytest.mark.slow
def test_what_a_users_function_prints_stays_out_of_the_json(moeash, tiny, tmp_path):
    (tmp_path / "chatty.py").write_text(
        "def make():\n    print('hello from the factory')\n"
        "    from moeash.networks.loading.sources import load_network\n"
        "    return load_network('digits-cnn')\n"
    )
    changes = ("network.source=chatty:make", "name=chatty", "method.k=[8, 9]", "merge.trials=0")
    sets = [argument for change in changes for argument in ("--set", change)]
    answer = moeash("run", tiny.spec, "--json", *sets)
    assert answer.json["study"] == "chatty"
    assert "hello from the factory" in answer.err
