"""SELECT as published: every candidate against every weight, all weights sorted for every centre.

This is the definition of :func:`moeash.methods.wfn.select.select`.
"""

import numpy as np

from moeash.methods.wfn.ladder import candidates


def running_means(distances):
    """Return the running means of ascending distances, leading zeros uncounted where several."""
    zeros = int(np.count_nonzero(distances == 0))
    uncounted = zeros if zeros > 1 else 0
    return np.cumsum(distances) / np.maximum(np.arange(1, len(distances) + 1) - uncounted, 1)


def distances_to(weights, centre, zero_below):
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.abs(weights - centre) / np.abs(weights)
    if centre == 0:
        r[np.abs(weights) < zero_below] = 0
    return r


def select_twin(weights, fraction, delta, zero_below):
    """Return the centre of every weight, NaN where it has none."""
    wide = weights.astype(np.float64)
    chosen = np.full(len(wide), np.nan)
    left = int(fraction * len(wide))
    order, budget = 0, delta
    while left:
        free = np.flatnonzero(np.isnan(chosen))
        w = wide[free]
        proposed = candidates(delta, zero_below, np.abs(w).max(), order).astype(np.float64)
        nearest = np.abs(w[:, None] - proposed).argmin(axis=1)
        centre = proposed[np.bincount(nearest, minlength=len(proposed)).argmax()]
        r = distances_to(w, centre, zero_below)
        by_distance = np.argsort(r, kind="stable")
        too_much = np.flatnonzero(running_means(r[by_distance]) > budget)
        length = min(too_much[0] if len(too_much) else len(w), left)
        if length:
            chosen[free[by_distance[:length]]] = centre
            left -= length
            budget = delta
        elif order < 20:
            order += 1
        else:
            budget *= 2
    return chosen
