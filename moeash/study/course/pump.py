"""The one loop that runs a study: it asks a phase, has jobs evaluated, stores, and tells.

The pump alone knows the backend's queue, the ledger, commits and worker counts; a phase knows none
of them. What storage knows already is answered from there, which is all that resuming takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from moeash.backends.base import Backend
from moeash.core.solutions.recipe import Recipe, Start
from moeash.study.course.journal import Journal
from moeash.study.course.ledger import Ledger
from moeash.study.course.phase import Answer, Phase, Proposal
from moeash.study.events import WorkersChanged

StartOf = Callable[[Recipe], Start | None]
"""Returns the artifact a recipe begins with; None where there is none."""


def no_start(recipe: Recipe) -> None:
    """Return that a recipe begins with its candidate."""


class Pump:
    """Runs phases to their end, one after the other."""

    def __init__(
        self, backend: Backend, ledger: Ledger, journal: Journal, *, start: StartOf = no_start
    ) -> None:
        """Begin with nothing out.

        Args:
            backend: where jobs are evaluated.
            ledger: numbers and stores them.
            journal: hears of workers.
            start: returns the artifact a recipe begins with.
        """
        self._backend = backend
        self._start = start
        self._ledger = ledger
        self._journal = journal
        self._running: dict[int, Proposal] = {}
        self._workers: int | None = None

    def run(self, phase: Phase) -> None:
        """Run a phase until it asks for nothing and nothing of it is out."""
        self.count_workers()
        try:
            while True:
                n_slots = max(1, self._backend.n_slots)
                asked = phase.ask(n_slots - len(self._running))
                known = self._submit(asked)
                if known:
                    self._take(phase, known)
                elif self._running:
                    if self._backend.wait(n_slots):
                        self._receive(phase)
                    self.count_workers()
                elif not asked:
                    break
        finally:
            self._cancel(list(self._running))
        self._ledger.drop_held()

    def _submit(self, asked: Sequence[Proposal]) -> list[Answer]:
        """Have proposals evaluated; return those that storage can answer."""
        known: list[Answer] = []
        for proposal in asked:
            if proposal.in_turn:
                self._ledger.propose(proposal.job)
            outcome = self._ledger.outcome(proposal.job.key)
            if outcome is None:
                job = replace(proposal.job, start=self._start(proposal.job.recipe))
                ticket = self._backend.submit(job, proposal.archive)
                self._running[ticket] = proposal
            else:
                known.append((proposal, outcome))
        return known

    def _receive(self, phase: Phase) -> None:
        """Wait for an outcome; whatever else is there by now shares its commit."""
        answers: list[Answer] = []
        while not answers or (self._backend.n_ready and self._running):
            ticket, outcome = self._backend.next()
            answers.append((self._running.pop(ticket), outcome))
        waiting = self._take(phase, answers)
        for proposal, outcome in waiting:
            self._ledger.hold(proposal.job, outcome)

    def _take(self, phase: Phase, answers: Sequence[Answer]) -> list[Answer]:
        """Tell a phase and store what may be stored; return the answers that have to wait."""
        due: list[Answer] = []
        for proposal, outcome in answers:
            due += phase.tell(proposal, outcome)
        phase.stored(self._ledger.store(due))
        self._cancel([t for t, p in self._running.items() if not phase.wants(p)])
        stored = {proposal.job.key for proposal, _ in due}
        return [(p, o) for p, o in answers if p.job.key not in stored and phase.wants(p)]

    def _cancel(self, tickets: Sequence[int]) -> None:
        for ticket in tickets:
            self._backend.cancel(ticket)
            del self._running[ticket]

    def count_workers(self) -> None:
        """Report the number of workers when it has changed."""
        workers = self._backend.workers
        if workers != self._workers:
            self._workers = workers
            self._journal.say(WorkersChanged(workers))
