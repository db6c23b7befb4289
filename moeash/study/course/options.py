"""How long a study goes on, and what follows its search."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from moeash.errors import InputError
from moeash.options.kinds import Bounds
from moeash.options.tables import Count, NotNegative, Options, Positive

GENERATIONS = 15
"""Generations of a study that gives no rule."""

Solutions = Annotated[int, Bounds(0)] | tuple[NotNegative, ...]
"""Solutions of a front to work on: so many of them, or the smallest within each of some drops."""


@dataclass(frozen=True)
class BudgetOptions(Options):
    """``[budget]``: the first rule that holds ends what it is about.

    Attributes:
        generations: generations of candidates; 15 where no rule is given. Ends the search.
        evaluations: evaluations of the whole study, those of every phase.
        wall_time_s: seconds of this process from the search on, in every phase; preparing is not
            counted.
        no_gain: generations in a row without gain of hypervolume. Ends the search.
    """

    table: ClassVar[str] = "budget"

    generations: Count | None = None
    evaluations: Count | None = None
    wall_time_s: Positive | None = None
    no_gain: Count | None = None

    def check(self) -> None:
        """Set the rule that holds where none is given."""
        rules = (self.generations, self.evaluations, self.wall_time_s, self.no_gain)
        if rules == (None,) * len(rules):
            object.__setattr__(self, "generations", GENERATIONS)


@dataclass(frozen=True)
class RefineOptions(Options):
    """``[refine]``: solutions of the search made again with more effort, if the method has a way.

    Attributes:
        solutions: of the front, evenly spread, 0 for none; or drops: the smallest solution within
            each of them.
    """

    table: ClassVar[str] = "refine"

    solutions: Solutions = 20


@dataclass(frozen=True)
class MergeOptions(Options):
    """``[merge]``: neighbouring codebook entries of solutions merged, if the method allows it.

    Attributes:
        trials: trial merges a solution, at most; 0: no merging.
        max_drop: a merge is kept while its solution stays within this drop of the float network;
            default: while the solution's own metric does not fall.
    """

    table: ClassVar[str] = "merge"

    trials: Annotated[int, Bounds(0)] = 10
    max_drop: NotNegative | None = None


@dataclass(frozen=True)
class DistillOptions(Options):
    """``[distill]``: solutions of the front trained on their own entries, towards fewer bits.

    Attributes:
        solutions: of the front, evenly spread, 0 for none; or drops: the smallest solution within
            each of them.
        rates: what a bit a weight is worth, in nats of the loss; of single values, in their
            variance. Each solution is distilled at each.
        epochs: passes over the training images: the train split, or else the calibration split.
        learning_rate: how far a weight moves in a step at first, in entries of the codebook. A
            small network, whose every weight counts, wants less than the default.
        temperature: divides scores before the softmax of the float network's part of the loss.
            At 1 a confident network teaches little but its answers. Files of LeNet-300-100 at equal
            bytes diverged by 0.025 with 2 and by 0.017 with 4.
    """

    table: ClassVar[str] = "distill"

    solutions: Solutions = 0
    rates: tuple[NotNegative, ...] = (1.0, 3.0)
    epochs: Count = 20
    learning_rate: Positive = 0.02
    temperature: Positive = 4.0

    def check(self) -> None:
        """Refuse what distills at no rate, or twice at one."""
        if not self.rates or len(set(self.rates)) < len(self.rates):
            raise InputError(
                f"distill.rates is {list(self.rates)}; give one or more different rates, or "
                "distill.solutions = 0 to distill nothing"
            )


@dataclass(frozen=True)
class TuneOptions(Options):
    """``[tune]``: values of codebook entries and kept parameters trained, every index kept.

    Attributes:
        solutions: of the front, evenly spread, 0 for none; or drops: the smallest solution within
            each of them.
        epochs: passes over the training images.
    """

    table: ClassVar[str] = "tune"

    solutions: Solutions = 0
    epochs: Count = 5
