"""What a phase of a study is to the pump: it proposes, it is told, it says what may be stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.study.course.budget import Ending
from moeash.study.storage.records import EvaluationRecord, Stage


@dataclass(frozen=True)
class Proposal:
    """An evaluation a phase wants.

    Attributes:
        job: what is built and measured.
        archive: what it has to beat.
        stage: of the evaluation.
        generation: of the search; otherwise that of the evaluation it began with.
        parent: number of the evaluation it began with.
        in_turn: it gets its number now. Otherwise it runs ahead of a decision that may make it
            pointless, and gets a number when its turn comes.
    """

    job: Job
    archive: Archive
    stage: Stage
    generation: int
    parent: int | None = None
    in_turn: bool = True


Answer = tuple[Proposal, Outcome]


class Phase(Protocol):
    """A part of a study's course. Decisions keep their serial order whatever the workers do."""

    name: str
    """``search``, ``refine`` or ``merge``."""

    ending: Ending | None
    """Why it ended; None while it goes on."""

    def ask(self, n_free: int) -> Sequence[Proposal]:
        """Return what to evaluate next; nothing when what is out has to come back first.

        The phase is over when it asks for nothing and nothing of it is out.

        Args:
            n_free: workers without work. More may be asked for, and then waits in the queue.
        """
        ...

    def tell(self, proposal: Proposal, outcome: Outcome) -> Sequence[Answer]:
        """Take an outcome; return the answers that may now be stored, in their serial order.

        Among them may be earlier ones that had to wait for this. One that has to wait itself is
        kept safe by the pump.
        """
        ...

    def stored(self, records: Sequence[EvaluationRecord]) -> None:
        """Learn that answers are stored, in the order in which :meth:`tell` returned them."""
        ...

    def wants(self, proposal: Proposal) -> bool:
        """Tell whether the outcome of a proposal is still of use."""
        ...
