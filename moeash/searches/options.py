"""How candidates are proposed."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from moeash.core.solutions.objectives import SizeName
from moeash.errors import InputError
from moeash.options.kinds import Bounds
from moeash.options.tables import Options

Algorithm = Literal["nsga2", "steady_nsga2", "exhaustive", "random"]
Initial = Literal["linear", "log", "random"]

MAX_POPULATION = 10_000
"""A generation is made in memory before the first of it is evaluated."""


@dataclass(frozen=True)
class SearchOptions(Options):
    """``[search]``.

    Attributes:
        algorithm: nsga2 evolves generations; steady_nsga2 gives a free worker the next child at
            once, and is not reproducible bit by bit with several workers; exhaustive tries
            everything, the oracle for one integer; random is what evolution has to beat.
        population: candidates a generation.
        initial: first population of NSGA-II over each variable's range; linear is the paper's
            Algorithm 1.
        objectives: sizes minimised beside the metric.
    """

    table: ClassVar[str] = "search"

    algorithm: Algorithm = "nsga2"
    population: Annotated[int, Bounds(2, MAX_POPULATION)] = 20
    initial: Initial = "linear"
    objectives: tuple[SizeName, ...] = ("size_bytes",)

    def check(self) -> None:
        """Refuse no objective, and one twice."""
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise InputError(
                f"search.objectives is {list(self.objectives)}, needed at least one size, none "
                "twice"
            )
