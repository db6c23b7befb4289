"""One solution for one goal, without a search.

The goal is the smallest file that loses no more, or the best network in a file no larger. A
method's candidates lie on lines: along its one integer, bins or levels, files grow and losses
shrink. A rate, where there is one, trades bits in another way and gives another line. So a line is
divided, other rates are tried where it ended, and what was found is refined.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from moeash.core.progress import Progress, silent
from moeash.core.solutions.candidate import Value
from moeash.core.solutions.recipe import Recipe, Refine
from moeash.core.solutions.variables import Integer, Real, Variable
from moeash.errors import EvaluationError, InputError, NothingMeetsError
from moeash.evaluation.outcome import Archive, Job, Outcome

TOLERANCE = 1.03
"""Ratio of two integers at which a line is not divided further."""

FALL = -2.0
"""Power of the bins that a loss goes with, as long as one value is all that says so: where errors
are small and add up it is their squares that count."""

NOISE = 0.2
"""Logarithm of the ratio of two losses that says more than chance: between neighbouring numbers of
bins they rise as often as they fall."""

WORTH_IT = 0.995
"""Share of the bytes, or of the loss, that another rate or refinement must promise to be tried."""

NEAR = 1.3
"""Ratio to where one line ended within which the next probably does."""

REFINEMENTS = 3
"""Refined candidates that are tried at most: each takes as long as many that are not refined."""

MARGIN = 0.99
"""Share of the limit that a refined candidate aims at: a power law holds only nearly."""


@dataclass(frozen=True)
class Goal:
    """What a solution has to meet; exactly one of the two.

    Attributes:
        max_drop: the metric may be at most so far below the float network's, by CAUTION standard
            errors less as measured; the file shall be as small as possible.
        max_bytes: the file may take at most so many bytes; the metric shall be as high as possible.
    """

    max_drop: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.max_bytes is None):
            raise InputError("needed exactly one of a largest drop and a largest size")
        if self.max_drop is not None and not 0 < self.max_drop < math.inf:
            raise InputError(f"got a largest drop of {self.max_drop}, needed a number above 0")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise InputError(f"got {self.max_bytes} bytes at most, needed 1 or more")


class Measures(Protocol):
    """What :class:`moeash.evaluation.evaluate.Evaluator` does for whoever has a goal."""

    def evaluate(self, job: Job, archive: Archive, progress: Progress = silent) -> Outcome:
        """Measure a job, stopping as soon as it is below its floor or certainly dominated."""
        ...


@dataclass(frozen=True)
class Reached:
    """What was found.

    Attributes:
        recipe: the solution.
        outcome: what it measured.
        n_evaluated: recipes that were built for it.
    """

    recipe: Recipe
    outcome: Outcome
    n_evaluated: int


@dataclass
class _Tries:
    """Recipes tried for a goal, and how they compare."""

    measures: Measures
    goal: Goal
    baseline: float
    progress: Progress
    outcomes: dict[Recipe, Outcome] = field(default_factory=dict)

    def outcome(self, recipe: Recipe, *, whole: bool = False) -> Outcome:
        """Return what a recipe measures; of one that misses the goal only that, unless wanted."""
        known = self.outcomes.get(recipe)
        if known is not None and (known.status == "complete" or not whole):
            return known
        self.progress(f"trying {recipe}", len(self.outcomes), None)
        floor = -math.inf
        if self.goal.max_drop is not None and not whole:
            floor = self.baseline - self.goal.max_drop
        found = self.measures.evaluate(Job(recipe, floor), Archive(()), self._step)
        if found.status == "failed":
            raise EvaluationError(f"{recipe} failed: {found.error}")
        self.outcomes[recipe] = found
        return found

    def _step(self, what: str, done: int, total: int | None) -> None:
        self.progress(what, done, total)

    def drop(self, recipe: Recipe) -> float:
        """Return how far a recipe may be below the float network, luck allowed for.

        At least so far if it was stopped.
        """
        return self.outcome(recipe).cautious_drop(self.baseline)

    def n_bytes(self, recipe: Recipe) -> int:
        """Return the bytes of its file."""
        sizes = self.outcome(recipe).sizes
        assert sizes is not None
        return sizes.size_bytes

    def meets(self, recipe: Recipe) -> bool:
        """Tell whether a recipe meets the goal."""
        if self.goal.max_bytes is not None:
            return self.n_bytes(recipe) <= self.goal.max_bytes
        assert self.goal.max_drop is not None
        complete = self.outcome(recipe).status == "complete"
        return complete and self.drop(recipe) <= self.goal.max_drop

    def cost(self, recipe: Recipe) -> float:
        """Return what has to be small among recipes that meet the goal."""
        return self.drop(recipe) if self.goal.max_drop is None else float(self.n_bytes(recipe))

    def limited(self, recipe: Recipe) -> float:
        """Return what is limited."""
        return float(self.n_bytes(recipe)) if self.goal.max_drop is None else self.drop(recipe)

    @property
    def limit(self) -> float:
        """The limit."""
        limit = self.goal.max_bytes if self.goal.max_drop is None else self.goal.max_drop
        assert limit is not None
        return limit

    def best(self) -> Recipe:
        """Return the recipe that meets the goal at the least cost."""
        return min(filter(self.meets, self.outcomes), key=self.cost)


def reach(
    measures: Measures,
    variables: tuple[Variable, ...],
    goal: Goal,
    *,
    baseline: float,
    refines: bool,
    progress: Progress = silent,
) -> Reached:
    """Return a solution that meets a goal, at about the least cost.

    Args:
        measures: evaluates recipes.
        variables: of the method: an integer, and perhaps a real number.
        goal: what to meet.
        baseline: metric of the float network.
        refines: whether candidates can be refined.
        progress: hears what is being tried.

    Raises:
        InputError: the method has other variables.
        NothingMeetsError: no candidate within the method's bounds meets the goal.
        EvaluationError: a candidate failed.
    """
    axis, side = _line(variables)
    tries = _Tries(measures, goal, baseline, progress)

    def at(value: int, rate: float | None) -> Recipe:
        values: dict[str, Value] = {axis.name: value}
        if side is not None and rate is not None:
            values[side.name] = rate
        return Recipe.of(values)

    middle = None if side is None else _between(side.low, side.high, side.log)
    found = _divided(tries, lambda value: at(value, middle), axis.low, axis.high)
    if found is None:
        raise _nothing(tries, at, axis, middle)
    if side is not None and middle is not None and side.low < side.high:
        better = _better_rate(tries, lambda rate: at(found, rate), middle, (side.low, side.high))
        if better is not None:
            _followed(tries, lambda value: at(value, better), found, axis)
    if refines:
        _refine(tries, axis)
    best = tries.best()
    return Reached(best, tries.outcome(best), len(tries.outcomes))


def _line(variables: tuple[Variable, ...]) -> tuple[Integer, Real | None]:
    integers = [v for v in variables if isinstance(v, Integer)]
    reals = [v for v in variables if isinstance(v, Real)]
    if len(integers) != 1 or len(reals) > 1:
        names = ", ".join(v.name for v in variables)
        raise InputError(
            f"a goal is reached along one number of bins or levels, but the method searches "
            f"{names}; run a study instead (moeash run)"
        )
    # A study would go on to what is highest; here one evaluation tells whether it is needed.
    return replace(integers[0], high=integers[0].highest), reals[0] if reals else None


def _between(low: float, high: float, log: bool) -> float:
    # Few digits: people type them again.
    middle = math.sqrt(low * high) if log else (low + high) / 2
    return float(f"{middle:.3g}") if low < high else low


def _divided(tries: _Tries, at: Callable[[int], Recipe], low: int, high: int) -> int | None:
    """Return the last value of a line that meets the goal, on the side that costs least.

    Fewer bins make smaller files, more bins lose less: of a largest drop the least value that
    meets it is wanted, of a largest size the highest. What is left is divided where the line
    probably meets the limit, and in its middle where nothing says so or it was wrong twice.
    """
    upwards = tries.goal.max_drop is None
    good, bad = (low, high + 1) if upwards else (high, low - 1)
    if not tries.meets(at(good)):
        return None
    tried, n_wrong = [good], 0
    while abs(good - bad) > 1 and max(good, bad) > TOLERANCE * max(1, min(good, bad)):
        lower, upper = sorted((good, bad))
        expected = _expected(tries, at, tried) if n_wrong < 2 else None
        if expected is None or not lower < expected < upper:
            expected = math.sqrt(max(lower, 1) * upper)
        # As far from a known end as two may lie apart: both together are then the answer.
        expected = min(max(expected, TOLERANCE * lower), upper / TOLERANCE)
        value = min(max(round(expected), lower + 1), upper - 1)
        tried.append(value)
        if tries.meets(at(value)):
            good = value
        else:
            bad = value
        is_halved = max(good, bad) / max(1, min(good, bad)) <= math.sqrt(upper / max(1, lower))
        n_wrong = 0 if is_halved or n_wrong == 2 else n_wrong + 1
    return good


def _expected(tries: _Tries, at: Callable[[int], Recipe], tried: list[int]) -> float | None:
    """Return where a line probably meets the limit; None where nothing says so."""
    values = {at(value): float(value) for value in tried}
    power = _slope(tries, values, lambda recipe: values[recipe])
    usable = _nearest(tries, values)
    if power is None and tries.goal.max_drop is not None:
        power = 1 / FALL
    if power is None or not usable:
        return None
    way = power * math.log(tries.limit / tries.limited(usable[0]))
    return values[usable[0]] * math.exp(way) if abs(way) < 100 else None


def _followed(tries: _Tries, at: Callable[[int], Recipe], near: int, axis: Integer) -> None:
    """Divide another line where the first one ended, and all of it where that is not enough."""
    low, high = max(axis.low, int(near / NEAR)), min(axis.high, int(near * NEAR) + 1)
    ended = _divided(tries, at, low, high)
    if ended is None or not low * TOLERANCE < ended < high / TOLERANCE:
        _divided(tries, at, axis.low, axis.high)


def _nothing(
    tries: _Tries, at: Callable[[int, float | None], Recipe], axis: Integer, rate: float | None
) -> NothingMeetsError:
    if tries.goal.max_drop is None:
        least = tries.n_bytes(at(axis.low, rate))
        return NothingMeetsError(
            f"{axis.name} = {axis.low}, the lowest of the method, takes {least:,} bytes, more than "
            f"{tries.limit:,.0f}; allow more, or lower method.{axis.name}"
        )
    highest = at(axis.high, rate)
    tries.outcome(highest, whole=True)
    return NothingMeetsError(
        f"{axis.name} = {axis.high}, the highest of the method, is {tries.drop(highest):.4g} below "
        f"the float network, more than {tries.limit:g}; allow more, or raise method.{axis.name}"
    )


def _better_rate(
    tries: _Tries, at: Callable[[float], Recipe], rate: float, others: tuple[float, float]
) -> float | None:
    """Return the rate that promises the least cost at the limit; None for the one there is.

    What each of the others costs there is read off the line that was divided: near its end cost
    and limit are powers of each other.
    """
    slope = _slope(tries, tries.outcomes, tries.cost)
    if slope is None:
        return None
    best, promised = None, WORTH_IT * _at_limit(tries, at(rate), slope)
    for other in others:
        recipe = at(other)
        tries.outcome(recipe, whole=True)
        expected = _at_limit(tries, recipe, slope)
        if expected < promised:
            best, promised = other, expected
    return best


def _at_limit(tries: _Tries, recipe: Recipe, slope: float) -> float:
    limited = tries.limited(recipe)
    if limited <= 0:  # no loss that could be measured: nothing to extrapolate from
        return tries.cost(recipe)
    return float(tries.cost(recipe) * (tries.limit / limited) ** slope)


def _nearest(tries: _Tries, recipes: Iterable[Recipe]) -> list[Recipe]:
    """Return those that were measured whole and have a loss, those near the limit first."""
    whole = [recipe for recipe in recipes if tries.outcomes[recipe].status == "complete"]
    usable = [recipe for recipe in whole if tries.limited(recipe) > 0]
    return sorted(usable, key=lambda r: abs(math.log(tries.limited(r) / tries.limit)))


def _slope(tries: _Tries, recipes: Iterable[Recipe], of: Callable[[Recipe], float]) -> float | None:
    """Return the power of what is limited that something goes with on a line, near the limit."""
    apart = NOISE if tries.goal.max_bytes is None else 0.0
    usable = [recipe for recipe in _nearest(tries, recipes) if of(recipe) > 0]
    for other in usable[1:]:
        ratio = math.log(tries.limited(usable[0]) / tries.limited(other))
        power = math.log(of(usable[0]) / of(other)) / ratio if abs(ratio) > apart else 0.0
        if power:
            return power
    return None


def _refine(tries: _Tries, axis: Integer) -> None:
    """Refine what was found, and move along the line by what refining gained."""
    start = tries.best()
    line = [r for r in tries.outcomes if _elsewhere(r, axis) == _elsewhere(start, axis)]
    slope = _slope(tries, line, lambda recipe: float(_value(recipe, axis)))
    price = _slope(tries, line, tries.cost)
    recipe = start.then(Refine())
    for _ in range(REFINEMENTS):
        tries.outcome(recipe, whole=True)
        limited = tries.limited(recipe)
        if slope is None or limited <= 0:
            return
        left = MARGIN * tries.limit / limited
        if tries.meets(recipe) and (price is None or left**price > WORTH_IT):
            return
        wanted = _value(recipe, axis) * left**slope
        value = min(max(round(wanted), axis.low), axis.high)
        values = recipe.candidate.as_dict() | {axis.name: value}
        following = replace(Recipe.of(values), steps=recipe.steps)
        if following in tries.outcomes:
            return
        recipe = following


def _value(recipe: Recipe, axis: Integer) -> int:
    return int(recipe.candidate[axis.name])


def _elsewhere(recipe: Recipe, axis: Integer) -> dict[str, Value]:
    """Return what a recipe's line has in common."""
    values = recipe.candidate.as_dict()
    return {name: value for name, value in values.items() if name != axis.name}
