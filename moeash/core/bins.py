"""Uniform bins of one global range, and the bin of every weight in O(n).

The definition, for a weight w, in float64 and nothing but IEEE operations, so that C and NumPy
agree to the bit on every platform::

    bin(w) = trunc(min(max((w - origin) * per_width, 0), n_bins - 1))

It is monotone in w, the highest weight falls in the last bin, and weights outside the range (a
clipped grid) fall in the nearest end bin.

Source:
    MO-UB, arXiv 2501.03095, uniform bins over [min, max] of all weights. Differs: computed in
    float64, multiplied by k / range instead of divided by the width, and optionally zero-aligned.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moeash.core import _bins
from moeash.core.codebook import index_dtype
from moeash.errors import InputError

POSITION_DTYPE = np.float64
"""Dtype in which bins begin and weights are compared."""

MAX_BINS = 1 << 20
"""More bins than this compress nothing: an index would be as wide as the weight."""

Indices = NDArray[np.unsignedinteger[Any]]

_NO_LOOKUP = {np.dtype(t): np.empty(0, t) for t in (np.uint8, np.uint16, np.uint32)}


@dataclass(frozen=True)
class Grid:
    """Bins of equal width; build one with :meth:`Grid.spanning`.

    Attributes:
        low: lower end of the range, in the unit of the weights.
        high: upper end of the range; ``low == high`` gives one bin.
        k: requested number of bins; the step is ``(high - low) / k``.
        origin: where bin 0 begins: ``low``, or half a step below a multiple of the step.
        step: width of a bin; 0 if ``low == high``.
        per_width: ``k / (high - low)``; 0 if ``low == high``.
        n_bins: bins that exist: k, or up to k + 1 when zero-aligned.
        first_multiple: bin j is centred on ``(first_multiple + j) * step``; ``None`` if the grid
            is not aligned to zero.
    """

    low: float
    high: float
    k: int
    origin: float
    step: float
    per_width: float
    n_bins: int
    first_multiple: int | None

    @classmethod
    def spanning(cls, low: float, high: float, k: int, *, zero_aligned: bool = False) -> Self:
        """Return k bins over ``[low, high]``.

        Args:
            low: finite.
            high: finite, at least ``low``.
            k: in ``[1, MAX_BINS]``.
            zero_aligned: shift the bins by up to half a step, so that each is centred on a
                multiple of the step and one is centred on exactly 0 (if the range reaches 0).

        Raises:
            InputError: a value is outside the above, or float64 cannot hold the bins.
        """
        low, high = float(low), float(high)
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InputError(f"a grid needs finite low <= high, got low={low!r}, high={high!r}")
        if not 1 <= k <= MAX_BINS:
            raise InputError(f"got k={k}, needed a number of bins in [1, {MAX_BINS}]")
        span = high - low
        if span == 0.0:
            only = 0 if zero_aligned and low == 0.0 else None
            return cls(low, high, k, low, 0.0, 0.0, 1, only)
        step = span / k
        per_width = k / span if step >= np.finfo(POSITION_DTYPE).tiny else math.inf
        if not (math.isfinite(span) and math.isfinite(per_width)):
            raise InputError(
                f"float64 cannot hold {k} bins between low={low!r} and high={high!r}; "
                f"scale the weights or ask for fewer bins"
            )
        if not zero_aligned:
            return cls(low, high, k, low, step, per_width, k, None)
        if max(-low, high) / step > 2.0**51:  # beyond, half a step is not representable
            raise InputError(
                f"{k} bins between low={low!r} and high={high!r} are too narrow to be aligned to "
                f"zero in float64; ask for fewer bins or zero_aligned=False"
            )
        first = math.floor(low / step + 0.5)
        last = max(first, math.ceil(high / step - 0.5))
        return cls(low, high, k, (first - 0.5) * step, step, per_width, last - first + 1, first)

    @property
    def zero_bin(self) -> int | None:
        """The bin centred on exactly 0, or ``None`` if there is none by construction."""
        if self.first_multiple is None or not 0 <= -self.first_multiple < self.n_bins:
            return None
        return -self.first_multiple

    @property
    def midpoints(self) -> NDArray[np.float64]:
        """``(n_bins,)`` float64 centres of the bins, increasing."""
        j = np.arange(self.n_bins, dtype=POSITION_DTYPE)
        if self.first_multiple is None:
            return self.origin + (j + 0.5) * self.step
        return (self.first_multiple + j) * self.step


def assign_bins(
    weights: NDArray[np.floating[Any]],
    grid: Grid,
    *,
    lookup: Indices | None = None,
    n_threads: int = 1,
) -> Indices:
    """Return the bin of each weight, or what ``lookup`` holds for its bin.

    Needs no memory but the result for C-ordered float32 and float64; other layouts and float16 are
    converted a chunk at a time.

    Args:
        weights: any shape, float16, float32 or float64, finite.
        grid: the bins.
        lookup: ``(n_bins,)`` unsigned; e.g. the codebook entry of each bin.
        n_threads: OpenMP threads, at least 1. Changes the time, never the result.

    Returns:
        ``(weights.size,)`` in C order, the narrowest of uint8, uint16 and uint32 that holds
        ``n_bins - 1``, or the highest value of ``lookup``.

    Raises:
        InputError: a weight is NaN or infinite, or an argument differs from the above.
    """
    if weights.dtype.kind != "f" or weights.dtype.itemsize > 8:
        raise InputError(f"weights are {weights.dtype}, needed float16, float32 or float64")
    if n_threads < 1:
        raise InputError(f"got n_threads={n_threads}, needed at least 1")
    dtype = index_dtype(grid.n_bins)
    if lookup is not None:
        if lookup.shape != (grid.n_bins,) or lookup.dtype.kind != "u":
            raise InputError(
                f"lookup is {lookup.dtype} of shape {lookup.shape}, "
                f"needed unsigned of shape ({grid.n_bins},)"
            )
        dtype = index_dtype(int(lookup.max()) + 1)
    indices = np.empty(weights.size, dtype)
    table = _NO_LOOKUP[dtype] if lookup is None else np.ascontiguousarray(lookup, dtype=dtype)
    bad = 0
    for start, chunk in _contiguous(weights):
        bad |= _bins.assign(
            chunk,
            grid.origin,
            grid.per_width,
            grid.n_bins,
            table,
            indices[start : start + chunk.size],
            n_threads,
        )
    if bad:
        count = sum(int((~np.isfinite(chunk)).sum()) for _, chunk in _contiguous(weights))
        raise InputError(
            f"{count} of {weights.size} weights are NaN or infinite; bins hold numbers"
        )
    return indices


def assign_bins_reference(weights: NDArray[np.floating[Any]], grid: Grid) -> Indices:
    """Return what :func:`assign_bins` returns: the definition, in NumPy."""
    w = np.ravel(weights).astype(POSITION_DTYPE)
    with np.errstate(over="ignore", invalid="ignore"):
        # fmax turns inf * 0 into 0: far outside a grid of one bin is still in that bin.
        position = np.fmin(np.fmax((w - grid.origin) * grid.per_width, 0.0), grid.n_bins - 1.0)
    return np.trunc(position).astype(index_dtype(grid.n_bins))


def _contiguous(
    weights: NDArray[np.floating[Any]],
) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
    """Yield (position, native contiguous float32 or float64) pieces, in C order.

    One piece without a copy if the array is laid out so, else one per chunk.
    """
    dtype = np.dtype(np.float64 if weights.dtype.itemsize == 8 else np.float32)
    if weights.dtype == dtype and weights.flags.c_contiguous and weights.flags.aligned:
        if weights.size:
            yield 0, weights.reshape(-1)
        return
    for start in range(0, weights.size, _bins.CHUNK):
        yield start, weights.flat[start : start + _bins.CHUNK].astype(dtype)
