"""Counts and means of the bins of any grid in O(k log N), from weights sorted once.

A search tries hundreds of grids on the same weights. Bins are intervals of the sorted weights, so a
grid needs one binary search per bin and tensor instead of a pass over all weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from moeash.core import _bins
from moeash.core.bins import POSITION_DTYPE, Grid, Indices
from moeash.core.codebook import COUNT_DTYPE, ENTRY_DTYPE, Codebook, index_dtype
from moeash.errors import InputError, NonFiniteWeightError

Centre = Literal["mean", "midpoint"]
"""The value a bin stands for: the mean of its members (least squared error), or its middle."""

_PIECE = 1 << 20  # weights squared at a time: 8 MB

_BLOCK = 64  # weights per prefix sum: a quarter of a byte per weight, at most 126 additions per bin


@dataclass(frozen=True, eq=False)
class BinStatistics:
    """The weights of some tensors, sorted, ready to be counted on any grid.

    Attributes:
        ordered: one ``(n,)`` increasing float32 or float64 array per tensor.
        prefixes: per tensor ``(2, n // 64 + 1)`` float64, high and low part of the sums of the
            first 64 b weights.
        low: lowest weight of all tensors.
        high: highest weight of all tensors.
    """

    ordered: tuple[NDArray[np.floating[Any]], ...]
    prefixes: tuple[NDArray[np.float64], ...]
    low: float
    high: float

    @classmethod
    def from_tensors(cls, tensors: Sequence[NDArray[np.floating[Any]]]) -> Self:
        """Sort each tensor once.

        Args:
            tensors: float16, float32 or float64 of any shape, finite, at least one weight in all.
                float16 is held as float32, which is exact.

        Raises:
            NonFiniteWeightError: a tensor holds NaN or infinity.
            InputError: there is no weight, or a tensor is not one of the above.
        """
        ordered = [_sorted(tensor, f"#{position}") for position, tensor in enumerate(tensors)]
        ends = [end for weights in ordered if weights.size for end in (weights[0], weights[-1])]
        if not ends:
            raise InputError("there are no weights to share; include at least one parameter")
        return cls(
            tuple(ordered),
            tuple(_block_prefix(weights) for weights in ordered),
            float(min(ends)),
            float(max(ends)),
        )

    @property
    def n_weights(self) -> int:
        """Number of weights of all tensors."""
        return sum(weights.size for weights in self.ordered)

    @property
    def spreads(self) -> list[tuple[float, int]]:
        """The root mean square of the weights of each tensor, and how many there are."""
        return [(_root_mean_square(weights), weights.size) for weights in self.ordered]

    def counts(self, grid: Grid) -> NDArray[np.int64]:
        """Return how many weights of each tensor ``bins.assign_bins`` puts in each bin.

        Returns:
            ``(n_tensors, n_bins)`` int64.
        """
        return np.diff(self._positions(grid), axis=1)

    def sums(self, grid: Grid) -> NDArray[np.float64]:
        """Return the sum of the weights of each tensor in each bin.

        Correct to the rounding of the weights of that bin alone; equal members give exactly their
        number times their value.

        Returns:
            ``(n_tensors, n_bins)`` float64, in the unit of the weights.
        """
        return self.histogram(grid)[1]

    def histogram(self, grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return :meth:`counts` and :meth:`sums` for the price of the latter."""
        positions = self._positions(grid)
        sums = np.empty((len(self.ordered), grid.n_bins), POSITION_DTYPE)
        for row, (weights, (high, low)) in enumerate(zip(self.ordered, self.prefixes, strict=True)):
            _bins.range_sums(weights, positions[row], _BLOCK, high, low, sums[row])
        return np.diff(positions, axis=1), sums

    def _positions(self, grid: Grid) -> NDArray[np.int64]:
        """Return where each bin begins in each sorted tensor, ``(n_tensors, n_bins + 1)`` int64."""
        begins = {dtype: thresholds(grid, dtype) for dtype in {w.dtype for w in self.ordered}}
        positions = np.zeros((len(self.ordered), grid.n_bins + 1), COUNT_DTYPE)
        for row, weights in zip(positions, self.ordered, strict=True):
            row[1:-1] = weights.searchsorted(begins[weights.dtype])
            row[-1] = weights.size
        return positions


@dataclass(frozen=True, eq=False)
class Binning:
    """A codebook made of the occupied bins of a grid.

    Attributes:
        codebook: the centres, as float32.
        lookup: ``(n_bins,)`` entry of each bin, for :func:`~moeash.core.bins.assign_bins`; an empty
            bin maps to a neighbour.
        counts: ``(n_tensors, n_entries)`` int64 weights of each tensor per entry.
    """

    codebook: Codebook
    lookup: Indices
    counts: NDArray[np.int64]


def uniform_codebook(statistics: BinStatistics, grid: Grid, centre: Centre = "mean") -> Binning:
    """Return the codebook of a grid: one entry per occupied bin.

    Centres that are equal as float32 become one entry. The bin a zero-aligned grid centres on 0 has
    the entry 0, whatever its mean. :func:`codebook_of` is the only place that defines centres.

    Args:
        statistics: the weights.
        grid: the bins.
        centre: ``"mean"`` of all members in all tensors, or ``"midpoint"`` of the bin.

    Raises:
        InputError: ``centre`` is neither, or a centre is too large for float32.

    Source:
        MO-UB, arXiv 2501.03095: cluster centres, empty bins dropped. The mean minimises the squared
        error.
    """
    if centre not in get_args(Centre):
        raise InputError(f"got centre={centre!r}, needed one of {get_args(Centre)}")
    if centre == "mean":
        counts, sums = statistics.histogram(grid)
        with np.errstate(over="ignore", invalid="ignore"):
            total = sums.sum(axis=0)
        return codebook_of(grid, counts, total)
    return codebook_of(grid, statistics.counts(grid))


def codebook_of(
    grid: Grid, counts: NDArray[np.int64], sums: NDArray[np.float64] | None = None
) -> Binning:
    """Return the codebook of a grid whose members were counted.

    Args:
        grid: the bins.
        counts: ``(n_tensors, n_bins)`` weights of each tensor in each bin.
        sums: ``(n_bins,)`` sums of the weights of all tensors; None for the middles of bins.

    Raises:
        InputError: a centre is too large for float32.
    """
    occupied = np.flatnonzero(counts.any(axis=0))
    with np.errstate(over="ignore", invalid="ignore"):
        if sums is None:
            centres = grid.midpoints[occupied]
        else:
            centres = sums[occupied] / counts.sum(axis=0)[occupied]
        if grid.zero_bin is not None:
            centres[occupied == grid.zero_bin] = 0.0
        # Rounding could swap two means closer than float64 can tell; bins stay in order.
        entries = np.maximum.accumulate(centres).astype(ENTRY_DTYPE)
    if not np.isfinite(entries).all():
        raise InputError(
            f"a centre of bins between {grid.low!r} and {grid.high!r} is too large for float32; "
            f"scale the weights"
        )
    first = np.concatenate([[True], entries[1:] > entries[:-1]])
    begins = occupied[first]  # the bins where an entry begins
    lookup = np.zeros(grid.n_bins, COUNT_DTYPE)
    lookup[begins[1:]] = 1
    return Binning(
        codebook=Codebook(entries[first] + ENTRY_DTYPE(0)),  # -0 + 0 is 0: one zero, one file
        lookup=np.cumsum(lookup).astype(index_dtype(begins.size)),
        counts=np.add.reduceat(counts, begins, axis=1),
    )


def thresholds(grid: Grid, dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """Return for each bin but the first the smallest weight that falls in it or a later one.

    The definition is monotone, so ``bin(w) >= j`` iff ``w >= thresholds[j - 1]``: exactly, also
    where rounding moves the edge. Guesses are a step or two off, then the definition decides.

    Args:
        grid: the bins.
        dtype: float32 or float64, of the weights.

    Returns:
        ``(n_bins - 1,)`` of ``dtype``, not decreasing; infinite where no weight is large enough.
    """
    j = np.arange(1, grid.n_bins, dtype=POSITION_DTYPE)
    if not j.size:
        return np.empty(0, dtype)
    origin, per_width = grid.origin, grid.per_width
    # The smallest distance from the origin whose product with per_width rounds to j or more.
    distance = _smallest(j / per_width, lambda d: d * per_width >= j)
    # A weight lies that far if its exact distance is at most half a unit in the last place less.
    half_gap = (distance - np.nextafter(distance, -np.inf)) / 2
    begins = origin + distance
    lost = (origin - (begins - (begins - origin))) + (distance - (begins - origin))
    begins = begins + (lost - half_gap)
    begins = _smallest(begins, lambda w: w - origin >= distance)
    with np.errstate(over="ignore"):
        rounded: NDArray[np.floating[Any]] = begins.astype(dtype)
        below = rounded.astype(POSITION_DTYPE) < begins
        rounded[below] = np.nextafter(rounded[below], dtype.type(np.inf))
        return rounded


def _smallest(guess: NDArray[np.float64], holds: Any) -> NDArray[np.float64]:
    """Return the smallest floats for which a monotone condition holds, a few steps from a guess."""
    while not (enough := holds(guess)).all():
        guess = np.where(enough, guess, np.nextafter(guess, np.inf))
    while (enough := holds(below := np.nextafter(guess, -np.inf))).any():
        guess = np.where(enough, below, guess)
    return guess


def _sorted(tensor: NDArray[np.floating[Any]], name: str) -> NDArray[np.floating[Any]]:
    if tensor.dtype.kind != "f" or tensor.dtype.itemsize > 8:
        raise InputError(f"{name!r} is {tensor.dtype}, needed float16, float32 or float64")
    dtype = np.dtype(np.float64 if tensor.dtype.itemsize == 8 else np.float32)
    weights: NDArray[np.floating[Any]] = np.array(tensor, dtype=dtype, order="C").reshape(-1)
    weights.sort()
    if weights.size and not (np.isfinite(weights[0]) and np.isfinite(weights[-1])):
        count = int((~np.isfinite(weights)).sum())
        raise NonFiniteWeightError(name, count=count, size=weights.size)
    return weights


def _root_mean_square(weights: NDArray[np.floating[Any]]) -> float:
    pieces = (weights[i : i + _PIECE] for i in range(0, weights.size, _PIECE))
    total = sum(float(np.square(piece, dtype=POSITION_DTYPE).sum()) for piece in pieces)
    return float(np.sqrt(total / max(1, weights.size)))


def _block_prefix(weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return ``(2, n // 64 + 1)`` float64: rounded sums of the first blocks, and what they lost.

    The loss of every addition is itself a float64 (Knuth's TwoSum), so high + low carries about
    twice the digits, and the difference of two prefixes is as good as adding the blocks between.
    """
    whole = weights[: weights.size // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        blocks = whole.sum(axis=1, dtype=POSITION_DTYPE)
        high = np.concatenate([[0.0], np.cumsum(blocks)])
        before, after = high[:-1], high[1:]
        added = after - before
        lost = (before - (after - added)) + (blocks - added)
        return np.stack([high, np.concatenate([[0.0], np.cumsum(lost)])])
