"""The lines a study is reported with: one vocabulary for the live bar and the plain log."""

from moeash.console.durations import duration_text
from moeash.study.course.budget import ENDINGS
from moeash.study.events import (
    PHASES,
    Doing,
    GenerationEnded,
    PhaseEnded,
    PhaseStarted,
)
from moeash.study.facts import StudyFacts
from moeash.study.solution import Solution
from moeash.study.storage.records import EvaluationRecord

TOLERABLE_DROP = 0.01
"""The drop up to which the progress line looks for the best solution unless a spec says."""


WORTH_SAYING_S = 5.0
"""Time left that is worth a word."""


class Best:
    """The smallest solution so far within a tolerable drop, for the progress line."""

    def __init__(self, tolerable_drop: float = TOLERABLE_DROP) -> None:
        self._tolerable_drop = tolerable_drop
        self._facts: StudyFacts | None = None
        self._size_bytes: int | None = None
        self._drop = 0.0

    def start(self, facts: StudyFacts) -> None:
        """Begin a study."""
        self._facts, self._size_bytes = facts, None

    def add(self, record: EvaluationRecord) -> None:
        """Take an evaluation into account."""
        outcome = record.outcome
        if self._facts is None or outcome.metric is None or outcome.sizes is None:
            return
        solution = Solution(self._facts, record)
        if not solution.is_within(self._tolerable_drop):
            return
        if self._size_bytes is None or solution.size_bytes < self._size_bytes:
            self._size_bytes, self._drop = solution.size_bytes, solution.drop

    def __str__(self) -> str:
        unit = "" if self._facts is None else self._facts.unit
        if self._facts is None or self._size_bytes is None:
            return f"nothing within a drop of {self._tolerable_drop:g}{unit} yet"
        ratio = self._facts.original_bytes / self._size_bytes
        return f"best {self._size_bytes:,} B (ratio {ratio:.1f}) at drop {self._drop:+.4f}{unit}"


def headline(facts: StudyFacts, n_stored: int) -> str:
    """Return the first line of a study: what is shared, what is measured."""
    text = (
        f"study {facts.name}: {facts.n_shared:,} weights shared, {facts.n_kept:,} kept, "
        f"{facts.original_bytes:,} B as float32; "
        f"float network {facts.metric_name} {facts.baseline_text} on the search split"
    )
    return text + (f"; continuing after {n_stored:,} stored evaluations" if n_stored else "")


def started(event: PhaseStarted) -> str | None:
    """Return what is said when a phase begins; nothing of the search, whose generations speak."""
    if event.phase == "search":
        return None
    n = event.total or 0
    text = f"{PHASES[event.phase]} {n} solution{'s'[: n != 1]} of the front"
    if event.phase == "distill":  # each at every rate
        text = f"distilling: {n} training{'s'[: n != 1]} of solutions of the front"
    if not event.n_stored:
        return text
    return f"{text}, {'all' if event.n_stored == n else event.n_stored} of them stored already"


def ended(event: PhaseEnded) -> str | None:
    """Return why a phase ended, where that is worth a line."""
    if event.phase != "search" and event.ending == "complete":
        return None
    name = "search" if event.phase == "search" else PHASES[event.phase]
    return f"{name} ended: {ENDINGS[event.ending]}"


def generation(event: GenerationEnded, best: Best) -> str:
    """Return what a generation has come to."""
    g = event.generation
    return (
        f"generation {g.index}: {g.n_evaluations} evaluated, front {g.n_front}, "
        f"hypervolume {g.hypervolume:.6f}, {best}"
    )


def doing(event: Doing) -> str:
    """Return what is being done, and how far it is."""
    if event.total is None:
        return event.what
    text = f"{event.what}: {event.done} of {event.total}"
    if event.left_s is None or event.left_s < WORTH_SAYING_S:
        return text
    return f"{text}, about {duration_text(event.left_s)} left"


def failure(record: EvaluationRecord) -> str:
    """Return that an evaluation failed, and why."""
    return f"evaluation {record.number} ({record.recipe}) failed: {record.outcome.error}"
