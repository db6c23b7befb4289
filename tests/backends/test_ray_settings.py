"""What surrounds Ray's start, with a stand-in for what Ray does meanwhile."""

import signal
import sys
import threading

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
