"""Columns along trellises in plain NumPy: the definition the kernel is compared with."""

import numpy as np

from tests.codec.adaptive.twin import TRELLISES


def fix_columns(
    targets,
    coupling,
    variance,
    penalty,
    entries,
    zero,
    lengths,
    n_states,
    *,
    between=None,
):
    """Fix every column in turn; return the entries chosen.

    Args:
        targets: ``(groups, columns, rows)`` float32.
        coupling: ``(groups, columns, columns)`` float32.
        variance: ``(groups, columns)`` float32.
        penalty: ``(groups, rows)`` float32.
        entries: ``(n_entries,)`` float32.
        zero: which entry is 0.
        lengths: ``(2, n_entries)`` float32, bits by half.
        n_states: of the trellis; 0: one state, every entry open.
        between: ``(groups, rows, rows)`` float32; None: rows do not influence one another.
    """
    moving = targets.copy()
    chosen = np.zeros(targets.shape, dtype=np.int64)
    groups, columns, rows = targets.shape
    for t in range(columns):
        prices = variance[:, t, None] * penalty
        chosen[:, t] = cheapest_path(
            moving[:, t].ravel(),
            prices.ravel(),
            entries,
            zero,
            lengths,
            n_states,
            between=between,
        ).reshape(groups, rows)
        error = moving[:, t] - entries[chosen[:, t]]
        for s in range(t + 1, columns):
            moving[:, s] -= coupling[:, t, s, None] * error
    return chosen


def cheapest_path(targets, prices, entries, zero, lengths, n_states, *, between=None):
    """Return the entries of the cheapest path through one column.

    Where rows influence one another, every path carries the targets it left to later rows.
    """
    steps = TRELLISES[n_states]
    values = np.arange(len(entries)) - zero
    rows = len(targets) if between is None else between.shape[1]
    paths = {0: (0.0, (), targets)}
    for i, price in enumerate(prices):
        longer = {}
        for state in sorted(paths):
            total, path, own = paths[state]
            half, *following = steps[state]
            distance = own[i] - entries
            costs = distance * distance + price * lengths[half]
            for parity in (0, 1):
                if n_states:
                    member = ((values % 2 == half) | (values == 0)) & (
                        (np.abs(values) + 1) // 2 % 2 == parity
                    )
                else:
                    member = np.full(len(entries), parity == 0)
                if not member.any():
                    continue
                entry = int(np.flatnonzero(member)[costs[member].argmin()])
                cost = float(costs[entry])
                reached = following[parity]
                if reached in longer and total + cost >= longer[reached][0]:
                    continue
                left = own
                if between is not None:
                    left, (group, row) = own.copy(), divmod(i, rows)
                    later = slice(i + 1, (group + 1) * rows)
                    left[later] -= distance[entry] * between[group, row, row + 1 :]
                longer[reached] = total + cost, (*path, entry), left
        paths = longer
    return np.array(min((paths[state] for state in sorted(paths)), key=lambda p: p[0])[1], int)
