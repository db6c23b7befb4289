"""CLUSTER: fix a share of all weights to the centres that most weights can move to.

A weight can move to a centre within ``delta`` of its own standard deviations. The centre that most
weights reach takes all of them; when none is reached, centres get a further power of two or
``delta`` grows.

Source: Probabilistic Weight Fixing (NeurIPS 2023), the authors' code. Differs: 0 is looked up by
value, where the code takes the middle row even after rows were removed; which weights are fixed is
known by their index, where the code marks them by an infinite value; ``2**-b`` itself is proposed
whenever a weight is as large, since otherwise weights of exactly that size would have no centre but
0. Ties are broken: the lowest of the centres with equally many weights is taken, and of weights
equally near the earlier in the network.

The code builds a matrix of centres by weights for every centre it takes. Here the centres a weight
reaches are an interval of the sorted centres, found once for each set of centres by binary search.
Counts are sums over the ends of intervals, and the intervals of weights that were taken are
subtracted: O(N log k) for a set of centres, and a look at the weights that are left for each
centre taken.
"""

import math
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from moeash.errors import InputError
from moeash.methods.fixing.outcome import Fixing, finite_weights, fixing_of

LEAST_SIGMA = 2.0**-20
"""Smaller deviations count as this."""

HIGHEST_ORDER = 4
"""Powers of two a centre may have."""

MOST_POWERS = 40
"""Powers of two from the smallest entry to the largest weight: 100,000 sums of four of them."""

GROWTH = 2.0
"""Factor by which ``delta`` grows where no weight is in reach; ``inc`` of the code."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """What a stage fixed.

    Attributes:
        fixing: which weights, and to what.
        sigmas: ``(n,)`` float32; of a fixed weight the standard deviation of the weights that were
            fixed to its centre together, of the others what they had.
    """

    fixing: Fixing
    sigmas: NDArray[np.float32]


def cluster(
    means: NDArray[np.float32],
    sigmas: NDArray[np.float32],
    fraction: float,
    delta: float,
    least_exponent: int,
) -> Clustering:
    """Return which weights a stage fixes, and to what.

    Every stage begins with nothing fixed, so a weight may get another centre than before.

    Args:
        means: all shared weights of the network, flat and finite.
        sigmas: their standard deviations, at least 0.
        fraction: share of them to fix, in [0, 1]; rounded up to whole weights.
        delta: how many deviations a weight moves at most, above 0, until it has to grow.
        least_exponent: centres are sums of powers of two from ``2**least_exponent`` up; smaller
            weights are at no distance from 0.

    Raises:
        InputError: a mean or deviation is NaN or infinite, or an argument is out of its range.
    """
    flat = finite_weights(means)
    spread = np.asarray(sigmas, dtype=np.float32).ravel()
    if spread.shape != flat.shape or not (np.isfinite(spread) & (spread >= 0)).all():
        raise InputError(
            f"sigmas have shape {np.shape(sigmas)} for {flat.size:,} weights, or one is negative, "
            "NaN or infinite; needed a finite one of at least 0 for each weight"
        )
    if not 0 <= fraction <= 1:
        raise InputError(f"fraction is {fraction}, needed a number from 0 to 1")
    if not 0 < delta < math.inf:
        raise InputError(f"delta is {delta}, needed a number above 0")
    largest = float(np.abs(flat).max(initial=0))
    if largest > 2.0 ** (least_exponent + MOST_POWERS):
        raise InputError(
            f"a weight is {largest:.3g}, more than 2**{MOST_POWERS} times the smallest entry; "
            "raise zero_below, or keep its parameter out of sharing"
        )
    work = _Work(flat, spread, least_exponent, math.ceil(fraction * flat.size))
    order = 1
    for tries in count(1):
        if not work.left:
            break
        work.take_all(order, delta)
        if tries % 2 and order < HIGHEST_ORDER:
            order += 1
        else:
            delta *= GROWTH
    return Clustering(fixing_of(work.centres, work.fixed), work.sigmas)


def proposed_centres(largest: float, order: int, least_exponent: int) -> NDArray[np.float32]:
    """Return all sums of at most ``order`` powers of two up to a magnitude, 0, and their negatives.

    A power may occur repeatedly. The highest is the last one below ``largest``.

    Returns:
        ``(k,)``, strictly increasing, rounded to float32.
    """
    highest = math.ceil(math.log2(largest)) - 1 if largest > 0 else least_exponent - 1
    if largest >= 2.0**least_exponent:
        highest = max(highest, least_exponent)
    terms = np.append(0.0, np.exp2(np.arange(least_exponent, highest + 1, dtype=np.float64)))
    sums = np.zeros(1)
    for _ in range(order):
        sums = np.unique(sums[:, None] + terms)
        sums = sums[sums <= largest]
    positive = np.unique(sums[sums > 0].astype(np.float32))
    return np.concatenate([-positive[::-1], np.zeros(1, dtype=np.float32), positive])


def reach(
    means: NDArray[np.float32], sigmas: NDArray[np.float32], delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the interval each weight may move in, both included."""
    wide = delta * np.maximum(sigmas.astype(np.float64), LEAST_SIGMA)
    return means - wide, means + wide


class _Work:
    """The state of a stage.

    Attributes:
        centres: ``(n,)``, the centre of each fixed weight.
        fixed: ``(n,)``.
        sigmas: ``(n,)``.
        left: weights still to be fixed.
    """

    def __init__(
        self,
        means: NDArray[np.float32],
        sigmas: NDArray[np.float32],
        least_exponent: int,
        quota: int,
    ) -> None:
        self.centres = np.zeros_like(means)
        self.fixed = np.zeros(means.shape, dtype=np.bool_)
        self.sigmas = sigmas.copy()
        self.left = quota
        self._means = means
        self._least_exponent = least_exponent

    def take_all(self, order: int, delta: float) -> None:
        """Fix weights to the centres of one order, the fullest first, until none is in reach."""
        free = np.flatnonzero(~self.fixed)
        means = self._means[free]
        tiny = np.abs(means) < 2.0**self._least_exponent
        centres = proposed_centres(float(np.abs(means).max()), order, self._least_exponent)
        low, high = reach(means, self.sigmas[free], delta)
        first = np.searchsorted(centres, low, side="left")
        last = np.searchsorted(centres, high, side="right")
        # Centres are multiples of the least power, so 0 is next to whatever a tiny weight reaches.
        zero = int(np.searchsorted(centres, 0))
        first[tiny] = np.minimum(first[tiny], zero)
        last[tiny] = np.maximum(last[tiny], zero + 1)
        some = last > first
        free, first, last = free[some], first[some], last[some]
        counts = _stabbed(first, last, centres.size)
        while self.left and counts.size and counts.max() > 0:
            best = int(np.argmax(counts))
            members = (first <= best) & (last > best)
            self._fix(free[members], centres[best])
            counts -= _stabbed(first[members], last[members], centres.size)
            counts[best] = 0
            free, first, last = free[~members], first[~members], last[~members]

    def _fix(self, members: NDArray[np.int64], centre: np.float32) -> None:
        """Fix weights to a centre, the nearest in their own deviations first."""
        if members.size > self.left:
            distances = deviations(
                self._means[members], self.sigmas[members], float(centre), self._least_exponent
            )
            members = members[np.argsort(distances, kind="stable")[: self.left]]
        self.left -= members.size
        self.fixed[members] = True
        self.centres[members] = centre
        self.sigmas[members] = np.std(self._means[members], dtype=np.float64)


def deviations(
    means: NDArray[np.float32], sigmas: NDArray[np.float32], centre: float, least_exponent: int
) -> NDArray[np.float64]:
    """Return |c - m| / sigma; 0 between a centre of 0 and weights below ``2**least_exponent``."""
    spread = np.maximum(sigmas.astype(np.float64), LEAST_SIGMA)
    distances = np.abs(centre - means.astype(np.float64)) / spread
    if centre == 0:
        distances[np.abs(means) < 2.0**least_exponent] = 0
    return distances


def _stabbed(
    first: NDArray[np.int64], last: NDArray[np.int64], n_centres: int
) -> NDArray[np.int64]:
    """Return in how many intervals [first, last) each centre lies."""
    begun = np.bincount(first, minlength=n_centres + 1)
    ended = np.bincount(last, minlength=n_centres + 1)
    return np.cumsum(begun - ended)[:n_centres]
