"""How many entries a candidate may ask for: what grids and files can hold, and what is of use."""

from collections.abc import Iterable
from math import exp, log
from typing import Annotated

from moeash.core.bins import MAX_BINS
from moeash.options.kinds import Bounds

Bins = Annotated[int, Bounds(1, MAX_BINS)]
"""Bins of a grid."""

Levels = Annotated[int, Bounds(1, MAX_BINS // 2 - 2)]
"""Positive symbols of an alphabet: as many negative ones, a zero, and two for a threshold."""

MOST_BINS = 1 << 16
"""Bins of the finest grid that is of use: an index of two bytes tells as many apart."""

STEPS = (2.0, 0.125)
"""Steps of the coarsest and the finest grid worth trying where there are no images, in standard
deviations of a typical weight: coarser grids make nearly all weights 0, finer ones change them by a
hundredth of their noise or less."""

LEAST_RANGE = 4
"""The finest grid worth trying has at least so many times the bins of the coarsest."""


def spread_bins(low: float, high: float, spreads: Iterable[tuple[float, int]]) -> tuple[int, int]:
    """Return the bins of the coarsest and the finest grid worth trying without any images.

    Their steps are STEPS standard deviations of a typical weight: of the tensors' the geometric
    mean, every weight counted.

    Args:
        low: where grids begin.
        high: where they end.
        spreads: the root mean square of every shared tensor, and how many weights it has.

    Example:
        >>> spread_bins(-4.0, 4.0, [(1.0, 1000)])
        (4, 64)
    """
    known = [(log(spread) * n, n) for spread, n in spreads if spread > 0]
    if not known:
        return 1, LEAST_RANGE
    typical = exp(sum(total for total, _ in known) / sum(n for _, n in known))
    coarse, fine = ((high - low) / (step * typical) for step in STEPS)
    coarsest = min(max(2, round(coarse)), MOST_BINS // LEAST_RANGE)
    return coarsest, min(max(LEAST_RANGE * coarsest, round(fine)), MOST_BINS)
