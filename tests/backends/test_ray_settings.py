"""What surrounds Ray's start, with a stand-in for what Ray does meanwhile."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from moeash.backends import ray_settings


@pytest.fixture
def heard():
    """The signals this process has answered itself."""
    answered = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: answered.append(number))
    yield answered
    signal.signal(signal.SIGTERM, before)


def start_of_ray(during=lambda: None):
    """Ray answers SIGTERM by leaving, from its start on."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    during()


def test_this_process_answers_a_sigterm_itself_once_ray_has_started(heard):
    with ray_settings.own_sigterm():
        start_of_ray()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_a_sigterm_while_ray_starts_is_answered_by_this_process(heard):
    with pytest.raises(SystemExit), ray_settings.own_sigterm():
        start_of_ray(during=lambda: signal.raise_signal(signal.SIGTERM))
    assert heard == [signal.SIGTERM]


def test_a_start_that_fails_gives_the_signal_back(heard):
    def fail():
        raise ConnectionError("no head")

    with pytest.raises(ConnectionError), ray_settings.own_sigterm():
        start_of_ray(during=fail)
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_other_threads_may_start_ray():
    done = []

    def start():
        with ray_settings.own_sigterm():
            done.append(True)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert done == [True]


DIE = """
    import os, signal
    from moeash.backends.ray_settings import OwnHome
    home = OwnHome()
    print(home.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def killed(folder):
    """The home folder that a killed process has left."""
    command = [sys.executable, "-c", textwrap.dedent(DIE)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(folder)}
    )
    return Path(done.stdout.strip())


def aged(path):
    os.utime(path, (0, 0))
    return path


def test_the_home_folder_of_a_killed_process_is_removed_at_the_next_start(temporary):
    left = aged(killed(temporary))
    assert left.is_dir() and left.parent == temporary
    home = ray_settings.OwnHome()
    assert list(temporary.iterdir()) == [Path(home.folder)]
    home.close()
    assert list(temporary.iterdir()) == []


def test_the_home_folder_of_a_living_process_stays_and_so_does_what_is_not_ours(temporary):
    alive = ray_settings.OwnHome()
    aged(alive.folder)
    (fresh := temporary / "moeash-ray-new").mkdir()
    (other := temporary / "moeash-pg-x").mkdir()
    aged(other)
    (link := temporary / "moeash-ray-link").symlink_to(other)
    second = ray_settings.OwnHome()
    for path in (alive.folder, fresh, other, link):
        assert Path(path).exists(), path
    alive.close()
    second.close()
