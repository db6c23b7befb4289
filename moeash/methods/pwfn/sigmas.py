"""How far a weight may move, before anything is learnt: least where it is a power of two.

Source: Probabilistic Weight Fixing (NeurIPS 2023), the authors' code. Differs: a weight of 0 is on
the grid and gets the least deviation (the code divides by 0); where at least three quarters of a
tensor are on the grid, as after pruning, the quantile is that of the others.
"""

import numpy as np
from numpy.typing import NDArray

LEAST, MOST = 2.0**-30, 0.05
"""Bounds of a deviation."""

_TYPICAL, _QUANTILE = 0.0025, 0.75
"""The deviation of a weight whose distance from the grid is this quantile of its tensor's."""


def initial_sigmas(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the standard deviation every weight of one tensor begins with.

    It grows with the product of the relative distances to both neighbouring powers of two, which
    is 0 on a power and largest, 1/8, at 4/3 of the lower one.

    Args:
        means: finite weights of any shape.

    Returns:
        The same shape, in [:data:`LEAST`, :data:`MOST`]; not changed by doubling all weights.
    """
    distances = grid_distances(means)
    off_grid = distances[distances > 0]
    if not off_grid.size:
        return np.full(distances.shape, LEAST, dtype=np.float32)
    usual = float(np.quantile(distances, _QUANTILE)) or float(np.quantile(off_grid, _QUANTILE))
    return np.clip(_TYPICAL * distances / usual, LEAST, MOST).astype(np.float32)


def grid_distances(means: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return |m - up| |m - down| / m^2 with the powers of two around |m|; 0 where m is 0."""
    # m = mantissa 2^exponent with 1/2 <= mantissa < 1, so the powers around it are those of 1/2, 1.
    mantissas = np.abs(np.frexp(np.asarray(means, dtype=np.float64))[0])
    there = mantissas > 0
    distances = np.zeros(mantissas.shape)
    found = mantissas[there]
    distances[there] = (1 - found) * (found - 0.5) / found**2
    return distances
