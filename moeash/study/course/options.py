"""What a study may spend, and what it does with the front its search ends with."""

from dataclasses import dataclass

from moeash.errors import InputError


@dataclass(frozen=True)
class BudgetOptions:
    """``[budget]``: the first rule that holds ends the search, or the study.

    Attributes:
        generations: of the search.
        evaluations: distinct ones of the whole study, refined and merged ones included.
        wall_time_s: seconds of this process, refining and merging included.
        no_gain: generations in a row without hypervolume gain, after which the search ends.
    """

    generations: int | None = None
    evaluations: int | None = None
    wall_time_s: float | None = None
    no_gain: int | None = None

    def __post_init__(self) -> None:
        for name in ("generations", "evaluations", "wall_time_s", "no_gain"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"budget.{name} must be above 0, got {value}")


@dataclass(frozen=True)
class RefineOptions:
    """``[refine]``: solutions of the front made again the method's slower way, if it has one.

    Attributes:
        solutions: of the front, evenly spread; 0: none.
    """

    solutions: int = 20


@dataclass(frozen=True)
class MergeOptions:
    """``[merge]``: neighbouring entries of the front's solutions, merged while it costs nothing.

    Attributes:
        trials: merges tried for a solution, at most; 0: none.
        max_drop: a merge is kept while the solution stays within this drop of the float network;
            default: while its own metric does not fall.
    """

    trials: int = 10
    max_drop: float | None = None
