"""Signals that end a process, and where they must not get lost."""

import signal

import pytest

from tests.forks import Fork

DROPPED = """
import os, sys, time
from moeash.console.ending import obeying

class Dropping:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.01)  # its handler has run, and what it raised goes nowhere
        print("never printed")

with obeying():
    try:
        Dropping()
        time.sleep(60)
    except KeyboardInterrupt as error:
        print(f"ended by {error}")
"""

TWICE = """
import os, signal, time
from moeash.console.ending import obeying

with obeying():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt as error:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        print(f"stored after {error}")
"""

NOHUP = """
import os, signal
from moeash.console.ending import obeying

signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
with obeying():
    os.kill(os.getpid(), signal.SIGHUP)
print("went on")
"""

OWN = """
import time
from moeash.console.ending import obeying

class Dropping:
    def __del__(self):
        raise KeyboardInterrupt("of mine")

with obeying():
    try:
        Dropping()
        time.sleep(60)
    except KeyboardInterrupt as error:
        print(f"ended by {error}")
"""

OTHERS = """
from moeash.console.ending import obeying

class Faulty:
    def __del__(self):
        raise ValueError("of a finaliser")

with obeying():
    Faulty()
"""


def said(code, *arguments):
    out, err = Fork(code, *arguments).communicate()
    return out + err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP"), (signal.SIGINT, "")],
)
def test_a_signal_that_a_finaliser_drops_is_sent_again(number, name):
    assert said(DROPPED, int(number)) == f"ended by {name}\n"


@pytest.mark.slow
def test_a_second_sigterm_does_not_disturb_what_is_stored():
    assert said(TWICE) == "stored after SIGTERM\n"


@pytest.mark.slow
def test_what_was_told_to_outlive_its_terminal_does():
    assert said(NOHUP) == "went on\n"


@pytest.mark.slow
def test_an_interrupt_with_a_text_of_its_own_counts_as_ctrl_c():
    assert said(OWN) == "ended by \n"


def test_other_faults_of_finalisers_are_reported_as_ever():
    assert "ValueError: of a finaliser" in said(OTHERS)
