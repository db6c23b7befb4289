"""Ctrl-C, and how schedulers end a process: one clear line, and nothing lost."""

import signal

import pytest

from tests.forks import MOEASH, Fork


@pytest.mark.slow(seconds=12)
@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")],
)
def test_a_signal_keeps_what_was_evaluated_and_the_next_run_continues(
    moeash, bare, tmp_path, number, said
):
    flags = ["--set", "method.k=[6,40]", "--set", "merge.trials=0", "--set", "name=long"]
    with Fork(MOEASH, "run", bare, *flags, cwd=tmp_path) as process:
        assert any(line.startswith("generation 2") for line in process.stderr)
        process.send_signal(number)
        _, rest = process.communicate()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == (
        "moeash: interrupted; everything evaluated is stored, run the same command to continue"
    )
    stopped = moeash("status", "long", "--json").json
    assert (stopped["status"], stopped["reason"]) == ("interrupted", f"stopped by {said}")
    assert 8 <= stopped["evaluations"] < 35
    answer = moeash("run", bare, *flags)
    assert answer.code == 0
    assert f"continuing after {stopped['evaluations']} stored evaluations" in answer.err
    assert moeash("status", "long", "--json").json["evaluations"] == 35
