"""What symbols take in an ANS stream: frequencies from levels, costs, and a stream's bytes.

**Parts.** A stream of fewer than ``PART`` symbols is one stack with one state. A longer one is
divided into parts of so many symbols, which threads decode beside each other; in each of them four
states take turns, which a processor advances beside each other. That costs 36 bytes a part.

**Reserved bytes.** How many bytes a stream takes depends, by a few bits, on the order of its
symbols; a size computed from counts cannot know it. So a stream has the bytes of its ideal length
plus a slack, is padded with zeros, and the encoder checks that it fits. Encoding symbol ``j`` takes
the state ``s`` to about ``s * 2**24 / F``, off by less than ``2**24 - F`` either way:

* from the empty state the first symbol may cost 24 bits instead of its own, and the next one a few
  more: 32 bits of slack. One of four states begins as 2**32 and is written in 64 bits whatever it
  is: 64 bits at most, beside the 32 that say how many words a part has;
* afterwards ``s >= 2**32``, log-uniform over 32 octaves, so one step is off by at most 2**-8.5 and
  on average by ``sum p**2 (c - 1/2)`` of 2**-12 bits (``p`` the probability, ``c`` the middle of
  its slot in [0, 1]), at most 2**-15.7; fixed-point costs add 2**-17: 2**-15 bits per symbol;
* what is left is a random walk of steps below 2**-10, some bits after ten million symbols.

An order that needs more is retried with the slots of all symbols in another order, rotated by the
salt, one byte in the file. (Another initial state would not do: encoding is monotone in the state,
so a larger one never ends smaller, but where a symbol's slot lies decides which way a step is off.)
"""

import numpy as np
from numpy.typing import NDArray

from moeash.codec.static.tables import FRACTION_BITS, Rows, log2_fixed

SCALE_BITS = 24
SCALE = 1 << SCALE_BITS
SLACK_BITS = 32
SLACK_PER_SYMBOL = 15  # 2**-15 bits
MAX_SALT = 255

PART = 1 << 20
"""Symbols from which a stream is divided, and of each part but the last."""

LANES = 4
"""States that take turns in a part of a divided stream."""

FIRST = 1 << 32
"""What each of several states begins as; a state alone begins as 0."""

WORD_BYTES = 4

PART_BITS = LANES * 64 + 8 * WORD_BYTES
"""What a part takes besides its symbols."""


# 2**30 * 2**(-i / 8), rounded: written out because the format depends on them.
_EIGHTHS = np.array(
    [1073741824, 984625594, 902905651, 827968132, 759250125, 696235434, 638450708, 585461881],
    dtype=np.int64,
)


def levels(rows: Rows, resolution: int) -> NDArray[np.int64]:
    """Return ``(P,)`` the levels of every row's symbols."""
    return rows.levels(resolution)


def flat_levels(alphabet: int) -> NDArray[np.int64]:
    """Return the levels of the flat table."""
    return np.ones(alphabet, dtype=np.int64)


def costs(rows: Rows, levels: NDArray[np.int64], resolution: int) -> NDArray[np.int64]:
    """Return ``(P,)`` the cost of coding each symbol once, in 2**-16 bits."""
    return cost_of(frequencies(rows, levels, resolution))


def cost_of(frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the cost of coding symbols of these frequencies once, in 2**-16 bits."""
    return (SCALE_BITS << FRACTION_BITS) - log2_fixed(frequencies)


def frequencies(rows: Rows, levels: NDArray[np.int64], resolution: int) -> NDArray[np.int64]:
    """Return ``(P,)`` frequencies from 1 that sum to 2**24 in every row.

    A symbol ``d`` eighths of an octave below the row's highest level has the weight
    ``w = max(1, EIGHTHS[d % 8] >> (d // 8))``; its frequency is ``1 + w * (2**24 - P) // sum(w)``,
    and the first symbol of the highest level also gets what rounding left over.
    """
    eighths = levels << (3 - resolution)
    below = rows.spread(np.maximum.reduceat(eighths, rows.starts)) - eighths
    weight = np.maximum(_EIGHTHS[below & 7] >> np.minimum(below >> 3, 31), 1)
    frequency: NDArray[np.int64] = 1 + weight * rows.spread(SCALE - rows.lengths) // rows.spread(
        rows.sums(weight)
    )
    highest = np.flatnonzero(below == 0)
    first = highest[np.searchsorted(highest, rows.starts)]
    frequency[first] += SCALE - rows.sums(frequency)
    return frequency


def payload_bytes(cost: int, n_symbols: int) -> int:
    """Return the bytes reserved for a stream.

    Args:
        cost: sum of the :func:`costs` of its symbols, 2**-16 bits.
        n_symbols: number of coded symbols; sources of a single symbol value are not coded.
    """
    if n_symbols == 0:
        return 0
    slack = count_parts(n_symbols) * PART_BITS if is_divided(n_symbols) else SLACK_BITS
    bits = -(-cost >> FRACTION_BITS) + slack + (n_symbols >> SLACK_PER_SYMBOL)
    return -(-bits // 8)


def is_divided(n_symbols: int) -> bool:
    """Tell whether a stream comes in parts."""
    return n_symbols >= PART


def count_parts(n_symbols: int) -> int:
    """Return into how many parts a stream is divided."""
    return -(-n_symbols // PART) if is_divided(n_symbols) else 1


def beginning(n_symbols: int) -> NDArray[np.uint64]:
    """Return what the states begin as, and must end as when a part is decoded."""
    n_states, first = (LANES, FIRST) if is_divided(n_symbols) else (1, 0)
    return np.full(n_states, first, np.uint64)
