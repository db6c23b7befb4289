"""Asymmetric numeral systems: all coded sources in one stream of 32-bit words.

The encoder is constriction's ``AnsCoder`` (64-bit state, 24-bit probabilities). Its ``Categorical``
takes floats and quantises them itself, but gives each of ``P`` symbols ``1`` plus a share of
``2**24 - P`` in proportion. Handing it the integers ``F - 1``, which sum to exactly that, makes
its scale exactly one and every float it touches a whole number below ``2**24``. The frequencies
it uses are then ``F``, on every platform and whatever its rounding: they are part of the format,
constriction's arithmetic is not. The decoder is a kernel of our own, ``_ans.pyx``, which writes
symbols where they go and counts them on the way; its definition is in its tests.

**Reserved bytes.** How many bytes a stream takes depends, by a few bits, on the order of its
symbols; a size computed from counts cannot know it. So a stream has the bytes of its ideal length
plus a slack, is padded with zeros, and the encoder checks that it fits. Encoding symbol ``j`` takes
the state ``s`` to about ``s * 2**24 / F``, off by less than ``2**24 - F`` either way:

* from the empty state the first symbol may cost 24 bits instead of its own, and the next one a few
  more: 32 bits of slack;
* afterwards ``s >= 2**32``, log-uniform over 32 octaves, so one step is off by at most 2**-8.5 and
  on average by ``sum p**2 (c - 1/2)`` of 2**-12 bits (``p`` the probability, ``c`` the middle of
  its slot in [0, 1]), at most 2**-15.7; fixed-point costs add 2**-17: 2**-15 bits per symbol;
* what is left is a random walk of steps below 2**-10, some bits after ten million symbols.

An order that needs more is retried with the slots of all symbols in another order, rotated by the
salt, one byte in the file. (Another initial state would not do: encoding is monotone in the state,
so a larger one never ends smaller, but where a symbol's slot lies decides which way a step is off.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import constriction
import numpy as np
from numpy.typing import NDArray

from moeash.codec.static._ans import run
from moeash.codec.static.tables import FRACTION_BITS, RESOLUTIONS, Rows, Table, log2_fixed
from moeash.errors import CorruptContainerError, ExportError

NAME = "ans"
SCALE_BITS = 24
SCALE = 1 << SCALE_BITS
SLACK_BITS = 32
SLACK_PER_SYMBOL = 15  # 2**-15 bits
MAX_SALT = 255

BUCKETS = 1 << 12
"""Runs of slots of equal length, in which the kernel begins to look for a slot's place."""

__all__ = ["NAME", "RESOLUTIONS", "costs", "decode", "encode", "flat_levels", "levels"]

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
    exact = frequencies(rows, levels, resolution)
    return (SCALE_BITS << FRACTION_BITS) - log2_fixed(exact)


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
    bits = -(-cost >> FRACTION_BITS) + SLACK_BITS + (n_symbols >> SLACK_PER_SYMBOL)
    return -(-bits // 8)


def _model(table: Table, salt: int) -> "constriction.stream.model.Categorical | None":
    """Return the model of a table, ``None`` if its only symbol needs none."""
    if table.symbols.size == 1:
        return None
    shares = np.roll(frequencies(Rows.listed([table]), table.levels, table.resolution) - 1, salt)
    return constriction.stream.model.Categorical(shares.astype(np.float32), perfect=False)


def encode(
    sources: Sequence[tuple[Callable[[], NDArray[np.int32]], Table]], reserved: int
) -> tuple[bytes, int]:
    """Return a stream of exactly ``reserved`` bytes, and its salt.

    Args:
        sources: in file order, a function that returns the ranks of the source's symbols among
            those of its table, and the table.
        reserved: from :func:`payload_bytes`.

    Raises:
        ExportError: no salt makes the stream fit.
    """
    tables = {id(table): table for _, table in sources}
    for salt in range(MAX_SALT + 1):
        models = {key: _model(table, salt) for key, table in tables.items()}
        coder = constriction.stream.stack.AnsCoder()
        for ranks, table in reversed(sources):
            if models[id(table)] is not None:
                coder.encode_reverse(_rotated(ranks(), table, salt), models[id(table)])
        words = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
        if len(words) <= reserved:
            return words.ljust(reserved, b"\0"), salt
    raise ExportError(f"no order of slots fits the indices into {reserved} bytes")


def decode(
    payload: bytes, salt: int, targets: Sequence[tuple[Table, NDArray[Any]]]
) -> list[NDArray[np.int64]]:
    """Fill the array of every source with its symbols, in order.

    Args:
        payload: the stream.
        salt: rotation of the slots.
        targets: the table of each source, and ``(n,)`` unsigned integers to be written.

    Returns:
        For every source how often each symbol of its table occurs.

    Raises:
        CorruptContainerError: the stream does not lead back to the empty state.
    """
    words = np.frombuffer(_whole_words(payload), dtype="<u4").astype(np.uint32)
    state, left = 0, words.size
    while left and state < 1 << 32:
        left -= 1
        state = state << 32 | int(words[left])
    machine = np.array([state, left], dtype=np.uint64)
    slots: dict[int, _Slots] = {}
    occurrences = []
    for table, out in targets:
        counts = np.zeros(table.symbols.size, dtype=np.int64)
        occurrences.append(counts)
        if counts.size == 1:
            out[:], counts[:] = table.symbols[0], out.size
            continue
        if id(table) not in slots:
            slots[id(table)] = _Slots.of(table, salt)
        found = slots[id(table)]
        symbols = found.symbols.astype(out.dtype)
        by_place = np.zeros_like(counts)
        run(machine, words, found.starts, found.places, symbols, out, by_place)
        counts[:] = np.roll(by_place, -salt)
    if machine.any():
        raise CorruptContainerError("the coded indices do not end where they began")
    return occurrences


class _Slots(NamedTuple):
    """The slots of a table.

    Attributes:
        starts: ``(P + 1,)`` where the slots of each place begin, and the end of the last.
        places: ``(BUCKETS + 1,)`` the place of the first slot of each bucket, and P.
        symbols: ``(P,)`` the symbol of each place.
    """

    starts: NDArray[np.uint32]
    places: NDArray[np.uint32]
    symbols: NDArray[np.int64]

    @classmethod
    def of(cls, table: Table, salt: int) -> "_Slots":
        frequency = frequencies(Rows.listed([table]), table.levels, table.resolution)
        starts = np.concatenate(([0], np.cumsum(np.roll(frequency, salt))))
        first_bucket = -(-starts // (SCALE // BUCKETS))  # that begins in the place, or behind it
        places = np.append(
            np.repeat(np.arange(frequency.size), np.diff(first_bucket)), frequency.size
        )
        return cls(starts.astype(np.uint32), places.astype(np.uint32), np.roll(table.symbols, salt))


def _rotated(ranks: NDArray[np.int32], table: Table, salt: int) -> NDArray[np.int32]:
    if salt == 0:
        return ranks
    rotated: NDArray[np.int32] = (ranks + np.int32(salt)) % np.int32(table.symbols.size)
    return rotated


def _whole_words(payload: bytes) -> bytes:
    significant = payload.rstrip(b"\0")
    return significant.ljust(-(-len(significant) // 4) * 4, b"\0")
