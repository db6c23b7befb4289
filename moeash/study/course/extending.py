"""Take one step more on solutions of a front: refine, distill or tune them.

Each of these steps is too slow for the hundreds of candidates of a search. Here solutions of the
front take it: so many of them, spread evenly along the front, both ends included, or the smallest
within each of some drops. What comes of it is evaluated and stored as any candidate is, in the
order of the front, and stands on the study's front beside the others or in their place.
"""

from collections.abc import Callable, Sequence

from moeash.core.solutions.recipe import Step
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.study.course.budget import Budget, Ending
from moeash.study.course.options import Solutions
from moeash.study.course.phase import Answer, Proposal
from moeash.study.solution import Solution
from moeash.study.storage.records import EvaluationRecord, Stage


def spread(n: int, at_most: int) -> list[int]:
    """Return ``min(n, at_most)`` positions of ``range(n)``, evenly spread, both ends included."""
    if n <= at_most:
        return list(range(n))
    if at_most == 1:
        return [n // 2]
    return [round(i * (n - 1) / (at_most - 1)) for i in range(at_most)]


def chosen(
    front: Sequence[Solution], which: Solutions, note: Callable[[str], None]
) -> list[Solution]:
    """Return the solutions that a step is taken on, in the order of the front.

    Args:
        front: smallest first.
        which: so many of them, or drops, luck allowed for: the smallest within each.
        note: told of drops that no solution is within.
    """
    if isinstance(which, int):
        return [front[i] for i in spread(len(front), which)]
    found = set()
    for max_drop in which:
        within = [i for i, solution in enumerate(front) if solution.is_within(max_drop)]
        if within:
            found.add(within[0])
        else:
            note(f"no solution of the search is within a drop of {max_drop:g}, so none is taken")
    return [front[i] for i in sorted(found)]


class Extending:
    """The phase that takes one step more on each of some solutions."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        extended: Sequence[tuple[EvaluationRecord, Step]],
        budget: Budget,
        *,
        archive: Archive,
        floor: float,
        n_evaluations: Callable[[], int],
    ) -> None:
        """Begin.

        Args:
            name: of the phase.
            stage: of its evaluations.
            extended: solutions and the steps taken on them, smallest solution first.
            budget: shared by all phases.
            archive: what is known: an evaluation stops when something there is certainly better.
            floor: the metric below which a solution is not wanted.
            n_evaluations: distinct evaluations of the study so far.
        """
        self.name = name
        self.proposals = [
            Proposal(
                Job(solution.recipe.then(step), floor),
                archive,
                stage,
                solution.generation,
                solution.number,
            )
            for solution, step in extended
        ]
        self._budget = budget
        self._n_evaluations = n_evaluations
        self._next = 0
        self.ending: Ending | None = None
        self.records: list[EvaluationRecord] = []

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
        """Collect what has come of it."""
        self.records += records

    def wants(self, proposal: Proposal) -> bool:
        """Want every proposal."""
        return True
