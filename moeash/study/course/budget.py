"""When a study ends: one budget, which all phases share, and one order of its rules.

Evaluations and wall time are spent by every phase: searching, refining, merging, training.
Generations and ``no_gain`` are about the search alone, so they end the search and nothing else.
"""

import time
from collections.abc import Callable
from typing import Literal

from moeash.study.course.options import BudgetOptions

Ending = Literal[
    "generations", "evaluations", "wall_time", "no_gain", "exhausted", "complete", "no_longer_pays"
]

ENDINGS: dict[str, str] = {
    "generations": "reached the number of generations",
    "evaluations": "reached the number of evaluations",
    "wall_time": "reached the wall time",
    "no_gain": "hypervolume stopped growing",
    "exhausted": "nothing new was left to try",
    "complete": "every solution was worked on",
    "no_longer_pays": "what it still gained was not worth the evaluations",
}
"""Why a phase ended, in words."""


class Budget:
    """Counts what a study spends in this process, and says when it is enough.

    Of several rules that hold, generations are named first, then evaluations, ``no_gain`` and wall
    time.
    """

    def __init__(
        self, options: BudgetOptions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock."""
        self.options = options
        self._clock = clock
        self._started = clock()
        self._best = float("-inf")
        self._stalled = 0

    def evaluations_left(self, spent: int) -> int | None:
        """Return how many more evaluations the budget has; None without such a rule."""
        most = self.options.evaluations
        return None if most is None else max(0, most - spent)

    def spent(self, evaluations: int) -> Ending | None:
        """Return why no phase may go on, or None.

        Args:
            evaluations: distinct ones of this study so far.
        """
        if self.evaluations_left(evaluations) == 0:
            return "evaluations"
        if self._time_is_up():
            return "wall_time"
        return None

    def end_generation(self, index: int, *, hypervolume: float, evaluations: int) -> Ending | None:
        """Take the end of a generation into account; return why the search ends, or None.

        Args:
            index: 1, 2, ...
            hypervolume: of the front after it.
            evaluations: distinct ones of this study so far.
        """
        self._stalled = 0 if hypervolume > self._best else self._stalled + 1
        self._best = max(self._best, hypervolume)
        options = self.options
        if options.generations is not None and index >= options.generations:
            return "generations"
        if self.evaluations_left(evaluations) == 0:
            return "evaluations"
        if options.no_gain is not None and self._stalled >= options.no_gain:
            return "no_gain"
        return "wall_time" if self._time_is_up() else None

    def _time_is_up(self) -> bool:
        limit = self.options.wall_time_s
        return limit is not None and self._clock() - self._started >= limit
