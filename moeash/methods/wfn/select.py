"""SELECT: fix a share of all weights to as few centres as a budget of mean distance allows.

Source: Weight Fixing Networks (ECCV 2022), the authors' code. Distances are relative to the
weight; the euclidean ones of the code are left out. Ties are told here, as the code leaves them to
its libraries: of two equally near candidates a weight counts for the lower, of candidates with
equally many weights the lowest is taken, and of weights equally far the earlier in the network.

The code builds a matrix of candidates by weights and sorts all weights for every centre. Here the
weights are sorted once. Around a centre the distance grows along at most three runs of the sorted
weights (:meth:`Unassigned.take`), so the nearest weights are merged from the heads of the runs,
four times as many as long as the budget lasts. A stage takes O(N log N + K k log N) for N weights,
K centres and k candidates, and memory for a few numbers a weight. The sums of distances are the
same floating-point sums in the same order, so the outcome is the same bit for bit.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moeash.errors import InputError
from moeash.methods.fixing.outcome import Fixing, finite_weights, fixing_of
from moeash.methods.wfn.ladder import candidates

HIGHEST_ORDER = 20
"""Beyond it the budget doubles instead: a further power of two would change no candidate."""

LEAST_DELTA = 1e-4
"""Below it the ladder has tens of thousands of rungs, and hardly two weights share a centre."""

_FIRST_LOOK, _LONGER = 64, 4


def stage_deltas(delta: float, n_stages: int) -> Sequence[float]:
    """Return the relative distance of each stage: wide at first, ``delta`` in the last one."""
    return [delta * (n_stages - stage) for stage in range(n_stages)]


def select(
    weights: NDArray[np.float32], fraction: float, delta: float, zero_below: float
) -> Fixing:
    """Return which weights a stage fixes, and to what.

    Every stage begins with nothing fixed, so a weight may get another centre than before.

    Args:
        weights: all shared weights of the network, flat and finite.
        fraction: share of them to fix, in [0, 1]; rounded down to whole weights.
        delta: bound of the mean relative distance |w - c| / |w| of the weights of a centre. With
            the order of the candidates exhausted it doubles until a weight is found.
        zero_below: weights of smaller magnitude are at no distance from 0.

    Raises:
        InputError: a weight is NaN or infinite, or an argument is out of its range.
    """
    flat = finite_weights(weights)
    if not 0 <= fraction <= 1:
        raise InputError(f"fraction is {fraction}, needed a number from 0 to 1")
    if not LEAST_DELTA <= delta < math.inf:
        raise InputError(f"delta is {delta}, needed a number of at least {LEAST_DELTA}")
    if not 0 < zero_below < math.inf:
        raise InputError(f"zero_below is {zero_below}, needed a number above 0")
    left = int(fraction * flat.size)
    centres = np.zeros_like(flat)
    fixed = np.zeros(flat.shape, dtype=np.bool_)
    unassigned = Unassigned(flat, zero_below)
    order, budget = 0, delta
    while left:
        proposed = candidates(delta, zero_below, unassigned.largest, order)
        centre = proposed[np.argmax(unassigned.nearest_counts(proposed))]
        taken = unassigned.take(float(centre), budget, left)
        if taken.size:
            centres[taken], fixed[taken] = centre, True
            left -= taken.size
            budget = delta
        elif order < HIGHEST_ORDER:
            order += 1
        else:
            budget *= 2
    return fixing_of(centres, fixed)


class Unassigned:
    """Weights in ascending order, of which some were taken.

    What is left is a union of segments of the sorted weights: few, as what is taken lies together.
    A *rank* numbers the weights that are left, a *position* all weights.

    Args:
        weights: ``(n,)`` finite.
        zero_below: weights of smaller magnitude are at no distance from 0.
    """

    def __init__(self, weights: NDArray[np.float32], zero_below: float) -> None:
        self._order = np.argsort(weights, kind="stable")
        self._sorted = weights[self._order].astype(np.float64)
        self._zero_below = zero_below
        self._keep(np.array([0]), np.array([weights.size]))

    def __len__(self) -> int:
        return int(self._before[-1])

    @property
    def largest(self) -> float:
        """The largest magnitude that is left; there must be one."""
        return float(max(-self._sorted[self._starts[0]], self._sorted[self._ends[-1] - 1], 0.0))

    def nearest_counts(self, centres: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return for how many weights each centre is the nearest in absolute distance."""
        wide = centres.astype(np.float64)
        borders = self._ranks((wide[1:] + wide[:-1]) / 2, "right")
        return np.diff(borders, prepend=0, append=len(self))

    def take(self, centre: float, budget: float, most: int) -> NDArray[np.int64]:
        """Take the nearest weights of a centre as long as their mean distance is within a budget.

        The mean leaves out weights at no distance where there are several. Distances ascend, so
        the running mean does, and the weights within the budget are the first ones.

        Args:
            centre: what the distances are to.
            budget: bound of the mean.
            most: weights to take, at most.

        Returns:
            Their indices in the network, in no order; none where the nearest is too far.
        """
        runs = self._runs(centre)
        look = _FIRST_LOOK
        while True:
            positions = self._positions(
                np.concatenate(
                    [start + step * np.arange(min(look, count)) for start, count, step in runs]
                )
            )
            distances = self._distances(positions, centre)
            # Whatever was not looked at is as far as the last of its run that was, or farther.
            horizon = math.inf
            seen = 0
            for _, count, _ in runs:
                seen += min(look, count)
                if look < count:
                    horizon = min(horizon, float(distances[seen - 1]))
            if seen < len(self):
                known = distances < horizon
                positions, distances = positions[known], distances[known]
            ascending = np.sort(distances)
            length, ended = within(ascending, budget, horizon)
            if ended or length >= most or seen == len(self):
                length = min(length, most)
                if length < distances.size:
                    positions = self._first(positions, distances, ascending[:length])
                self._remove(np.sort(positions))
                return self._order[positions]
            look *= _LONGER

    def _first(
        self,
        positions: NDArray[np.int64],
        distances: NDArray[np.float64],
        ascending: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Return the positions of some least distances; of equal ones the first in the network.

        Args:
            positions: of weights.
            distances: of the same weights.
            ascending: the least distances, sorted; fewer than there are weights.
        """
        if not ascending.size:
            return positions[:0]
        surely = positions[distances < ascending[-1]]
        tied = positions[distances == ascending[-1]]
        by_index = np.argsort(self._order[tied])
        return np.concatenate([surely, tied[by_index[: ascending.size - surely.size]]])

    def _runs(self, centre: float) -> Sequence[tuple[int, int, int]]:
        """Return runs of ranks (first, count, step) along each of which the distance ascends.

        For a centre above 0 they are the weights from the centre up, those from the centre down
        to 0, and those below 0 from the lowest up: their distance is 1 + c / |w|. All but 0 itself
        are equally far from a centre of 0.
        """
        n = len(self)
        zero = self._zero_below
        if centre > 0:
            low, high = self._rank(0.0, "left"), self._rank(centre, "left")
            return (high, n - high, 1), (high - 1, high - low, -1), (0, low, 1)
        if centre < 0:
            low, high = self._rank(centre, "right"), self._rank(0.0, "right")
            return (low - 1, low, -1), (low, high - low, 1), (n - 1, n - high, -1)
        low, high = self._rank(-zero, "right"), self._rank(zero, "left")
        return (low, high - low, 1), (0, low, 1), (high, n - high, 1)

    def _distances(self, positions: NDArray[np.int64], centre: float) -> NDArray[np.float64]:
        return relative_distances(self._sorted[positions], centre, self._zero_below)

    def _rank(self, value: float, side: str) -> int:
        return int(self._ranks(np.array([value]), side)[0])

    def _ranks(self, values: NDArray[np.float64], side: str) -> NDArray[np.int64]:
        """Return how many of the weights that are left come before each value."""
        # mypy wants the two literals told apart.
        positions = (
            np.searchsorted(self._sorted, values, side="left")
            if side == "left"
            else np.searchsorted(self._sorted, values, side="right")
        )
        segments = np.searchsorted(self._starts, positions, side="right") - 1
        inside = np.minimum(positions, self._ends[segments]) - self._starts[segments]
        return np.where(segments < 0, 0, self._before[segments] + inside)

    def _positions(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        segments = np.searchsorted(self._before, ranks, side="right") - 1
        positions: NDArray[np.int64] = self._starts[segments] + ranks - self._before[segments]
        return positions

    def _remove(self, positions: NDArray[np.int64]) -> None:
        """Remove weights at ascending positions."""
        if positions.size:
            gaps = np.flatnonzero(np.diff(positions) > 1)
            first = positions[np.append(0, gaps + 1)]
            last = positions[np.append(gaps, -1)]
            # A segment [a, b) without [s, e) is [a, s) and [e, b): ends and starts swap roles.
            self._keep(
                np.sort(np.concatenate([self._starts, last + 1])),
                np.sort(np.concatenate([self._ends, first])),
            )

    def _keep(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Note the segments that are left."""
        some = ends > starts
        self._starts, self._ends = starts[some], ends[some]
        self._before = np.append(0, np.cumsum(self._ends - self._starts))


def relative_distances(
    weights: NDArray[np.float64], centre: float, zero_below: float
) -> NDArray[np.float64]:
    """Return |w - c| / |w|; 0 between a centre of 0 and weights below ``zero_below``."""
    sizes = np.abs(weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.abs(weights - centre) / sizes
    if centre == 0:
        distances[sizes < zero_below] = 0
    return distances


def within(distances: NDArray[np.float64], budget: float, horizon: float) -> tuple[int, bool]:
    """Return how many distances the running mean keeps within a budget, and whether that is all.

    Args:
        distances: ascending.
        budget: bound of the mean.
        horizon: a distance that comes next, maybe.

    Returns:
        The length, and whether a distance here or the horizon was too much.
    """
    zeros = int(np.searchsorted(distances, 0, side="right"))
    uncounted = zeros if zeros > 1 else 0
    sums = np.cumsum(distances)
    counted = np.maximum(np.arange(1, distances.size + 1) - uncounted, 1)
    over = np.flatnonzero(sums / counted > budget)
    if over.size:
        return int(over[0]), True
    total = float(sums[-1]) if distances.size else 0.0
    return distances.size, (total + horizon) / max(distances.size + 1 - uncounted, 1) > budget
