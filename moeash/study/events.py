"""What happens to a study, as values: one vocabulary for terminal, log, page and metrics.

An event is a frozen dataclass with a ``kind`` and a payload of plain JSON values. *Lasting* events
are stored in the order they happened, under increasing ids from which a stream can resume.
*Passing* ones say what is being done right now and how far it is; of them storage keeps the last.

:data:`Listen` receives every event in the process that runs the study. A listener that waits holds
up the study; one that raises ends it.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from moeash.core.solutions.recipe import entries_text
from moeash.options.tables import to_plain
from moeash.study.course.options import BudgetOptions
from moeash.study.facts import StudyFacts
from moeash.study.storage.records import EvaluationRecord, GenerationRecord, Stage


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: names the event in storage and in a stream.
        lasting: whether storage keeps it for good.
    """

    kind: ClassVar[str]
    lasting: ClassVar[bool] = True

    def payload(self) -> dict[str, Any]:
        """Return the event's values as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Doing(Event):
    """A step of work with a known or unknown end: loading, preparing, refining, exporting.

    Attributes:
        what: in words, e.g. ``measuring curvature``.
        done: units of it that are done.
        total: units of it in all; None where nobody knows.
        left_s: seconds it will take still, where that can be told.
    """

    kind = "doing"
    lasting = False

    what: str
    done: int = 0
    total: int | None = None
    left_s: float | None = None


@dataclass(frozen=True)
class Opened(Event):
    """Network and data are loaded, the float network is measured, the study is stored.

    Attributes:
        facts: what never changes.
        n_stored: evaluations that are known already.
        budget: of this run, which may be another than that of the run that created the study.
    """

    kind = "opened"

    facts: StudyFacts
    n_stored: int
    budget: BudgetOptions

    def payload(self) -> dict[str, Any]:
        """Return what differs from run to run; facts have a table of their own."""
        return {"n_stored": self.n_stored, "budget": to_plain(self.budget)}


PHASES: Mapping[str, str] = {
    "search": "searching",
    "refine": "refining",
    "merge": "merging",
    "distill": "distilling",
    "tune": "tuning",
}
"""Phases of a course, in its order, and what is done in each, for people."""

STAGES: Mapping[str, Stage] = {
    "search": "search",
    "refine": "refined",
    "merge": "merged",
    "distill": "distilled",
    "tune": "tuned",
}
"""The phases again, and the stage of what each evaluates."""


@dataclass(frozen=True)
class PhaseStarted(Event):
    """A phase begins.

    Attributes:
        phase: one of :data:`PHASES`.
        total: evaluations, or for ``merge`` solutions, it will take at most; None where nobody
            knows.
        n_stored: of them, those that are known already.
    """

    kind = "phase_started"

    phase: str
    total: int | None = None
    n_stored: int = 0


@dataclass(frozen=True)
class PhaseEnded(Event):
    """A phase has ended.

    Attributes:
        phase: as in :class:`PhaseStarted`.
        ending: why, one of the names in :data:`moeash.study.course.budget.ENDINGS`.
    """

    kind = "phase_ended"

    phase: str
    ending: str


@dataclass(frozen=True)
class GenerationStarted(Event):
    """A generation was proposed.

    Attributes:
        index: 1, 2, ...
        n_candidates: proposed.
        n_new: of them, those that are not known already.
    """

    kind = "generation_started"
    lasting = False

    index: int
    n_candidates: int
    n_new: int


@dataclass(frozen=True)
class Evaluated(Event):
    """An evaluation is stored.

    Attributes:
        record: the evaluation.
        stored_before: answered from storage; nothing new.
    """

    kind = "evaluated"

    record: EvaluationRecord
    stored_before: bool = False

    def payload(self) -> dict[str, Any]:
        """Return what a chart needs."""
        record, outcome = self.record, self.record.outcome
        return {
            "number": record.number,
            "stage": record.stage,
            "status": outcome.status,
            "metric": outcome.metric,
            "size_bytes": None if outcome.sizes is None else outcome.sizes.size_bytes,
            "worker": outcome.worker,
        }


@dataclass(frozen=True)
class GenerationEnded(Event):
    """A generation is complete.

    Attributes:
        generation: what it came to.
    """

    kind = "generation_ended"

    generation: GenerationRecord

    def payload(self) -> dict[str, Any]:
        """Return the generation's values."""
        return asdict(self.generation)


@dataclass(frozen=True)
class SolutionMerging(Event):
    """The merge phase turns to a solution.

    Attributes:
        number: of the solution.
        recipe: of the solution, in words.
        position: 1, 2, ... among the solutions to merge.
        total: solutions to merge.
    """

    kind = "solution_merging"
    lasting = False

    number: int
    recipe: str
    position: int
    total: int


@dataclass(frozen=True)
class SolutionMerged(Event):
    """The merge phase has finished with a solution.

    Attributes:
        number: of the solution.
        recipe: of the solution, in words.
        entries_before: entries its codebook had.
        entries: entries its codebook has now.
        trials: merges tried.
    """

    kind = "solution_merged"

    number: int
    recipe: str
    entries_before: int
    entries: int
    trials: int


def merged_text(values: Mapping[str, Any]) -> str:
    """Return the payload of :class:`SolutionMerged` for people, as one line."""
    trials = values["trials"]
    return (
        f"merged solution {values['number']} ({values['recipe']}): {values['entries_before']} -> "
        f"{entries_text(values['entries'])} in {trials} trial{'s'[: trials != 1]}"
    )


@dataclass(frozen=True)
class WorkersChanged(Event):
    """Workers came or went.

    Attributes:
        workers: that live now.
    """

    kind = "workers"

    workers: int


@dataclass(frozen=True)
class Note(Event):
    """Something a person should know.

    Attributes:
        text: one line.
    """

    kind = "note"

    text: str


@dataclass(frozen=True)
class HoldoutOpened(Event):
    """A finished solution was measured on the holdout split, to be reported.

    Attributes:
        number: of the solution.
        fingerprint: of the images.
    """

    kind = "holdout_opened"

    number: int
    fingerprint: str


@dataclass(frozen=True)
class Ended(Event):
    """The process that ran the study has ended.

    Attributes:
        status: ``finished``, ``interrupted`` or ``failed``.
        reason: one line: the error, or the signal; empty when finished.
    """

    kind = "ended"

    status: str
    reason: str = ""


Listen = Callable[[Event], None]
"""Receives every event of a study, in order."""

LASTING: Mapping[str, type[Event]] = {
    event.kind: event
    for event in (
        Opened,
        PhaseStarted,
        PhaseEnded,
        Evaluated,
        GenerationEnded,
        SolutionMerged,
        WorkersChanged,
        Note,
        Ended,
    )
}
"""The kinds that storage keeps, by name."""


def ignore(event: Event) -> None:
    """Listen to nothing."""
