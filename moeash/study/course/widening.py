"""Where the bound of a search cuts its front off, the search goes on beyond it.

How many bins a network needs nobody knows before some were tried. Bounds that a person gave hold.
Those that a method found hold until the best solution lies at one and still loses something, or
until no solution within them is wanted.
"""

from moeash.evaluation.options import METRIC_NAMES
from moeash.searches.base import Widens
from moeash.searches.space import Space
from moeash.study.course.journal import Journal
from moeash.study.course.standing import Standing

NEAR = 0.9
"""Share of the highest value from which on a solution lies at the bound: not every value between is
tried."""

NEGLIGIBLE = 1e-3
"""A loss that nobody misses: of an accuracy, in nats; of a user's metric, relative to the float
network's."""


class Widening:
    """The space of a search, and whether it should be wider.

    Attributes:
        space: what is searched now.
    """

    def __init__(self, space: Space, standing: Standing, journal: Journal) -> None:
        """Begin with the space that the study began with."""
        self.space = space
        self._standing = standing
        self._journal = journal

    def widen(self, search: Widens) -> None:
        """Widen the space where it cuts the front off; between generations.

        What is decided follows from what is stored, so a replay decides the same.
        """
        why, wider = self._why(), self.space.wider
        if why is None or wider is None:
            return
        for was, now in zip(self.space.variables, wider.variables, strict=True):
            if now != was:
                self._journal.note(f"the search goes on to {now.name} = {now.high:,}: {why}")
        self.space = wider
        search.widen(wider)

    def say_where_it_ends(self) -> None:
        """Note that a search has ended before it could be widened."""
        why = self._why()
        if why is not None:
            self._journal.note(f"the front ends at a bound of the search: {why}; let it run longer")

    def _why(self) -> str | None:
        """Say why a wider space is wanted; None where it is not, or there is none."""
        if self.space.wider is None or not self._standing.n_evaluations:
            return None
        front = self._standing.front()
        if not front:
            return "no solution was wanted so far"
        best = max(front, key=lambda solution: solution.metric)
        facts = self._standing.facts
        scale = 1.0 if facts.metric_name in METRIC_NAMES else abs(facts.baseline) or 1.0
        if best.drop <= max(best.noise, NEGLIGIBLE * scale):
            return None
        values = best.recipe.candidate.as_dict()
        for variable in self.space.variables:
            value = float(values[variable.name])
            if variable.high < variable.highest and value >= NEAR * variable.high:
                return (
                    f"its best solution, at a drop of {best.drop:.4f}{facts.unit}, has "
                    f"{variable.name} = {value:,.0f} of {variable.high:,}"
                )
        return None
