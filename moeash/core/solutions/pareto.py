"""Pareto arithmetic. Everything here assumes minimisation.

See :func:`moeash.core.solutions.objectives.as_minimised`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.errors import InputError


def non_dominated(f: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which rows no other row dominates.

    Row a dominates row b iff ``a <= b`` everywhere and ``a < b`` somewhere. Rows with equal values
    do not dominate one another, so all copies of a non-dominated row are kept.

    Args:
        f: ``(n, m)`` finite values to minimise.

    Returns:
        ``(n,)`` bool. Cost is O(n log n) for m <= 2 and O(n * front) above.

    Raises:
        InputError: not two-dimensional, without objectives, or a value is not finite.
    """
    f = np.asarray(f, dtype=np.float64)
    if f.ndim != 2 or f.shape[1] == 0:
        raise InputError(f"expected (n, m) objective values, got shape {f.shape}")
    if not np.isfinite(f).all():
        raise InputError(
            "an objective value is NaN or infinite; failed evaluations have no place on a front"
        )
    n = f.shape[0]
    keep = np.zeros(n, dtype=np.bool_)
    if n == 0:
        return keep
    order = np.lexsort(f.T[::-1])  # by the first objective, then the second, ...
    new = np.ones(n, dtype=np.bool_)
    new[1:] = (f[order[1:]] != f[order[:-1]]).any(axis=1)
    unique = f[order[new]]
    on_front = np.zeros(len(unique), dtype=np.bool_)
    if f.shape[1] == 1:
        on_front[0] = True
    elif f.shape[1] == 2:
        # Sorted by the first objective: a row survives iff its second beats all before it.
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], unique[:-1, 1]]))
        on_front = unique[:, 1] < best_before
    else:
        # A row that dominates another has a smaller sum of ranks, so the one with the smallest of
        # those left is on the front. It lies near the ideal point and takes many others away.
        ranks = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in unique.T]
        left = np.argsort(np.sum(ranks, axis=0), kind="stable")
        columns = [unique[left, i] for i in range(unique.shape[1])]  # each in one piece: faster
        while len(left):
            on_front[left[0]] = True
            better = columns[0] < columns[0][0]
            for column in columns[1:]:
                better |= column < column[0]
            left, columns = left[better], [column[better] for column in columns]
    keep[order] = on_front[np.cumsum(new) - 1]
    return keep


def knee(f: NDArray[Any]) -> int:
    """Return the row of a front that bends most.

    Objectives are scaled to [0, 1] over the front; the knee is the row closest to the ideal point
    in the Euclidean norm, ties to the first. A front of one row is its own knee.

    Args:
        f: ``(n, m)`` mutually non-dominated values to minimise, n >= 1.
    """
    f = np.asarray(f, dtype=np.float64)
    if f.ndim != 2 or f.shape[0] == 0:
        raise InputError(f"a knee needs a front of at least one row, got shape {f.shape}")
    low, high = f.min(axis=0), f.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return int(np.argmin((((f - low) / span) ** 2).sum(axis=1)))
