"""How the weights of a tensor lie, small enough to ask what any grid would do to them.

Weights are counted by the first 16 bits of their float32 pattern: sign, exponent and seven digits,
which is all of a bfloat16. So the cells need no range to be known before, a tensor is counted in
one pass, and what grids do is exact for dtypes of 16 bits and close for the others.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moeash.core.bins import Grid, assign_bins
from moeash.networks.streaming.floats import PATTERNS, all_values, from_patterns

KEPT_PLANES = 16
"""Bits of a float32 below those that are counted; kept, they are as good as random."""

NARROW = 4
"""Times a cell fits into a bin to be counted in one; a wider one is spread over all it covers."""


@dataclass(frozen=True, eq=False)
class Sketch:
    """The weights of one tensor, counted in cells.

    Attributes:
        values: ``(P,)`` float64 middles of the cells with weights, increasing.
        widths: ``(P,)`` widths of the cells; 0 where all weights of a cell are equal.
        counts: ``(P,)`` weights in each.
        plain_bits: about how many bits the tensor takes if it is kept as it is.
    """

    values: NDArray[np.float64]
    widths: NDArray[np.float64]
    counts: NDArray[np.int64]
    plain_bits: float

    @classmethod
    def of_patterns(cls, counts: NDArray[np.int64], dtype: str) -> Self:
        """Return the sketch of a tensor of float16 or bfloat16, which is exact.

        Args:
            counts: ``(65536,)`` how often each pattern occurs; infinities and NaN do not.
            dtype: of the tensor.
        """
        patterns = np.flatnonzero(counts)
        values = all_values(dtype)[patterns].astype(np.float64)
        order = np.argsort(values, kind="stable")
        return cls(values[order], np.zeros(order.size), counts[patterns][order], _byte_bits(counts))

    @classmethod
    def of_heads(cls, counts: NDArray[np.int64]) -> Self:
        """Return the sketch of a tensor of float32, or of float64 rounded to it.

        Args:
            counts: ``(65536,)`` how often each first half of a pattern occurs.
        """
        heads = np.flatnonzero(counts).astype(np.uint16)
        near = from_patterns(heads).astype(np.float64)
        with np.errstate(over="ignore"):
            far = ((heads.astype(np.uint32) << 16) | 0xFFFF).view(np.float32).astype(np.float64)
        middles = (near + far) / 2
        order = np.argsort(middles, kind="stable")
        found = counts[heads]
        plain = _byte_bits(counts) + KEPT_PLANES * float(found.sum())
        return cls(middles[order], np.abs(far - near)[order], found[order], plain)

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return int(self.counts.sum())

    @property
    def is_exact(self) -> bool:
        """Whether what it says about grids is exact."""
        return not self.widths.any()

    def add_to(self, grid: Grid, counts: NDArray[np.float64], sums: NDArray[np.float64]) -> None:
        """Add the weights in each bin, and their sums, to ``(n_bins,)`` arrays."""
        first, own = self._in_bins(grid)
        bins = slice(first, first + own.size)
        counts[bins] += own
        narrow = self._narrow(grid)
        weights = self.counts[narrow] * self.values[narrow]
        np.add.at(sums, self._bins(grid, narrow), weights)
        spread = own - self._counted(grid, narrow, first, own.size)
        sums[bins] += spread * grid.midpoints[bins]

    def entropy_bits(self, grid: Grid) -> float:
        """Return about how many bits the indices of the tensor take on a grid."""
        _, own = self._in_bins(grid)
        own = own[own > 0]
        return float((own * np.log2(self.size / own)).sum())

    def squared_error(self, grid: Grid, centres: NDArray[np.float64]) -> float:
        """Return about the squared error of all weights on a grid.

        Args:
            grid: the bins.
            centres: ``(n_bins,)`` the value each bin stands for.
        """
        narrow = self._narrow(grid)
        away = self.values[narrow] - centres[self._bins(grid, narrow)]
        near = (self.counts[narrow] * (away**2 + self.widths[narrow] ** 2 / 12)).sum()
        return float(near + self.counts[~narrow].sum() * grid.step**2 / 12)

    def _narrow(self, grid: Grid) -> NDArray[np.bool_]:
        """Tell which cells are so narrow that next to none of them reaches into a second bin."""
        narrow: NDArray[np.bool_] = self.widths <= grid.step / NARROW
        return narrow

    def _bins(self, grid: Grid, cells: NDArray[np.bool_]) -> NDArray[np.intp]:
        return assign_bins(self.values[cells], grid).astype(np.intp)

    def _counted(
        self, grid: Grid, narrow: NDArray[np.bool_], first: int, n: int
    ) -> NDArray[np.float64]:
        own = self._bins(grid, narrow) - first
        return np.bincount(own, weights=self.counts[narrow], minlength=n).astype(np.float64)

    def _in_bins(self, grid: Grid) -> tuple[int, NDArray[np.float64]]:
        """Return the first bin the tensor reaches, and the weights in each from there on."""
        ends = np.array([self.values[0] - self.widths[0], self.values[-1] + self.widths[-1]])
        first, last = assign_bins(ends, grid).tolist()
        narrow = self._narrow(grid)
        own = self._counted(grid, narrow, first, last - first + 1)
        if not narrow.all():
            low = self.values[~narrow] - self.widths[~narrow] / 2
            ends = np.stack([low, low + self.widths[~narrow]], axis=1).reshape(-1)
            below = np.cumsum(self.counts[~narrow])
            reached = np.stack([below - self.counts[~narrow], below], axis=1).reshape(-1)
            edges = grid.origin + np.arange(first, last + 2) * grid.step
            edges[0], edges[-1] = -np.inf, np.inf
            own += np.diff(np.interp(edges, ends, reached))
        return first, own


def _byte_bits(counts: NDArray[np.int64]) -> float:
    """Return the entropy of both bytes of 16-bit patterns, coded apart as kept tensors are."""
    table = counts.reshape(PATTERNS >> 8, 1 << 8)
    total = 0.0
    for plane in (table.sum(axis=0), table.sum(axis=1)):
        own = plane[plane > 0]
        total += float((own * np.log2(own.sum() / own)).sum())
    return total
