import io
import re
import sys
import time

import pytest

import moeash
from moeash.api.studies import run_with_output
from moeash.console.progress import LiveProgress, PlainProgress, for_terminal
from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.outcome import Job, Outcome
from moeash.study.course.options import BudgetOptions
from moeash.study.events import (
    PHASES,
    Doing,
    Evaluated,
    Opened,
    PhaseEnded,
    PhaseStarted,
    SolutionMerging,
)
from moeash.study.opening import open_study
from moeash.study.spec.reading import load_spec
from moeash.study.storage.records import EvaluationRecord, now
from tests.marks import slow


class Terminal(io.StringIO):
    def isatty(self):
        return True


def at_a_terminal(monkeypatch, columns=80):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    return terminal


def text_of(terminal):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def shown(tiny, tmp_path, display, run=moeash.run):
    spec = load_spec(tiny.spec, [f'output.folder="{tmp_path / "out"}"'])
    try:
        run(spec, storage=str(tmp_path / "moeash.db"), progress=display)
    finally:
        display.close()


# ------------------------------------------------------------------ a terminal


@pytest.mark.parametrize("columns", [40, slow(200)])
def test_a_terminal_sees_a_bar_that_keeps_to_its_width(monkeypatch, tiny, tmp_path, columns):
    terminal = at_a_terminal(monkeypatch, columns)
    display = for_terminal(tolerable_drop=0.1)
    assert isinstance(display, LiveProgress)
    shown(tiny, tmp_path, display)
    text = text_of(terminal)
    assert "loading" in text and "best " in text
    assert "search ended" in text.replace("\n", " ")
    assert max(map(len, re.split(r"[\r\n]", text))) <= columns
    assert not re.search(r"\x1b\[3\dm", terminal.getvalue()), "NO_COLOR was set"


def test_a_slow_evaluation_says_what_it_is_at_without_taking_the_bar_away(monkeypatch, tiny):
    terminal = at_a_terminal(monkeypatch)
    facts = open_study("tiny", tiny.storage).facts

    def during(slow_s):
        monkeypatch.setattr(LiveProgress, "SLOW_S", slow_s)
        before = len(text_of(terminal))
        display = LiveProgress()
        for event in (
            Opened(facts, 0, BudgetOptions()),
            PhaseStarted("refine", 6),
            Doing("assigning", 3, 20),
        ):
            display(event)
        time.sleep(0.3)  # drawn eight times a second
        display.close()
        return text_of(terminal)[before:]

    slow, fast = during(-1.0), during(60.0)
    for text in (slow, fast):
        assert "refining 6 solutions of the front" in text and "0/6" in text
    assert "assigning: 3 of 20" in slow and "assigning" not in fast


# ------------------------------------------------------------------ a log


class Log:
    """A plain log whose clock the test moves."""

    def __init__(self, facts=None):
        self.now = 0.0
        self._stream = io.StringIO()
        self._display = PlainProgress(self._stream, clock=lambda: self.now)
        self._n = 0
        if facts is not None:
            self.said(Opened(facts, 0, BudgetOptions()))

    def said(self, *events, after=0.0):
        """Return the lines that events bring, each so many seconds after the one before."""
        before = len(self._stream.getvalue())
        for event in events:
            self.now += after
            self._display(event)
        return self._stream.getvalue()[before:].splitlines()


@pytest.fixture
def log(tiny):
    return Log(open_study("tiny", tiny.storage).facts)


def evaluated(number, *, stage="search", stored_before=False):
    outcome = Outcome("complete", 0.9, 0.9, Sizes(9000 - number, 8, 3.0), "f", 5, 1.0)
    job = Job(Recipe.of({"k": number}))
    return Evaluated(EvaluationRecord(number, stage, 1, None, job, outcome, now()), stored_before)


@pytest.mark.slow
def test_elsewhere_every_step_and_generation_is_one_plain_line(tiny, tmp_path):
    stream = io.StringIO()
    shown(tiny, tmp_path, PlainProgress(stream), run_with_output)
    lines = stream.getvalue().splitlines()
    steps = [
        "loading the network",
        "loading images",
        "measuring the float network",
        "looking at whether the network follows its weights",
        "deciding how kept tensors are stored",
        r"study tiny: 54,864 weights shared, 300 kept, .*",
        *(rf"generation {n}: {min(4 * n, 11)} evaluated, .*" for n in (1, 2, 3)),
        "search ended: .*",
        r"merging \d+ solutions of the front",
        *[r"merged solution \d+ .*"] * sum(line.startswith("merged") for line in lines),
        "drawing",
        r"building solution \d+",
        r"writing and verifying tiny\.moeash",
        "measuring the decoded network on the holdout split",
        "measuring the float network on the holdout split",
    ]
    notable = [line for line in lines if not line.startswith("note: ")]
    assert len(notable) == len(steps)
    for line, step in zip(notable, steps, strict=True):
        assert re.fullmatch(step, line), f"{line!r} where {step!r} was expected"
    assert "\x1b" not in stream.getvalue()


def test_preparing_says_at_once_what_it_does_and_then_how_far_it_is():
    log = Log()
    layers = [Doing("measuring curvature", n, 40) for n in range(1, 41)]
    assert log.said(layers[0]) == ["measuring curvature: 1 of 40"]
    said = log.said(*layers[1:], after=4.0)
    assert said[:2] == ["measuring curvature: 4 of 40", "measuring curvature: 7 of 40"]
    assert log.said(Doing("keeping", 0, None)) == ["keeping"]


@pytest.mark.parametrize("phase", PHASES)
def test_steps_of_one_evaluation_of_many_are_told_only_after_silence(log, phase):
    log.said(PhaseStarted(phase, 8), SolutionMerging(1, "k=9", 2, 5))
    steps = [Doing(what, n, 5) for n in range(5) for what in ("assigning", "measuring")]
    assert log.said(*steps, after=0.1) == []
    (line,) = log.said(Doing("assigning", 3, 5), after=11.0)
    place = {
        "search": "0 evaluations, 0.00/s",
        "refine": "0 of 8 refined, 0.0 a minute",
        "merge": "solution 2 of 5, 0 evaluations, 0.00/s",
        "distill": "0 of 8 distilled, 0.0 a minute",
        "tune": "0 of 8 tuned, 0.0 a minute",
    }[phase]
    assert line.startswith(f"  {place}; assigning: 3 of 5")


def test_no_step_leaves_the_log_silent_for_long(log):
    log.said(PhaseStarted("search"))
    spoken = []
    for step in range(600):
        if log.said(Doing("measuring", step, 600), after=1.0):
            spoken.append(log.now)
    assert max(b - a for a, b in zip([0.0, *spoken], spoken, strict=False)) <= 11
    assert len(spoken) <= 60


def test_every_solution_that_is_refined_is_counted_and_stored_ones_are_not(log):
    assert log.said(PhaseStarted("refine", 3, n_stored=1)) == [
        "refining 3 solutions of the front, 1 of them stored already"
    ]
    events = [evaluated(n, stage="refined", stored_before=n == 1) for n in (1, 2, 3)]
    assert [line.split(",")[0] for line in log.said(*events, after=2.0)] == [
        "  2 of 3 refined",
        "  3 of 3 refined",
    ]
    (line,) = log.said(PhaseStarted("refine", 2, n_stored=2))
    assert line == "refining 2 solutions of the front, all of them stored already"


def test_rates_are_of_their_own_phase(log):
    log.said(PhaseStarted("search"), *map(evaluated, range(100)))
    log.said(PhaseEnded("search", "evaluations"), PhaseStarted("merge", 2))
    (line,) = log.said(evaluated(200, stage="merged"), after=20.0)
    assert line.startswith("  1 evaluation, 0.05/s, ")


def test_after_the_last_phase_steps_are_told_at_once(log):
    log.said(PhaseStarted("search"), Doing("drawing"), PhaseEnded("search", "generations"))
    assert log.said(Doing("drawing"), Doing("writing")) == ["drawing", "writing"]
