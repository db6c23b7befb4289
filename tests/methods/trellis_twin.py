"""Columns along trellises in plain NumPy: the definition the kernel is compared with."""

import numpy as np

from tests.codec.adaptive_twin import TRELLISES


def fix_columns(targets, coupling, variance, penalty, entries, zero, lengths, n_states):
    """Fix every column in turn; return the entries chosen.

    Args:
        targets: ``(groups, columns, rows)`` float32.
        coupling: ``(groups, columns, columns)`` float32.
        variance: ``(groups, columns)`` float32.
        penalty: ``(groups, rows)`` float32.
        entries: ``(n_entries,)`` float32.
        zero: which entry is 0.
        lengths: ``(2, n_entries)`` float32, bits by half.
        n_states: of the trellis.
    """
    moving = targets.copy()
    chosen = np.zeros(targets.shape, dtype=np.int64)
    groups, columns, rows = targets.shape
    for t in range(columns):
        prices = variance[:, t, None] * penalty
        chosen[:, t] = cheapest_path(
            moving[:, t].ravel(), prices.ravel(), entries, zero, lengths, n_states
        ).reshape(groups, rows)
        error = moving[:, t] - entries[chosen[:, t]]
        for s in range(t + 1, columns):
            moving[:, s] -= coupling[:, t, s, None] * error
    return chosen


def cheapest_path(targets, prices, entries, zero, lengths, n_states):
    """Return the entries of the cheapest path through one column."""
    steps = TRELLISES[n_states]
    values = np.arange(len(entries)) - zero
    paths = {0: (0.0, ())}
    for target, price in zip(targets, prices, strict=True):
        distance = target - entries
        best = {}
        for half in (0, 1):
            costs = distance * distance + price * lengths[half]
            for parity in (0, 1):
                member = ((values % 2 == half) | (values == 0)) & (
                    (np.abs(values) + 1) // 2 % 2 == parity
                )
                if member.any():
                    entry = int(np.flatnonzero(member)[costs[member].argmin()])
                    best[half, parity] = float(costs[entry]), entry
        longer = {}
        for state in sorted(paths):
            total, path = paths[state]
            half, *following = steps[state]
            for parity in (0, 1):
                if (half, parity) in best:
                    cost, entry = best[half, parity]
                    reached = following[parity]
                    if reached not in longer or total + cost < longer[reached][0]:
                        longer[reached] = total + cost, (*path, entry)
        paths = longer
    return np.array(min((paths[state] for state in sorted(paths)), key=lambda p: p[0])[1], int)
