"""What is asked of an evaluation, and what it answers. Small, frozen and picklable."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moeash.core.solutions.objectives import SizeName, Sizes, as_minimised
from moeash.core.solutions.pareto import non_dominated
from moeash.core.solutions.recipe import Recipe, Start

Status = Literal["complete", "stopped", "failed"]

CAUTION = 2.0
"""Standard errors by which a drop may be larger on other images, for picks: the holdout is as small
as the search split, and the luckiest of many candidates is picked. ``promises.py`` in
``studies/comparison`` counts how often a limit is kept."""


@dataclass(frozen=True)
class Job:
    """One network to build and measure, and when it cannot matter.

    Attributes:
        recipe: what is built.
        floor: stop as soon as the metric can no longer reach this value.
        start: the artifact the recipe begins with, where something in it was trained.
    """

    recipe: Recipe
    floor: float = float("-inf")
    start: Start | None = field(default=None, repr=False, compare=False)

    @property
    def key(self) -> str:
        """Identity of the network this job builds within a study."""
        return self.recipe.key


@dataclass(frozen=True)
class Outcome:
    """What became of one job.

    Attributes:
        status: ``complete`` with a metric; ``stopped`` as soon as it could no longer matter;
            ``failed`` with an error.
        metric: the measured metric; None unless complete.
        bound: the highest metric that was still possible; equals the metric when complete.
        sizes: exact sizes; None when failed before they were known.
        fingerprint: of the shared weights; the file must decode to these.
        n_batches: forward batches spent.
        duration_s: wall time spent.
        error: one line saying what failed.
        retriable: the failure says nothing about the candidate: its workers were lost or too slow,
            memory ran out, a file could not be read. Evaluated again it may well succeed.
        artifact: the file's bytes, of a solution that cannot be rebuilt in seconds; storage keeps
            them, and does not hand them out with every outcome.
        worker: who spent the time, as ``process@host``; None when it was lost. Like the end, it is
            about the machines and not about the candidate, so outcomes are equal without it.
        noise: standard error of the metric's distance from the float network's, image by image;
            None where there is none, or where it is too small to matter.
        ended_at: when that was, by the worker's clock: UTC, ISO 8601.
    """

    status: Status
    metric: float | None
    bound: float | None
    sizes: Sizes | None
    fingerprint: str | None
    n_batches: int
    duration_s: float
    error: str | None = None
    retriable: bool = False
    noise: float | None = None
    artifact: bytes | None = field(default=None, repr=False, compare=False)
    worker: str | None = field(default=None, compare=False)
    ended_at: str | None = field(default=None, compare=False)

    def cautious_drop(self, baseline: float) -> float:
        """Return how far below the float network it may well be on other images.

        Args:
            baseline: the float network's metric. One that was stopped is at least so far below.
        """
        reached = self.bound if self.metric is None else self.metric
        assert reached is not None
        return baseline - reached + CAUTION * (self.noise or 0.0)


@dataclass(frozen=True)
class Archive:
    """The complete evaluations a new one has to beat, fixed when a generation starts.

    Because it is fixed, whether a candidate is stopped, and where, does not depend on the order in
    which its generation is evaluated or on how many workers share it.

    Attributes:
        names: the sizes the study minimises.
        metric: ``(n,)`` metrics of the front.
        sizes: ``(n, m)`` their sizes, in the order of ``names``.
    """

    names: tuple[SizeName, ...]
    metric: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    @classmethod
    def of(cls, names: Sequence[SizeName], outcomes: Sequence[Outcome]) -> "Archive":
        """Keep the front of the complete outcomes."""
        complete = [o for o in outcomes if o.status == "complete" and o.sizes is not None]
        metric = np.array([o.metric for o in complete], dtype=np.float64)
        sizes = np.array(
            [o.sizes.vector(names) for o in complete if o.sizes is not None], dtype=np.float64
        ).reshape(len(complete), len(names))
        if complete:
            front = non_dominated(as_minimised(metric, sizes))
            metric, sizes = metric[front], sizes[front]
        return cls(tuple(names), metric, sizes)

    def rules_out(self, bound: float, sizes: Sizes) -> bool:
        """Tell whether an evaluation whose metric is at most ``bound`` is certainly dominated.

        It is iff a member no larger in every size has a higher metric, or the same metric and a
        smaller size. A member with equal values in everything rules nothing out.
        """
        if not len(self.metric):
            return False
        mine = np.array(sizes.vector(self.names))
        no_larger = (self.sizes <= mine).all(axis=1)
        smaller = (self.sizes < mine).any(axis=1)
        worse = (bound < self.metric) | ((bound == self.metric) & smaller)
        return bool((no_larger & worse).any())
