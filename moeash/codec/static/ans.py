"""Asymmetric numeral systems: all coded sources in one stream of 32-bit words.

The coder is constriction's ``AnsCoder`` (64-bit state, 24-bit probabilities). Its ``Categorical``
takes floats and quantises them itself, but gives each of ``P`` symbols ``1`` plus a share of
``2**24 - P`` in proportion. Handing it the integers ``F - 1``, which sum to exactly that, makes
its scale exactly one and every float it touches a whole number below ``2**24``. The frequencies
it uses are then ``F``, on every platform and whatever its rounding: they are part of the format,
constriction's arithmetic is not. A test reads the stream with a decoder of its own.

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
from typing import Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

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
"""Words of the state of a coder that holds more than its state."""

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

    The stack grows at the stream's end, and only its top is ever read again. So what lies below is
    written as it comes, and memory does not grow with the stream.

    Args:
        runs: from the last to the first, ranks and the table they are of; only the tables' own
            identity says which are the same.
        reserved: bytes the stream has.
        salt: rotation of the slots.
        write: takes the next bytes. What it took is worthless if the stream does not fit.
    """
    models: dict[int, constriction.stream.model.Categorical | None] = {}
    coder = constriction.stream.stack.AnsCoder()
    written = 0
    for ranks, table in runs:
        if id(table) not in models:
            models[id(table)] = _model(table, salt)
        model = models[id(table)]
        if model is None:
            continue
        coder.encode_reverse(_rotated(ranks, table, salt), model)
        if coder.num_words() > WINDOW:
            words = coder.get_compressed()
            below = words[:-STATE_WORDS].astype("<u4").tobytes()
            written += len(below)
            if written > reserved:
                return False
            write(below)
            coder = constriction.stream.stack.AnsCoder(words[-STATE_WORDS:])
    rest = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
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
    coder = constriction.stream.stack.AnsCoder(words.take(WINDOW))
    models: dict[int, constriction.stream.model.Categorical | None] = {}
    for position, (table, n) in enumerate(sources):
        if id(table) not in models:
            models[id(table)] = _model(table, salt)
        model = models[id(table)]
        for begin in range(0, n, CHUNK):
            size = min(CHUNK, n - begin)
            # A symbol takes less than a word. The coder must not see an end before there is one.
            if words.left and coder.num_words() < size + STATE_WORDS:
                more = words.take(max(WINDOW, size + STATE_WORDS))
                coder = constriction.stream.stack.AnsCoder(
                    np.concatenate([more, coder.get_compressed()])
                )
            if model is None or coder.is_empty():
                # The empty state stays so: all it decodes to is the symbol in the first place.
                first = np.zeros(size, dtype=np.int32)
                yield position, first if model is None else _rotated(first, table, -salt)
            else:
                yield position, _rotated(coder.decode(model, size), table, -salt)
    if words.left or not coder.is_empty():
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


def _rotated(ranks: NDArray[np.int32], table: Table, salt: int) -> NDArray[np.int32]:
    if salt == 0:
        return ranks
    rotated: NDArray[np.int32] = (ranks + np.int32(salt)) % np.int32(table.symbols.size)
    return rotated
