"""Merge neighbouring entries of a front's solutions: in parallel, as if one after the other.

The serial pass takes one solution after the other and one trial after the other; what a trial
decides is known before the next begins. With more than one worker

* the next trials of *different* solutions run at the same time: none depends on another, and
* further trials of *one* solution run ahead of their turn, as they will be if those before them are
  rejected, which most are.

Decisions are taken, and evaluations numbered and stored, in the serial order alone. An outcome that
is ahead of its turn is held, and forgotten if its turn never comes. With one worker nothing is ever
ahead, and this *is* the serial pass.

The phase ends early when it no longer pays: after :data:`PATIENCE` solutions in a row none of whose
objectives shrank by :data:`WORTH`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from moeash.core.codebook import SharedWeights
from moeash.core.merge import MergePass, Runs
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.study.course.budget import Budget, Ending
from moeash.study.course.journal import Journal
from moeash.study.course.phase import Answer, Proposal
from moeash.study.events import SolutionMerged, SolutionMerging
from moeash.study.storage.records import EvaluationRecord

PATIENCE = 5
"""Solutions in a row that may gain nothing worth having before the phase ends."""

WORTH = 0.001
"""The least relative gain, in the best of the study's sizes, that is worth having."""


@dataclass
class _Chain:
    """The pass over one solution.

    Attributes:
        parent: the solution.
        floor: the metric a trial must reach to be kept.
        merging: what was accepted and what comes next; None before it has begun.
        n_entries: of the solution.
        n_trials: decided.
        unstored: decided trials that wait for their turn to be stored, in order.
        kept: outcome of the last trial that was kept.
    """

    parent: EvaluationRecord
    floor: float
    merging: MergePass | None = None
    n_entries: int = 0
    n_trials: int = 0
    unstored: list[Answer] = field(default_factory=list)
    kept: Outcome | None = None


class Merging:
    """The phase that merges solutions."""

    name = "merge"

    def __init__(
        self,
        solutions: Sequence[tuple[EvaluationRecord, float]],
        budget: Budget,
        journal: Journal,
        *,
        archive: Archive,
        trials: int,
        build: Callable[[Recipe], SharedWeights],
        outcome: Callable[[str], Outcome | None],
        n_evaluations: Callable[[], int],
    ) -> None:
        """Begin.

        Args:
            solutions: those to merge and the metric each must keep, smallest first.
            budget: shared by all phases.
            journal: hears of each solution, in the serial order.
            archive: names the study's sizes; a trial has to beat nothing, or its floor would mean
                less.
            trials: of one solution, at most.
            build: builds a solution.
            outcome: what is known of a key, stored or held.
            n_evaluations: distinct evaluations of the study so far.
        """
        self._chains = [_Chain(parent, floor) for parent, floor in solutions]
        self._budget = budget
        self._journal = journal
        self._archive = archive
        self._trials = trials
        self._build = build
        self._known = outcome
        self._n_evaluations = n_evaluations
        self._position = 0
        self._fruitless = 0
        self._announced = -1
        self.records: list[EvaluationRecord] = []
        self._ahead: dict[str, Outcome] = {}
        self._out: dict[str, _Chain] = {}
        self.ending: Ending | None = None

    # ------------------------------------------------------------------ the pump's side

    def ask(self, n_free: int) -> Sequence[Proposal]:
        """Return the certain trials of all solutions first, then those ahead of their turn."""
        self._advance()
        if self.ending is not None:
            return ()
        decided = self._chains[self._position].unstored
        if decided:  # ahead of its turn, which has come: the pump knows the outcome
            return (decided[0][0],)
        return list(self._wanted(n_free))

    def tell(self, proposal: Proposal, outcome: Outcome) -> Sequence[Answer]:
        """Decide what can be decided; return what the current solution has decided, in order."""
        chain = self._out.pop(proposal.job.key, None)
        if chain is not None:
            self._ahead[proposal.job.key] = outcome
            self._decide(chain)
        return self._due()

    def stored(self, records: Sequence[EvaluationRecord]) -> None:
        """Collect what was merged; it is no longer ahead of its turn."""
        self.records += records
        for record in records:
            self._ahead.pop(record.job.key, None)

    def wants(self, proposal: Proposal) -> bool:
        """Want what may still be decided, and what waits for its turn."""
        key = proposal.job.key
        return self.ending is None and (key in self._out or key in self._ahead)

    # ------------------------------------------------------------------ the serial order

    def _advance(self) -> None:
        """Go on to the solution whose turn it is; those without trials left are finished first."""
        self.ending = self.ending or self._budget.spent(self._n_evaluations())
        while self.ending is None:
            if self._position == len(self._chains):
                self.ending = "complete"
                return
            chain = self._chains[self._position]
            self._announce(chain)
            if chain.unstored or self._proposals(chain, 1):
                return
            self._finish(chain)

    def _due(self) -> list[Answer]:
        """Return the decided trials whose turn it is, within the budget."""
        if self.ending is not None:
            return []
        chain = self._chains[self._position]
        left = self._budget.evaluations_left(self._n_evaluations())
        due = chain.unstored if left is None else chain.unstored[:left]
        chain.unstored = chain.unstored[len(due) :]
        if chain.unstored:
            self.ending = "evaluations"
        return due

    def _decide(self, chain: _Chain) -> None:
        """Accept or reject a solution's trials, in their order, as far as outcomes are known."""
        while proposals := self._proposals(chain, 1):
            assert chain.merging is not None
            job = self._job(chain, proposals[0])
            outcome = self._ahead.get(job.key) or self._known(job.key)
            if outcome is None:
                return
            chain.n_trials += 1
            chain.unstored.append((self._proposal(chain, job), outcome))
            if outcome.metric is not None and outcome.metric >= chain.floor:
                chain.merging.accept(proposals[0])
                chain.kept = outcome
                # What runs ahead does so on the network before this merge.
                self._out = {k: c for k, c in self._out.items() if c is not chain}
            else:
                chain.merging.reject(proposals[0])

    def _announce(self, chain: _Chain) -> None:
        if self._announced < self._position:
            self._announced = self._position
            parent = chain.parent
            self._journal.say(
                SolutionMerging(
                    parent.number, str(parent.recipe), self._position + 1, len(self._chains)
                )
            )

    def _finish(self, chain: _Chain) -> None:
        """Report a solution, and see whether going on is worth it."""
        parent = chain.parent
        n_entries = len(chain.merging.runs) if chain.merging is not None else chain.n_entries
        self._journal.say(
            SolutionMerged(
                parent.number, str(parent.recipe), chain.n_entries, n_entries, chain.n_trials
            )
        )
        self._position += 1
        self._fruitless = 0 if self._gain(chain) >= WORTH else self._fruitless + 1
        if self._fruitless >= PATIENCE and self._position < len(self._chains):
            self.ending = "no_longer_pays"

    def _gain(self, chain: _Chain) -> float:
        """Return by how much the merges kept have shrunk the best of the study's sizes."""
        if chain.kept is None:
            return 0.0
        before, after = chain.parent.outcome.sizes, chain.kept.sizes
        assert before is not None and after is not None
        names = self._archive.names
        pairs = zip(before.vector(names), after.vector(names), strict=True)
        return max(1 - new / old for old, new in pairs)

    # ------------------------------------------------------------------ trials

    def _wanted(self, n: int) -> Iterator[Proposal]:
        """Yield up to ``n`` trials that nobody works on and nobody knows the outcome of.

        A trial of the current solution whose outcome is known is asked for all the same: the pump
        answers it from there.
        """
        current = self._chains[self._position]
        for depth in range(max(n, 1)):
            for chain in self._chains[self._position :]:
                if n <= 0:
                    return
                proposals = self._proposals(chain, depth + 1)
                if len(proposals) <= depth:
                    continue
                job = self._job(chain, proposals[depth])
                first = chain is current and depth == 0
                if job.key in self._out or job.key in self._ahead:
                    continue
                if self._known(job.key) is not None and not first:
                    continue
                self._out[job.key] = chain
                n -= 1
                yield self._proposal(chain, job)

    def _proposals(self, chain: _Chain, n: int) -> list[Runs]:
        """Return the next trials of a solution; each assumes that those before it are rejected."""
        if chain.merging is None:
            shared = self._build(chain.parent.recipe)
            counts = np.sum([tensor.counts for tensor in shared.shared], axis=0)
            chain.merging = MergePass(shared.codebooks[0].entries, counts)
            chain.n_entries = len(chain.merging.runs)
        return chain.merging.proposals(min(n, self._trials - chain.n_trials))

    def _job(self, chain: _Chain, runs: Runs) -> Job:
        return Job(chain.parent.recipe.then(Merge(runs)), chain.floor)

    def _proposal(self, chain: _Chain, job: Job) -> Proposal:
        parent = chain.parent
        return Proposal(
            job, self._archive, "merged", parent.generation, parent.number, in_turn=False
        )
