"""Asymmetric numeral systems: all coded sources in one stream of 32-bit words.

The state has 64 bits, frequencies sum to 2**24. They are integers computed with integers
(:func:`frequencies`), so every platform has the same. The loops are
:mod:`moeash.codec.static._stack`; tests compare them with a decoder and an encoder by the
specification, and with the ``AnsCoder`` of constriction, which writes the same bytes.

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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moeash.codec.static import _stack
from moeash.codec.static.tables import FRACTION_BITS, RESOLUTIONS, Rows, Table, log2_fixed
from moeash.errors import CorruptContainerError, ExportError

NAME = "ans"
SCALE_BITS = 24
SCALE = 1 << SCALE_BITS
SLACK_BITS = 32
SLACK_PER_SYMBOL = 15  # 2**-15 bits
MAX_SALT = 255
CHUNK = 1 << 20

WINDOW = 1 << 21
"""Words of a stream that are in memory, beside those a run may take."""

STATE_WORDS = 2
"""Words that the state may take before the first symbol."""

WORD_BYTES = 4

MAX_BUCKET_BITS = 12
"""Binary digits of a slot that are looked up at most, before the place that owns it is searched."""

__all__ = ["NAME", "RESOLUTIONS", "costs", "decode", "encode", "flat_levels", "levels", "push"]

# 2**30 * 2**(-i / 8), rounded: written out because the format depends on them.
_EIGHTHS = np.array(
    [1073741824, 984625594, 902905651, 827968132, 759250125, 696235434, 638450708, 585461881],
    dtype=np.int64,
)


class Sliceable(Protocol):
    """Bytes that need not be in memory: of a file, say."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, part: slice, /) -> bytes | memoryview:
        """Return some of them."""


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


@dataclass(frozen=True, eq=False)
class _Slots:
    """The slots of a table.

    Attributes:
        ranks: ``(P,)`` rank of each place, in the order of slots.
        frequencies: ``(P,)`` slots of each place.
        begins: ``(P + 1,)`` first slot of each place, and 2**24.
    """

    ranks: NDArray[np.int32]
    frequencies: NDArray[np.uint32]
    begins: NDArray[np.uint32]

    @classmethod
    def of(cls, table: Table, salt: int) -> "_Slots":
        """Return the slots of a table, rotated by the salt."""
        n = table.symbols.size
        ranks = np.roll(np.arange(n, dtype=np.int32), salt)
        found = frequencies(Rows.listed([table]), table.levels, table.resolution)[ranks]
        begins = np.concatenate([[0], np.cumsum(found)])
        return cls(ranks, found.astype(np.uint32), begins.astype(np.uint32))

    @cached_property
    def by_rank(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Frequency and first slot of each rank."""
        order = np.argsort(self.ranks)
        return self.frequencies[order], self.begins[order]

    @cached_property
    def shift(self) -> int:
        """Every ``2**shift``-th slot is looked up: some per place, and not too many to make."""
        return max(SCALE_BITS - MAX_BUCKET_BITS, SCALE_BITS - 3 - self.ranks.size.bit_length())

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """Which place owns every ``2**shift``-th slot, the last one once more."""
        slots = np.arange(0, SCALE + 1, 1 << self.shift)
        found = np.searchsorted(self.begins, np.minimum(slots, SCALE - 1), side="right") - 1
        return found.astype(np.int32)


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
    for salt in range(MAX_SALT + 1):
        parts: list[bytes] = []
        runs = ((ranks(), table) for ranks, table in reversed(sources) if table.symbols.size > 1)
        if push(runs, reserved, salt, parts.append):
            return b"".join(parts), salt
    raise does_not_fit(reserved)


def does_not_fit(reserved: int) -> ExportError:
    """Return the error of symbols that no salt fits into their bytes."""
    return ExportError(f"no order of slots fits the indices into {reserved} bytes")


def push(
    runs: Iterable[tuple[NDArray[np.int32], Table]],
    reserved: int,
    salt: int,
    write: Callable[[bytes], object],
) -> bool:
    """Write a stream from front to back, and tell whether it fits its bytes.

    The stack grows at the stream's end, and of it only the state is ever read again. So words are
    written as they come, and memory does not grow with the stream.

    Args:
        runs: from the last to the first, ranks and the table they are of; only the tables' own
            identity says which are the same.
        reserved: bytes the stream has.
        salt: rotation of the slots.
        write: takes the next bytes. What it took is worthless if the stream does not fit.
    """
    slots: dict[int, _Slots] = {}
    pieces: list[NDArray[np.uint32]] = []
    state = written = held = 0

    def put() -> bool:
        nonlocal written, held
        part = np.concatenate([*pieces, np.empty(0, np.uint32)]).astype("<u4").tobytes()
        pieces.clear()
        written, held = written + len(part), 0
        if written > reserved:
            return False
        write(part)
        return True

    for ranks, table in runs:
        if table.symbols.size == 1:
            continue
        if id(table) not in slots:
            slots[id(table)] = _Slots.of(table, salt)
        words = np.empty(ranks.size, dtype=np.uint32)
        state, n_words = _stack.push(ranks, *slots[id(table)].by_rank, state, words)
        pieces.append(words[:n_words].copy())  # not a view, which would hold all of it
        held += n_words
        if held > WINDOW and not put():
            return False
    if not put():
        return False
    rest = state.to_bytes(2 * WORD_BYTES, "little").rstrip(b"\0")
    if written + len(rest) > reserved:
        return False
    write(rest.ljust(reserved - written, b"\0"))
    return True


def decode(
    payload: Sliceable, salt: int, sources: Sequence[tuple[Table, int]]
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Yield the position of a source and a run of its ranks, in order, runs of bounded length.

    Args:
        payload: the stream; slices of bounded length are taken, from its end to its beginning.
        salt: rotation of the slots.
        sources: table and number of symbols of each.

    Raises:
        CorruptContainerError: the stream does not lead back to the empty state.
    """
    words = _Words(payload)
    window = words.take(WINDOW)
    state, left = 0, window.size
    slots: dict[int, _Slots] = {}
    for position, (table, n) in enumerate(sources):
        single = table.symbols.size == 1
        if not single and id(table) not in slots:
            slots[id(table)] = _Slots.of(table, salt)
        for begin in range(0, n, CHUNK):
            size = min(CHUNK, n - begin)
            if single:
                yield position, np.zeros(size, dtype=np.int32)
                continue
            # A symbol takes less than a word. The stack must not end here before it ends.
            if words.left and left < size + STATE_WORDS:
                more = words.take(max(WINDOW, size + STATE_WORDS))
                window = np.concatenate([more, window[:left]])
                left = window.size
            own = slots[id(table)]
            places = np.empty(size, dtype=np.int32)
            state, left = _stack.pop(
                state, window, left, own.frequencies, own.begins, own.places, own.shift, places
            )
            yield position, places if salt == 0 else np.take(own.ranks, places)
    if words.left or left or state:
        raise CorruptContainerError("the coded indices do not end where they began")


class _Words:
    """The words of a payload from its end to its beginning, without the zeros it is padded with."""

    def __init__(self, payload: Sliceable) -> None:
        self._payload = payload
        end = len(payload)
        significant = b""
        while end and not significant:
            begin = max(0, end - 4 * WINDOW)
            significant = bytes(payload[begin:end]).rstrip(b"\0")
            end = begin
        self.left = -(-(end + len(significant)) // 4)
        """Words not taken yet."""

    def take(self, n: int) -> NDArray[np.uint32]:
        """Return the last ``n`` words, or all that are left."""
        begin = max(0, self.left - n)
        taken = bytes(self._payload[4 * begin : 4 * self.left]).ljust(
            4 * (self.left - begin), b"\0"
        )
        self.left = begin
        return np.frombuffer(taken, dtype="<u4").astype(np.uint32)
