import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from moeash.launch.identity import Identity


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def test_a_process_is_known_again_from_what_is_stored_of_it(child):
    identity = Identity.of(child.pid)
    assert identity == Identity.read({"process": identity.as_dict()})
    assert identity.is_here and identity.is_alive
    assert identity != Identity.mine() and Identity.mine().is_alive


def test_a_process_that_has_ended_is_gone_before_anybody_waits_for_it(child):
    identity = Identity.of(child.pid)
    assert not identity.wait(0)
    child.kill()
    assert identity.wait(60)
    assert not identity.is_alive and not identity.terminate()
    assert child.returncode is None  # still to be waited for
    child.wait()
    assert not identity.is_alive and not identity.terminate()


@pytest.mark.parametrize(
    "changes", [{"started": 1}, {"boot": "another"}, {"host": "another"}], ids=str
)
def test_another_process_of_the_same_number_is_never_signalled(child, changes):
    other = replace(Identity.of(child.pid), **changes)
    assert not other.is_alive
    assert not other.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)


def test_a_process_is_asked_to_end_not_killed(child):
    assert Identity.of(child.pid).terminate()
    assert child.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize(
    "place",
    [
        None,
        {},
        {"process": 3},
        {"process": {"host": "a", "boot": "b", "pid": "1", "started": 1}},
        {"process": {"host": "a", "boot": "b", "pid": 0, "started": 1}},
        {"process": {"host": "a", "boot": None, "pid": 1, "started": 1}},
    ],
)
def test_a_place_that_names_no_process_has_none(place):
    assert Identity.read(place) is None
