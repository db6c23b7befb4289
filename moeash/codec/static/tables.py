"""Frequency tables: every symbol that occurs has a level, a quantised logarithm of its count.

A *source* is a run of symbols coded with one static table: the indices of one shared tensor, or
one byte plane of some kept tensors. Only ratios of counts matter, and only roughly: an error of
``d`` octaves in every frequency costs about ``0.17 d**2`` bits per symbol. So a table stores
``round(log2(count) * 2**resolution)`` with a resolution of 1, 1/2, 1/4 or 1/8 octave, whichever
makes table plus payload smallest, as differences of neighbours in Exp-Golomb codes. Entries of a
codebook are sorted, so neighbours have similar counts.

Everything that decides sizes or bytes is integer arithmetic, or is proven to round the same way
on every machine (:func:`log2_fixed`). Decisions depend on counts only, never on the order of
symbols, so a size is known without a pass over the indices.

Tables of many sources are handled at once as :class:`Rows`: the present symbols of all sources in
one flat array. A study sizes thousands of candidates; a loop over tensors would dominate it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.codec.bits import BitReader, BitWriter, golomb_bits, unzigzag, zigzag, zigzags
from moeash.errors import CorruptContainerError

FRACTION_BITS = 16
"""Sizes before rounding are integers in units of 2**-16 bit."""

RESOLUTIONS = (0, 1, 2, 3)
"""A level is 2**-resolution octaves."""

MAX_LEVEL = 512
"""Levels end at 64 octaves of an eighth: more than counts can span."""

ORDERS = (0, 1, 2, 3)
PREDICTORS = (0, 1)
FIRST_ORDER = 3
RUN_ORDER = 1


def log2_fixed(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``round(log2(value) * 2**16)`` for integers in ``[1, 2**24]``.

    No such logarithm, scaled, comes closer than 1e-9 to where rounding changes its mind, and a
    float64 logarithm is good to 1e-10 there: every correct libm gives the same integers. A test
    checks all 2**24 of them.
    """
    fixed: NDArray[np.int64] = np.rint(np.log2(values) * (1 << FRACTION_BITS)).astype(np.int64)
    return fixed


@dataclass(frozen=True, eq=False)
class Rows:
    """The present symbols of several sources over one alphabet, flat.

    Attributes:
        alphabet: number of symbols of the alphabet.
        symbols: ``(P,)`` symbols that occur, increasing within a row.
        counts: ``(P,)`` how often, at least 1.
        starts: ``(S,)`` where each row begins; every row has at least one symbol.
    """

    alphabet: int
    symbols: NDArray[np.int64]
    counts: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, counts: NDArray[np.int64]) -> "Rows":
        """Return the rows of an ``(S, alphabet)`` histogram, none of them empty."""
        n_rows, alphabet = counts.shape
        flat = np.flatnonzero(counts)
        starts = np.searchsorted(flat, np.arange(n_rows) * alphabet)
        return cls(alphabet, flat % alphabet, counts.reshape(-1)[flat], starts)

    @classmethod
    def listed(cls, tables: "Sequence[Table]") -> "Rows":
        """Return the symbols of tables of one resolution, a row each; their counts are unknown."""
        sizes = [table.symbols.size for table in tables]
        symbols = np.concatenate([table.symbols for table in tables])
        starts = np.cumsum([0, *sizes[:-1]])
        return cls(tables[0].alphabet, symbols, np.zeros_like(symbols), starts)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """``(S,)`` present symbols per row."""
        return np.diff(self.starts, append=self.symbols.size)

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """``(P,)`` the row each symbol belongs to."""
        row: NDArray[np.int64] = np.repeat(np.arange(self.starts.size), self.lengths)
        return row

    def sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return ``(S,)`` row sums of ``(P,)`` values."""
        sums: NDArray[np.int64] = np.add.reduceat(values, self.starts)
        return sums

    def spread(self, per_row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return ``(P,)`` values: each row's value at each of its symbols."""
        return np.repeat(per_row, self.lengths)

    def levels(self, resolution: int) -> NDArray[np.int64]:
        """Return ``(P,)`` levels, the least of each row being 1."""
        # log2(count) * 2**resolution is never halfway between integers (it is irrational or an
        # integer), so rounding is the same on every machine.
        raw = np.rint(np.log2(self.counts) * (1 << resolution)).astype(np.int64)
        least: NDArray[np.int64] = np.minimum.reduceat(raw, self.starts)
        levels: NDArray[np.int64] = raw - self.spread(least) + 1
        return levels

    @cached_property
    def support_bits(self) -> NDArray[np.int64]:
        """``(S,)`` bits that tell which symbols are present."""
        first = self.symbols[self.starts]
        last = self.symbols[self.starts + self.lengths - 1]
        bits = np.full(self.starts.size, 2 * symbol_width(self.alphabet) + 1, dtype=np.int64)
        gappy = last - first + 1 != self.lengths
        if gappy.any():
            jump = np.diff(self.symbols, prepend=0)
            jump[self.starts] = 0
            begins = np.flatnonzero(jump != 1)  # where a run of present symbols begins
            run = np.diff(begins, append=self.symbols.size)
            cost = golomb_bits(run - 1, RUN_ORDER).astype(np.int64)
            inner = jump[begins] > 1
            cost[inner] += golomb_bits(jump[begins][inner] - 2, RUN_ORDER)
            bits += gappy * np.bincount(self.row[begins], cost, bits.size).astype(np.int64)
        return bits

    def level_bits(
        self, levels: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return ``(S,)`` bits of the levels, and the predictor and order that give them."""
        first = golomb_bits(levels[self.starts] - 1, FIRST_ORDER).astype(np.int64)
        delta = np.diff(levels, prepend=0)
        delta[self.starts] = 0
        trend = np.concatenate(([0], delta[:-1]))  # the delta before; 0 at the second symbol
        trend[self.starts] = 0
        bits = np.empty((len(PREDICTORS) * len(ORDERS), self.starts.size), dtype=np.int64)
        for predictor in PREDICTORS:
            codes = zigzags(delta - predicted(trend, predictor))
            for order in ORDERS:
                # A row's first symbol has code 0, which costs order + 1 bits that are not written.
                per_row = self.sums(GOLOMB_BITS[order][codes]) - (order + 1)
                bits[predictor * len(ORDERS) + order] = per_row
        best = bits.argmin(axis=0)
        return first + bits.min(axis=0), best // len(ORDERS), best % len(ORDERS)


GOLOMB_BITS = tuple(
    golomb_bits(np.arange(8 * MAX_LEVEL), order).astype(np.int64) for order in ORDERS
)


def predicted(trend: Any, predictor: int) -> Any:
    """Return the step a predictor expects after a step of ``trend``: none, or half of it."""
    return (trend >> 1) if predictor else trend * 0


def symbol_width(alphabet: int) -> int:
    """Return the bits of one symbol written plainly."""
    return (alphabet - 1).bit_length()


@dataclass(frozen=True, eq=False)
class Table:
    """The levels of one source or of a pool of sources.

    Attributes:
        alphabet: number of symbols of the alphabet.
        symbols: ``(P,)`` present symbols, increasing.
        levels: ``(P,)`` levels in ``[1, MAX_LEVEL]``.
        resolution: a level is ``2**-resolution`` octaves; 0 for Huffman code lengths.
        predictor: see :func:`predicted`.
        order: Exp-Golomb order of the differences.
    """

    alphabet: int
    symbols: NDArray[np.int64]
    levels: NDArray[np.int64]
    resolution: int = 0
    predictor: int = 0
    order: int = 0

    def write(self, bits: BitWriter, *, with_resolution: bool) -> None:
        """Write the table; see the format in :mod:`moeash.codec.container`."""
        if with_resolution:
            bits.fixed(self.resolution, 2)
        bits.fixed(self.predictor, 1)
        bits.fixed(self.order, 2)
        width = symbol_width(self.alphabet)
        first, last = int(self.symbols[0]), int(self.symbols[-1])
        bits.fixed(first, width)
        bits.fixed(last, width)
        gappy = last - first + 1 != self.symbols.size
        bits.fixed(int(gappy), 1)
        if gappy:
            ends = np.flatnonzero(np.diff(self.symbols) > 1)
            begins = [0, *(ends + 1).tolist()]
            for begin, end in zip(begins, [*ends.tolist(), self.symbols.size - 1], strict=True):
                if begin:
                    gap = int(self.symbols[begin] - self.symbols[begin - 1])
                    bits.golomb(gap - 2, RUN_ORDER)
                bits.golomb(end - begin, RUN_ORDER)
        levels = self.levels.tolist()
        bits.golomb(levels[0] - 1, FIRST_ORDER)
        trend = 0
        for before, level in pairwise(levels):
            bits.golomb(zigzag(level - before - predicted(trend, self.predictor)), self.order)
            trend = level - before

    @classmethod
    def read(
        cls, bits: BitReader, alphabet: int, n_elements: int, *, with_resolution: bool
    ) -> "Table":
        """Read a table over ``alphabet`` symbols.

        Args:
            bits: the model.
            alphabet: number of symbols.
            n_elements: of the sources that may use it; no more symbols occur.
            with_resolution: whether levels have a resolution.

        Raises:
            CorruptContainerError: symbols or levels out of range, or more than the bits or the
                elements hold.
        """
        resolution = bits.fixed(2) if with_resolution else 0
        predictor, order = bits.fixed(1), bits.fixed(2)
        symbols = _read_symbols(bits, alphabet, n_elements)
        level, trend = bits.golomb(FIRST_ORDER) + 1, 0
        levels = [level]
        for _ in range(symbols.size - 1):
            step = unzigzag(bits.golomb(order)) + predicted(trend, predictor)
            level, trend = level + step, step
            if not 1 <= level <= MAX_LEVEL:
                break
            levels.append(level)
        if not 1 <= level <= MAX_LEVEL:
            raise CorruptContainerError(
                f"a table holds level {level}, above {MAX_LEVEL} or below 1"
            )
        array = np.array(levels, dtype=np.int64)
        return cls(alphabet, symbols, array, resolution, predictor, order)


def flat_table(alphabet: int, levels: NDArray[np.int64]) -> Table:
    """Return a table that is not written, with all symbols present."""
    return Table(alphabet, np.arange(alphabet), levels)


def _read_symbols(bits: BitReader, alphabet: int, n_elements: int) -> NDArray[np.int64]:
    width = symbol_width(alphabet)
    first, last = bits.fixed(width), bits.fixed(width)
    if not first <= last < alphabet:
        raise CorruptContainerError(
            f"a table covers symbols {first} to {last} of an alphabet of {alphabet}"
        )
    if not bits.fixed(1):
        _check_room(bits, last - first, n_elements)
        return np.arange(first, last + 1)
    runs = []
    at, found = first, 0
    while True:
        length = bits.golomb(RUN_ORDER) + 1
        found += length
        _check_room(bits, found - 1, n_elements)
        if at + length - 1 > last:
            raise CorruptContainerError("a table lists symbols past its last one")
        runs.append(np.arange(at, at + length))
        at += length
        if at > last:
            return np.concatenate(runs)
        at += bits.golomb(RUN_ORDER) + 1


def _check_room(bits: BitReader, n_codes: int, n_elements: int) -> None:
    # Every further level takes a bit at least: allocate nothing the bits cannot pay for.
    if n_codes > bits.remaining:
        raise CorruptContainerError("a table lists more symbols than the file has bits")
    if n_codes >= n_elements:
        raise CorruptContainerError(
            f"a table lists more symbols than the {n_elements} elements it is for"
        )
