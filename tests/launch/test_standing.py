from types import SimpleNamespace

import pytest

from moeash.launch.standing import standing
from moeash.study.storage.team.launch import LaunchRecord
from moeash.study.storage.team.launches import STOPPED

EARLY, LATE, LATEST = "2026-01-01T00", "2026-01-02T00", "2026-01-03T00"


def launch(state, code=None, message=None, ended=LATEST):
    place = None if state == "queued" else {"host": "here"}
    ended = ended if state == "ended" else None
    return LaunchRecord(
        1, "run", "a", state, {}, "ann", EARLY, None, place, None, None, ended, code, message
    )


def stored(status, reason=None):
    return SimpleNamespace(
        status=status, record=SimpleNamespace(reason=reason, updated_at=LATE)
    )  # a summary takes a database to make; the two fields that matter


@pytest.mark.parametrize(
    ("summary", "newest", "expected"),
    [
        (None, launch("queued"), ("queued", "it waits for its turn")),
        (stored("interrupted"), launch("queued"), ("queued", "it waits for its turn")),
        (None, launch("running"), ("running", "")),
        (stored("crashed"), launch("running"), ("running", "")),
        (stored("running"), None, ("running", "")),
        (stored("running"), launch("ended", 1, "another runs it"), ("running", "")),
        (None, launch("ended", 2, "moeash: no file"), ("failed", "no file")),
        (None, launch("ended", None, "gone"), ("crashed", "gone")),
        (None, launch("ended", 137, "killed"), ("crashed", "killed")),
        (None, launch("ended", None, STOPPED), ("interrupted", STOPPED)),
        (None, launch("ended", 130, "interrupted"), ("interrupted", "interrupted")),
        (None, launch("ended", 130, "interrupted; run it again"), ("interrupted", "run it again")),
        (stored("finished"), launch("ended", 0), ("finished", "")),
        (stored("finished"), launch("ended", 3, "no pick"), ("finished", "no pick")),
        (stored("crashed"), launch("ended", None, "gone"), ("crashed", "gone")),
        (stored("interrupted", "Ctrl-C"), launch("ended", 130, "x"), ("interrupted", "Ctrl-C")),
        (stored("interrupted", "Ctrl-C"), launch("ended", 1, "no file"), ("failed", "no file")),
        (stored("interrupted", "Ctrl-C"), launch("ended", 137, "killed"), ("crashed", "killed")),
        (stored("interrupted", "Ctrl-C"), launch("ended", None, "gone"), ("crashed", "gone")),
        (stored("failed", "why"), launch("ended", 1, "old", EARLY), ("failed", "why")),
    ],
)
def test_a_study_stands_where_launch_and_storage_together_say(summary, newest, expected):
    assert standing(summary, newest) == expected
