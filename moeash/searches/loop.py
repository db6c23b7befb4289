"""The generational loop: ask, have the generation evaluated, tell, decide whether to stop.

The loop knows neither networks nor storage: ``evaluate`` answers a generation (from storage or from
a backend) and returns what the search may learn, together with the front's hypervolume.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from moeash.core.candidate import Candidate
from moeash.searches.base import Fitness, Search

Ending = Literal["generations", "evaluations", "wall_time", "no_gain", "exhausted"]

ENDINGS: dict[str, str] = {
    "generations": "reached the number of generations",
    "evaluations": "reached the number of evaluations",
    "wall_time": "reached the wall time",
    "no_gain": "hypervolume stopped growing",
    "exhausted": "nothing new was left to try",
}

STALE_GENERATIONS = 100
"""So many generations in a row without a new candidate, and the space counts as exhausted.

Evolution may propose known points for ever, and a budget of evaluations would never be reached.
"""


@dataclass(frozen=True)
class Stop:
    """When a search ends; the first rule that holds wins. ``None`` switches a rule off.

    Attributes:
        generations: at most so many generations.
        evaluations: no new generation once so many distinct candidates were evaluated.
        wall_time_s: no new generation after so many seconds of this process.
        no_gain: so many generations in a row without hypervolume gain.
    """

    generations: int | None = None
    evaluations: int | None = None
    wall_time_s: float | None = None
    no_gain: int | None = None


@dataclass(frozen=True)
class GenerationResult:
    """What evaluating one generation told.

    Attributes:
        told: one per proposed candidate, in order.
        n_evaluations: distinct candidates of the study evaluated so far.
        hypervolume: of the front so far, against the study's fixed reference point.
    """

    told: Sequence[Fitness]
    n_evaluations: int
    hypervolume: float


@dataclass(frozen=True)
class Generation:
    """One finished generation; ``ending`` is set on the last."""

    index: int
    result: GenerationResult
    ending: Ending | None


class EvaluateGeneration(Protocol):
    """Answers one generation of candidates."""

    def __call__(self, index: int, candidates: list[Candidate]) -> GenerationResult:
        """Return what the search may learn of ``candidates``."""
        ...


def optimise(
    search: Search,
    evaluate: EvaluateGeneration,
    stop: Stop,
    *,
    space_size: int | None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Generation]:
    """Run a search, yielding each generation as it ends; the last one names why it was the last."""
    started = clock()
    best, stalled, index = float("-inf"), 0, 0
    n_evaluations, stale = 0, 0
    candidates = search.ask()
    while candidates:
        index += 1
        result = evaluate(index, candidates)
        search.tell(result.told)
        if result.hypervolume > best:
            best, stalled = result.hypervolume, 0
        else:
            stalled += 1
        stale = 0 if result.n_evaluations > n_evaluations else stale + 1
        n_evaluations = result.n_evaluations
        ending: Ending | None = None
        if space_size is not None and result.n_evaluations >= space_size:
            ending = "exhausted"
        elif stop.generations is not None and index >= stop.generations:
            ending = "generations"
        elif stop.evaluations is not None and result.n_evaluations >= stop.evaluations:
            ending = "evaluations"
        elif stop.no_gain is not None and stalled >= stop.no_gain:
            ending = "no_gain"
        elif stop.wall_time_s is not None and clock() - started >= stop.wall_time_s:
            ending = "wall_time"
        else:
            candidates = search.ask()
            if not candidates or stale >= STALE_GENERATIONS:
                ending = "exhausted"
        yield Generation(index, result, ending)
        if ending is not None:
            return
