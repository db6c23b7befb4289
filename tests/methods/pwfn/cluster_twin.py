"""CLUSTER as published: every centre against every weight, again for every centre that is taken.

This is the definition of :func:`moeash.methods.pwfn.clustering.cluster`.
"""

import math
from itertools import combinations_with_replacement

import numpy as np

FLOOR = 2.0**-20


def centres_twin(largest, order, b):
    """Return the centres of an order, by writing every sum out."""
    top = math.ceil(math.log2(largest)) - 1 if largest > 0 else -b - 1
    if largest >= 2.0**-b:
        top = max(top, -b)
    powers = [0.0, *(2.0**k for k in range(-b, top + 1))]
    sums = {sum(terms) for terms in combinations_with_replacement(powers, order)}
    positive = sorted(s for s in sums if 0 < s <= largest)
    return [-s for s in reversed(positive)] + [0.0] + positive


def cluster_twin(means, sigmas, fraction, delta, b):
    """Return the centre of every weight (NaN where it has none), the deviations, and the picks.

    A pick is (centre, members, order, delta).
    """
    mu = means.astype(np.float64)
    sigma = sigmas.astype(np.float64)
    chosen = np.full(len(mu), np.nan)
    left = math.ceil(fraction * len(mu))
    order, counter, picks = 1, 1, []
    while left:
        free = np.flatnonzero(np.isnan(chosen))
        centres = centres_twin(np.abs(mu[free]).max(), order, b)
        while left:
            free = np.flatnonzero(np.isnan(chosen))
            spread = np.maximum(sigma[free], FLOOR)
            low, high = mu[free] - delta * spread, mu[free] + delta * spread
            best, members = None, np.zeros(0, int)
            for centre in centres:
                near = (low <= centre) & (centre <= high)
                if centre == 0:
                    near |= np.abs(mu[free]) < 2.0**-b
                if near.sum() > len(members):
                    best, members = centre, np.flatnonzero(near)
            if best is None:
                break
            d = np.abs(best - mu[free][members]) / spread[members]
            if best == 0:
                d[np.abs(mu[free][members]) < 2.0**-b] = 0
            if len(members) > left:
                members = members[np.argsort(d, kind="stable")[:left]]
            taken = free[members]
            picks.append((best, set(taken.tolist()), order, delta))
            chosen[taken] = best
            sigma[taken] = np.float32(np.std(mu[taken]))
            left -= len(taken)
            centres.remove(best)
        if counter % 2 and order < 4:
            order += 1
        else:
            delta *= 2
        counter += 1
    return chosen, sigma, picks
