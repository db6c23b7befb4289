"""Candidate centres: a geometric ladder, each rung approximated by few powers of two.

Two neighbouring rungs m < m' obey (m' - m) / (m' + m) = d: a weight between them is within a
relative distance d of one of them. A rung becomes the sum of at most ``order + 1`` signed powers
of two, so that few values stand for many weights while the order is low.

Source: Weight Fixing Networks (ECCV 2022), the authors' code. Differs: a rung of exactly the
largest magnitude is included, since otherwise weights of exactly ``zero_below`` would have no
centre but 0; the least exponent is rounded down where ``zero_below`` is no power of two; values
are rounded to float32, in which files store them.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LARGEST_STEP = 0.9999
"""Largest relative distance between rungs: at 1 the ladder would have one rung."""


def rungs(delta: float, zero_below: float, largest: float) -> NDArray[np.float64]:
    """Return the ladder from ``zero_below`` to at most ``largest``.

    Args:
        delta: relative distance from a rung to the middle of a gap, above 0.
        zero_below: the first rung.
        largest: magnitude of the largest weight.
    """
    return _ladder(_step(delta), zero_below, _count(_step(delta), zero_below, largest))


def candidates(delta: float, zero_below: float, largest: float, order: int) -> NDArray[np.float32]:
    """Return the centres proposed for weights of at most a magnitude.

    Args:
        delta: relative distance from a rung to the middle of a gap, above 0.
        zero_below: the first rung; smaller weights count as 0.
        largest: magnitude of the largest weight.
        order: powers of two a centre may have, less one.

    Returns:
        ``(k,)``, strictly increasing, symmetric around a 0 that is always there. Read-only. The
        largest may exceed ``largest``: rungs are rounded up or down.
    """
    step = _step(delta)
    return _candidates(step, zero_below, _count(step, zero_below, largest), order)


def powers(values: NDArray[np.float64], least: int) -> NDArray[np.float64]:
    """Return the power of two nearest to each value by its logarithm, with the value's sign.

    Args:
        values: not 0.
        least: smallest exponent.
    """
    exponents = np.maximum(np.rint(np.log2(np.abs(values))), least)
    return np.copysign(np.exp2(exponents), values)


def approximations(
    values: NDArray[np.float64], delta: float, zero_below: float, order: int
) -> NDArray[np.float64]:
    """Return sums of at most ``order + 1`` powers of two near values.

    A further power is added only where the sum is a relative distance of ``delta`` or more away.
    Values below ``zero_below`` in magnitude become 0.
    """
    least = math.floor(math.log2(zero_below)) - order - 1
    sums = np.zeros_like(values)
    far = np.abs(values) >= zero_below
    sums[far] = powers(values[far], least)
    for _ in range(order):
        rest = values - sums
        far &= np.abs(rest) >= delta * np.abs(values)
        # A sum that came back to 0 stays there, as in the reference.
        far &= sums != 0
        if not far.any():
            break
        sums[far] += powers(rest[far], least)
    return sums


def _step(delta: float) -> float:
    return min(delta, LARGEST_STEP)


def _count(step: float, zero_below: float, largest: float) -> int:
    """Return the number of rungs up to a magnitude."""
    if largest < zero_below:
        return 0
    guess = int(math.log(largest / zero_below) / math.log((1 + step) / (1 - step)))
    # The logarithm may be off by a rounding; the rungs themselves decide.
    ladder = _ladder(step, zero_below, guess + 2)
    return int(np.searchsorted(ladder, largest, side="right"))


def _ladder(step: float, zero_below: float, count: int) -> NDArray[np.float64]:
    return zero_below * ((1 + step) / (1 - step)) ** np.arange(count, dtype=np.float64)


@lru_cache(maxsize=256)
def _candidates(step: float, zero_below: float, count: int, order: int) -> NDArray[np.float32]:
    sums = approximations(_ladder(step, zero_below, count), step, zero_below, order)
    values = np.unique(sums.astype(np.float32))
    values = values[values > 0]
    centres = np.concatenate([-values[::-1], np.zeros(1, dtype=np.float32), values])
    centres.flags.writeable = False
    return centres
