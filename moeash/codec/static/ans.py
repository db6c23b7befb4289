"""Asymmetric numeral systems: all coded sources in one stream of 32-bit words.

A state has 64 bits, frequencies sum to 2**24 (:mod:`moeash.codec.static.rates`, which also says how
a stream is divided and how many bytes it has). The loops are :mod:`moeash.codec.static._stack`;
tests compare them with a decoder and an encoder by the specification, and with the ``AnsCoder`` of
constriction, which writes the same bytes of one state.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moeash.codec.static import _stack, rates
from moeash.codec.static.rates import (
    cost_of,
    costs,
    flat_levels,
    frequencies,
    levels,
    payload_bytes,
)
from moeash.codec.static.tables import FRACTION_BITS, RESOLUTIONS, Rows, Table
from moeash.errors import CorruptContainerError, ExportError
from moeash.runtime.threads import available_cores, spread

NAME = "ans"

__all__ = [
    "NAME",
    "RESOLUTIONS",
    "costs",
    "encode",
    "fill",
    "flat_levels",
    "levels",
    "payload_bytes",
    "push",
    "runs",
]


class Sliceable(Protocol):
    """Bytes that need not be in memory: of a file, say."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, part: slice, /) -> bytes | memoryview:
        """Return some of them."""


class _Tables:
    """Frequencies and slots of tables; which are the same is told by their identity."""

    def __init__(self, salt: int, tables: Iterable[Table] = ()) -> None:
        self._salt = salt
        self._slots: dict[int, _stack.Slots] = {}
        self._frequencies: dict[int, NDArray[np.int64]] = {}
        self.add(tables)

    def add(self, tables: Iterable[Table]) -> None:
        """Compute the frequencies of tables, all at once, as there may be a thousand."""
        known = {id(table): table for table in tables}
        for resolution in RESOLUTIONS:
            alike = [table for table in known.values() if table.resolution == resolution]
            if alike:
                rows = Rows.listed(alike)
                found = frequencies(rows, np.concatenate([t.levels for t in alike]), resolution)
                parts = np.split(found, rows.starts[1:])
                self._frequencies.update(zip(map(id, alike), parts, strict=True))

    def slots(self, table: Table) -> _stack.Slots:
        """Return the slots of a table."""
        if id(table) not in self._slots:
            if id(table) not in self._frequencies:
                self.add([table])
            self._slots[id(table)] = _stack.Slots(self._frequencies[id(table)], self._salt)
        return self._slots[id(table)]

    def cost(self, sources: Iterable[tuple[Table, NDArray[np.int64]]]) -> int:
        """Return the cost of symbols of tables added that occur so often, 2**-16 bits."""
        pairs = [(self._frequencies[id(table)], counts) for table, counts in sources]
        if not pairs:
            return 0
        each = cost_of(np.concatenate([found for found, _ in pairs]))
        return int((each * np.concatenate([counts for _, counts in pairs])).sum())


def encode(
    sources: Sequence[tuple[Callable[[], NDArray[np.int32]], Table, int]], reserved: int
) -> tuple[bytes, int]:
    """Return a stream of exactly ``reserved`` bytes, and its salt.

    Args:
        sources: in file order, a function that returns the ranks of the source's symbols among
            those of its table, the table, and the number of symbols.
        reserved: from :func:`payload_bytes`.

    Raises:
        ExportError: no salt makes the stream fit.
    """
    coded = [(ranks, table, n) for ranks, table, n in sources if table.symbols.size > 1]
    n_symbols = sum(n for _, _, n in coded)
    for salt in range(rates.MAX_SALT + 1):
        parts: list[bytes] = []
        runs = ((ranks(), table) for ranks, table, _ in reversed(coded))
        if push(runs, n_symbols, reserved, salt, parts.append):
            return b"".join(parts), salt
    raise does_not_fit(reserved)


def does_not_fit(reserved: int) -> ExportError:
    """Return the error of symbols that no salt fits into their bytes."""
    return ExportError(f"no order of slots fits the indices into {reserved} bytes")


def push(
    runs: Iterable[tuple[NDArray[np.int32], Table]],
    n_symbols: int,
    reserved: int,
    salt: int,
    write: Callable[[bytes], object],
) -> bool:
    """Write a stream from front to back, and tell whether it fits its bytes.

    A stack grows at its end, and the parts stand in the file from the last to the first. So they
    are written as they come, and memory does not grow with the stream.

    Args:
        runs: from the last to the first, ranks and the table they are of.
        n_symbols: how many they are in all.
        reserved: bytes the stream has.
        salt: rotation of the slots.
        write: takes the next bytes. What it took is worthless if the stream does not fit.
    """
    tables = _Tables(salt)
    divided = rates.is_divided(n_symbols)
    states = rates.beginning(n_symbols)
    pieces: list[NDArray[np.uint32]] = []
    lengths: list[int] = []
    room, end = reserved, n_symbols
    for ranks, table in runs:
        high = ranks.size
        while high:
            first = (end - 1) // rates.PART * rates.PART if divided else 0
            low = max(0, high - (end - first))
            end -= high - low
            words = np.empty(high - low, dtype=np.uint32)
            n_words = _stack.push(tables.slots(table), ranks[low:high], end - first, states, words)
            pieces.append(words[:n_words].copy())  # not a view, which would hold all of it
            high = low
            if divided and end == first:
                # The first state is on top, the upper half of each above its lower half.
                pieces.append(states[::-1].astype("<u8").view("<u4").astype(np.uint32))
                part = np.concatenate(pieces).astype("<u4").tobytes()
                room -= len(part) + rates.WORD_BYTES
                if room < 0:
                    return False
                write(part)
                lengths.insert(0, len(part) // rates.WORD_BYTES)
                pieces.clear()
                states = rates.beginning(n_symbols)
    assert end == 0
    if divided:
        write(bytes(room) + np.array(lengths, dtype="<u4").tobytes())
        return True
    pieces.append(states.astype("<u8").view("<u4").astype(np.uint32))
    stack = np.concatenate(pieces).astype("<u4").tobytes().rstrip(b"\0")
    if len(stack) <= room:
        write(stack.ljust(room, b"\0"))
    return len(stack) <= room


class Piece(NamedTuple):
    """Symbols of one source within one part.

    Attributes:
        source: its position.
        begin: symbols of the source before these.
        size: how many they are.
        at: symbols of the part before these.
    """

    source: int
    begin: int
    size: int
    at: int


class Stream:
    """A payload that is read part by part, in any order, by threads or not.

    Args:
        payload: the stream.
        salt: rotation of the slots.
        sources: in file order, table and number of symbols of each that has more than one symbol.

    Attributes:
        parts: the pieces of every part, in file order.

    Raises:
        CorruptContainerError: the payload has no such parts.
    """

    def __init__(self, payload: Sliceable, salt: int, sources: Sequence[tuple[Table, int]]) -> None:
        self._payload = payload
        self._tables = _Tables(salt, (table for table, _ in sources))
        self._sources = sources
        self._n_symbols = sum(n for _, n in sources)
        dearest = self._n_symbols * (rates.SCALE_BITS << FRACTION_BITS)
        longest = payload_bytes(dearest, self._n_symbols)
        if len(payload) > longest:
            raise CorruptContainerError(
                f"the coded indices take {longest} bytes at most, but the file has {len(payload)}"
            )
        self.parts = list(_divided([n for _, n in sources], self._n_symbols))
        self._ends = self._end_of_parts()

    def _end_of_parts(self) -> list[int]:
        """Return where in the payload the stack of every part ends, and the last one begins."""
        if not rates.is_divided(self._n_symbols):
            return [len(self._payload), 0]
        end = max(0, len(self._payload) - rates.WORD_BYTES * len(self.parts))
        n_words = np.frombuffer(self._payload[end:], dtype="<u4").astype(np.int64)
        ends = [*(rates.WORD_BYTES * np.cumsum(n_words[::-1])[::-1]).tolist(), 0]
        most = rates.PART + 2 * rates.LANES
        if n_words.max() > most or not 0 <= end - ends[0] <= payload_bytes(0, self._n_symbols):
            raise CorruptContainerError("the parts of the coded indices do not fill their bytes")
        if any(self._payload[ends[0] : end]):
            raise CorruptContainerError("there is something behind the coded indices")
        return ends

    def read(
        self, part: int, out: Callable[[Piece], NDArray[Any]]
    ) -> list[tuple[Piece, NDArray[np.int64]]]:
        """Decode a part.

        Args:
            part: which one.
            out: returns where the symbols of a piece go: ``(size,)`` uint8, uint16 or uint32.

        Returns:
            Every piece, and ``(P,)`` how often each symbol of its table is in it.

        Raises:
            CorruptContainerError: the stream does not lead back to where it began.
        """
        states, words = self._stack(part)
        left = words.size
        for lane in range(states.size):
            for _ in range(min(2, left)):
                left -= 1
                states[lane] = int(states[lane]) << 32 & 0xFFFFFFFFFFFFFFFF | int(words[left])
        wanted = rates.beginning(self._n_symbols)
        if (states < wanted).any():
            raise CorruptContainerError("the coded indices begin with a state that is none")
        found = []
        for piece in self.parts[part]:
            table, _ = self._sources[piece.source]
            target = out(piece)
            counts = np.zeros(table.symbols.size, dtype=np.int64)
            symbols = table.symbols.astype(target.dtype)
            slots = self._tables.slots(table)
            left = _stack.pop(slots, states, piece.at, words, left, symbols, counts, target)
            found.append((piece, counts))
        if left or (states != wanted).any():
            raise CorruptContainerError("the coded indices do not end where they began")
        return found

    def _stack(self, part: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Return empty states and the words of a part."""
        states = np.zeros(rates.beginning(self._n_symbols).size, dtype=np.uint64)
        stack = bytes(self._payload[self._ends[part + 1] : self._ends[part]])
        if not rates.is_divided(self._n_symbols):
            stack = stack.rstrip(b"\0")
            stack = stack.ljust(-(-len(stack) // rates.WORD_BYTES) * rates.WORD_BYTES, b"\0")
        return states, np.frombuffer(stack, dtype="<u4").astype(np.uint32, copy=False)

    def finish(self, counts: Sequence[NDArray[np.int64]]) -> None:
        """Check that the payload has the bytes of its symbols, to the byte.

        Args:
            counts: of every source, the sum of what :meth:`read` returned.

        Raises:
            CorruptContainerError: it has more or fewer.
        """
        found = ((table, n) for (table, _), n in zip(self._sources, counts, strict=True))
        needed = payload_bytes(self._tables.cost(found), self._n_symbols)
        if len(self._payload) != needed:
            raise CorruptContainerError(
                f"the coded indices take {needed} bytes, but the file has {len(self._payload)}"
            )


def _divided(sizes: Sequence[int], n_symbols: int) -> Iterator[list[Piece]]:
    """Yield the pieces of every part of sources of these sizes."""
    room = rates.PART if rates.is_divided(n_symbols) else n_symbols
    pieces: list[Piece] = []
    at = 0
    for source, size in enumerate(sizes):
        begin = 0
        while begin < size:
            taken = min(size - begin, room - at)
            pieces.append(Piece(source, begin, taken, at))
            begin, at = begin + taken, at + taken
            if at == room:
                yield pieces
                pieces, at = [], 0
    if pieces or n_symbols == 0:
        yield pieces


def runs(
    payload: Sliceable,
    salt: int,
    sources: Sequence[tuple[Table, int]],
    dtype: Callable[[int], np.dtype[Any]],
) -> Iterator[NDArray[Any]]:
    """Yield the symbols of all sources, in order, a part of the stream in memory at a time.

    Args:
        payload: the stream.
        salt: rotation of the slots.
        sources: as :class:`Stream`.
        dtype: of the symbols of a source, by its position: uint8, uint16 or uint32.

    Raises:
        CorruptContainerError: it is no stream of these tables, or has more bytes than it takes.
    """
    stream = Stream(payload, salt, sources)
    counts = [np.zeros(table.symbols.size, dtype=np.int64) for table, _ in sources]
    for part in range(len(stream.parts)):
        arrays: list[NDArray[Any]] = []

        def make(piece: Piece, arrays: list[NDArray[Any]] = arrays) -> NDArray[Any]:
            arrays.append(np.empty(piece.size, dtype=dtype(piece.source)))
            return arrays[-1]

        for piece, found in stream.read(part, make):
            counts[piece.source] += found
        yield from arrays
    stream.finish(counts)


def fill(
    payload: Sliceable, salt: int, targets: Sequence[tuple[Table, NDArray[Any]]]
) -> list[NDArray[np.int64]]:
    """Decode a stream, with as many threads as there are cores and parts.

    Args:
        payload: the stream.
        salt: rotation of the slots.
        targets: in file order, the table of every source and where its symbols go: uint8, uint16
            or uint32.

    Returns:
        For every source, ``(P,)`` how often each symbol of its table occurs.

    Raises:
        CorruptContainerError: it is no stream of these tables, or has more bytes than it takes.
    """
    coded = [(table, out) for table, out in targets if table.symbols.size > 1]
    stream = Stream(payload, salt, [(table, out.size) for table, out in coded])
    counts = [np.zeros(table.symbols.size, dtype=np.int64) for table, _ in coded]

    def read(part: int) -> list[tuple[Piece, NDArray[np.int64]]]:
        return stream.read(part, lambda p: coded[p.source][1][p.begin : p.begin + p.size])

    for pieces in spread(read, range(len(stream.parts)), available_cores()):
        for piece, more in pieces:
            counts[piece.source] += more
    stream.finish(counts)
    for table, out in targets:
        if table.symbols.size == 1:
            out[:] = table.symbols[0]
    every = iter(counts)
    return [
        next(every) if table.symbols.size > 1 else np.array([out.size]) for table, out in targets
    ]
