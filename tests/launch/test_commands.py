import json
import sys
from pathlib import Path

import pytest

from moeash.errors import InputError
from moeash.launch.base import Export, Launch
from moeash.launch.commands import command_of, stop_command
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.launches import Launches


@pytest.fixture
def stored(tmp_path):
    """Returns what comes back of a request that was stored."""
    launches = Launches(SqlStorage(tmp_path / "a.db").database)

    def store(launch):
        kind = "run" if isinstance(launch, Launch) else "export"
        return launches.add(kind, launch.study, launch.request(), "ann")

    return store


def test_a_run_is_what_a_person_would_type(stored):
    launch = Launch("a", "x", ("seed=1", 'data.root="/d"'), "db", True, True)
    command = command_of(stored(launch), Path("/f"))
    assert command[:4] == [sys.executable, "-P", "-m", "moeash"]
    line = ["run", "/f/spec.toml", "--set", "seed=1", "--set", 'data.root="/d"']
    assert command[4:] == [*line, "--retry-failed", "--accept-baseline"]
    assert "db" not in json.dumps(launch.request())  # which may have a password


def test_a_run_on_a_cluster_follows_its_job(stored):
    command = command_of(stored(Launch("a", "x")), Path("/f"), "http://head:8265")
    line = ["launch", "/f/spec.toml", "--address", "http://head:8265", "--follow"]
    assert command[4:] == line
    assert stop_command("-a", "http://head:8265")[-2:] == ["--", "-a"]


def test_an_export_names_what_was_asked_for_and_nothing_else(stored):
    command = command_of(stored(Export("-a")), Path("/f"))
    files = ["--to", "/f/out/-a.moeash", "--report", "/f/out/report.json"]
    assert command[4:] == ["export", "--force", *files, "--format", "moeash", "--", "-a"]
    picked = Export("a", "knee", max_drop=0.5, max_bytes=9, allow_modules=("m",))
    command = command_of(stored(picked), Path("/f"))
    limits = ["--pick", "knee", "--max-drop", "0.5", "--max-bytes", "9"]
    assert command[10:] == [*limits, "--format", "moeash", "--allow-module", "m", "--", "a"]
    command = command_of(stored(Export("a", formats=("onnx", "c"))), Path("/f"))
    assert command[7] == "/f/out/a.onnx" and command[10:14] == ["--format", "onnx", "--format", "c"]
    assert "--id" in command_of(stored(Export("a", id=7)), Path("/f"))


@pytest.mark.parametrize(
    "options",
    [{"id": 3, "pick": "best"}, {"id": 3, "max_bytes": 9}, {"formats": ("exe",)}, {"formats": ()}],
    ids=str,
)
def test_an_export_that_contradicts_itself_is_refused(options):
    with pytest.raises(InputError):
        Export("a", **options)


def test_a_request_from_elsewhere_is_refused_in_words(stored, tmp_path):
    launches = Launches(SqlStorage(tmp_path / "a.db").database)
    for kind in ("run", "export"):
        record = launches.add(kind, "a", {"spec": 3, "rm": "-rf"}, "ann")
        with pytest.raises(InputError, match="was not stored by moeash"):
            command_of(record, Path("/f"))
