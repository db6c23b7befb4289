"""Make the solutions a search has ended with again, where the method has a slower way.

A method may know a slower way from the same candidate to better weights (see
:attr:`moeash.methods.base.Method.refines`), too slow for the hundreds of candidates of a search.
Here solutions of the search's front take it: so many of them, spread evenly along the front, both
ends included. What comes of it is evaluated and stored as any candidate is, in the order of the
front, and stands on the study's front beside the others or in their place.
"""

from collections.abc import Callable, Sequence

from moeash.core.solutions.recipe import Refine
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.study.course.budget import Budget, Ending
from moeash.study.course.phase import Answer, Proposal
from moeash.study.storage.records import EvaluationRecord


def spread(n: int, at_most: int) -> list[int]:
    """Return ``min(n, at_most)`` positions of ``range(n)``, evenly spread, both ends included."""
    if n <= at_most:
        return list(range(n))
    if at_most == 1:
        return [n // 2]
    return [round(i * (n - 1) / (at_most - 1)) for i in range(at_most)]


class Refining:
    """The phase that refines solutions."""

    name = "refine"

    def __init__(
        self,
        solutions: Sequence[EvaluationRecord],
        budget: Budget,
        *,
        archive: Archive,
        floor: float,
        n_evaluations: Callable[[], int],
    ) -> None:
        """Begin.

        Args:
            solutions: those to refine, smallest first.
            budget: shared by all phases.
            archive: what is known: an evaluation stops when something there is certainly better.
            floor: the metric below which a solution is not wanted.
            n_evaluations: distinct evaluations of the study so far.
        """
        self.proposals = [
            Proposal(
                Job(solution.recipe.then(Refine()), floor),
                archive,
                "refined",
                solution.generation,
                solution.number,
            )
            for solution in solutions
        ]
        self._budget = budget
        self._n_evaluations = n_evaluations
        self._next = 0
        self.ending: Ending | None = None
        self.refined: list[EvaluationRecord] = []

    def ask(self, n_free: int) -> Sequence[Proposal]:
        """Return the next solutions of the front."""
        if self.ending is not None:
            return ()
        if self._next == len(self.proposals):
            self.ending = "complete"
            return ()
        self.ending = self._budget.spent(self._n_evaluations())
        if self.ending is not None:
            return ()
        left = self._budget.evaluations_left(self._n_evaluations())
        n = n_free if left is None else min(n_free, left)
        asked = self.proposals[self._next : self._next + n]
        self._next += len(asked)
        return asked

    def tell(self, proposal: Proposal, outcome: Outcome) -> Sequence[Answer]:
        """Let every answer be stored as it arrives."""
        return ((proposal, outcome),)

    def stored(self, records: Sequence[EvaluationRecord]) -> None:
        """Collect what was refined."""
        self.refined += records

    def wants(self, proposal: Proposal) -> bool:
        """Want every proposal."""
        return True
