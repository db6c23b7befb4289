"""Merge neighbouring entries of a front's solutions: in parallel, as if one after the other.

The serial pass takes one solution after the other and one trial after the other; what a trial
decides is known before the next begins. With more than one slot

* the next trials of *different* solutions run at the same time: none depends on another, and
* further trials of *one* solution run ahead of their turn, as they will be if those before them are
  rejected, which most are.

Decisions are taken, and evaluations numbered and stored, in the serial order alone. An outcome that
is ahead of its turn is held, and forgotten if its turn never comes. With one slot nothing is ever
ahead, and this *is* the serial pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from moeash.backends.base import Backend
from moeash.core.merge import MergeCost, MergePass, Runs
from moeash.core.recipe import Merge, Recipe
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.study.ledger import Ledger
from moeash.study.progress import Progress
from moeash.study.storage.records import EvaluationRecord


@dataclass
class _Chain:
    """The pass over one solution.

    Attributes:
        parent: the solution.
        floor: the metric a trial must reach to be kept.
        merging: what was accepted and what comes next; None where nothing can be merged.
        n_entries: of the solution.
        n_trials: decided.
        unrecorded: decided trials that wait for their turn to be stored, in order.
    """

    parent: EvaluationRecord
    floor: float
    merging: MergePass | None
    n_entries: int
    n_trials: int = 0
    unrecorded: list[Job] = field(default_factory=list)

    def job(self, runs: Runs) -> Job:
        return Job(self.parent.job.recipe.then(Merge(runs)), self.floor)

    def proposals(self, n: int, max_trials: int | None) -> list[Runs]:
        if max_trials is not None:
            n = min(n, max_trials - self.n_trials)
        return self.merging.proposals(n) if self.merging is not None else []


class FrontMerging:
    """One merge pass over a front."""

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        progress: Progress,
        *,
        archive: Archive,
        cost: MergeCost,
        max_trials: int | None,
    ) -> None:
        """Prepare a pass.

        Args:
            backend: evaluates trials; nothing else may be submitted to it meanwhile.
            ledger: numbers and stores them.
            progress: hears of them in the serial order.
            archive: what trials have to beat: nothing, or their floor would mean less.
            cost: the order of trials.
            max_trials: of one solution.
        """
        self._backend = backend
        self._ledger = ledger
        self._progress = progress
        self._archive = archive
        self._cost = cost
        self._max_trials = max_trials
        self._tickets: dict[int, Job] = {}
        self._ahead: dict[str, Outcome] = {}

    def run(self, solutions: Sequence[tuple[EvaluationRecord, float]]) -> None:
        """Merge each solution down while its metric stays at its floor or above."""
        chains = [self._begin(parent, floor) for parent, floor in solutions]
        position = 0
        if chains:
            self._progress.merge_started(chains[0].parent, position=1, total=len(chains))
        while position < len(chains):
            for chain in chains[position:]:
                self._decide(chain)
            chain = chains[position]
            self._record(chain)
            if not chain.proposals(1, self._max_trials):
                self._end(chain)
                position += 1
                if position < len(chains):
                    self._progress.merge_started(
                        chains[position].parent, position=position + 1, total=len(chains)
                    )
                continue
            self._fill(chains[position:])
            self._receive(chain)
        self._cancel(list(self._tickets))
        self._ledger.drop_held()

    def _begin(self, parent: EvaluationRecord, floor: float) -> _Chain:
        shared = self._backend.build(parent.recipe)
        if len(shared.codebooks) != 1:
            self._progress.note(
                f"evaluation {parent.number} has {len(shared.codebooks)} codebooks; "
                "only one global codebook can be merged"
            )
            return _Chain(parent, floor, None, shared.n_entries)
        counts = np.sum([t.counts for t in shared.shared], axis=0)
        merging = MergePass(shared.codebooks[0].entries, counts, cost=self._cost)
        return _Chain(parent, floor, merging, shared.n_entries)

    def _end(self, chain: _Chain) -> None:
        entries = chain.n_entries if chain.merging is None else len(chain.merging.runs)
        self._progress.merge_ended(chain.parent, entries=entries, trials=chain.n_trials)

    # ------------------------------------------------------------------ the serial order

    def _decide(self, chain: _Chain) -> None:
        """Accept or reject a solution's trials, in their order, as far as outcomes are known."""
        while proposals := chain.proposals(1, self._max_trials):
            assert chain.merging is not None
            job = chain.job(proposals[0])
            outcome = self._outcome(job)
            if outcome is None:
                return
            chain.n_trials += 1
            chain.unrecorded.append(job)
            if outcome.metric is not None and outcome.metric >= chain.floor:
                chain.merging.accept(proposals[0])
                # What ran ahead did so on the network before this merge.
                running = self._tickets.items()
                self._cancel([t for t, j in running if chain.parent.job.recipe == _parent(j)])
            else:
                chain.merging.reject(proposals[0])

    def _record(self, chain: _Chain) -> None:
        """Number and store the decided trials of the solution whose turn it is."""
        for job in chain.unrecorded:
            outcome = self._outcome(job)
            assert outcome is not None
            if self._ledger.propose(job) is None:
                self._ledger.record(
                    job,
                    outcome,
                    stage="merged",
                    generation=chain.parent.generation,
                    parent=chain.parent.number,
                )
            self._ahead.pop(job.key, None)
        chain.unrecorded.clear()

    def _outcome(self, job: Job) -> Outcome | None:
        outcome = self._ahead.get(job.key)
        return self._ledger.outcome(job.key) if outcome is None else outcome

    # ------------------------------------------------------------------ running ahead

    def _fill(self, chains: Sequence[_Chain]) -> None:
        """Submit until every slot is busy: the certain trials of all solutions first."""
        running = {job.key for job in self._tickets.values()}
        free = self._backend.n_slots - len(running)
        for depth in range(self._backend.n_slots):
            for chain in chains:
                if free <= 0:
                    return
                proposals = chain.proposals(depth + 1, self._max_trials)
                if len(proposals) <= depth:
                    continue
                job = chain.job(proposals[depth])
                if job.key not in running and self._outcome(job) is None:
                    self._tickets[self._backend.submit(job, self._archive)] = job
                    running.add(job.key)
                    free -= 1

    def _receive(self, current: _Chain) -> None:
        """Wait for one outcome, and keep it safe when its turn is not now."""
        ticket, outcome = self._backend.next()
        job = self._tickets.pop(ticket)
        next_runs = current.proposals(1, self._max_trials)
        if job == current.job(next_runs[0]):
            self._ahead[job.key] = outcome  # stored before anything else happens
        else:
            self._ledger.hold(job, outcome)

    def _cancel(self, tickets: Sequence[int]) -> None:
        for ticket in tickets:
            self._backend.cancel(ticket)
            del self._tickets[ticket]


def _parent(job: Job) -> Recipe:
    """Return what a trial merges."""
    return Recipe(job.recipe.candidate, job.recipe.steps[:-1])
