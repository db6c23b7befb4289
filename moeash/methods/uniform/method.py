"""k uniform bins of one global codebook, every weight to the bin it falls in.

Source:
    arXiv 2501.03095 (MOEA-chosen uniform bins, "MO-UB"), module 1. The shared value is the mean of
    the bin's own weights; ``centre="midpoint"`` gives the bin's middle instead. Differs: whether
    1-D parameters are shared is the network's choice (``share_all``), not the method's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeash.core.bins import Grid, assign_bins
from moeash.core.codebook import SharedWeights, keep_all, share
from moeash.core.progress import Progress, silent
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.variables import Integer, Variable
from moeash.core.statistics import BinStatistics, uniform_codebook
from moeash.methods.base import GridAssignment, Method, Preparation
from moeash.methods.bounds import MOST_BINS, spread_bins
from moeash.methods.uniform.options import FINEST, LEAST, UniformOptions
from moeash.networks.network import Network

WIDEST = 4
"""How many times as many bins a search may go on to: steps of a 32nd of a standard deviation."""


@dataclass(frozen=True, eq=False)
class UniformPrepared:
    """What every candidate needs.

    Attributes:
        statistics: the shared weights, sorted once per tensor, in state order.
        n_threads: threads of the assignment kernel.
        bins: lowest and highest k that a search begins with, and the highest it may go on to.
    """

    statistics: BinStatistics
    n_threads: int
    bins: tuple[int, int, int]


class Uniform(Method):
    """Nearest-bin weight sharing: the published base method."""

    options: UniformOptions

    def prepare(self, preparation: Preparation) -> UniformPrepared:
        """Sort the shared weights once."""
        state = preparation.network.state
        shared = [np.ravel(p.values) for p in state if p.role == "shared" and p.values is not None]
        statistics = BinStatistics.from_tensors(shared)
        return UniformPrepared(statistics, preparation.n_threads, self._bins(statistics))

    def _bins(self, statistics: BinStatistics) -> tuple[int, int, int]:
        """Return the bounds of k: as given, or as the weights are spread."""
        if self.options.k is not None:
            low, high = self.options.k
            return low, high, high
        _, finest = spread_bins(*self._range(statistics), statistics.spreads)
        high = max(FINEST, finest)
        return LEAST, high, max(high, min(WIDEST * high, MOST_BINS))

    def _range(self, statistics: BinStatistics) -> tuple[float, float]:
        """Return what the bins span: the clipping range or all weights."""
        return self.options.clip or (statistics.low, statistics.high)

    def space(self, prepared: UniformPrepared | None = None) -> Sequence[Variable]:
        """Return k, within the bounds that were given or found."""
        if prepared is None or self.options.k is not None:
            return self.options.space()
        low, high, widest = prepared.bins
        return (Integer("k", low, high, widest=widest),)

    def notes(self, prepared: UniformPrepared) -> Sequence[str]:
        """Return nothing: every weight goes to its bin."""
        return ()

    def most_entries(self, prepared: UniformPrepared) -> int:
        """Return the most bins a grid of the highest k can have."""
        low, _, high = prepared.bins
        # Bins shifted to zero are up to 2 more than k, not always for the highest k.
        return max(self._grid(prepared, k).n_bins for k in range(max(low, high - 2), high + 1))

    def _grid(self, prepared: UniformPrepared, k: int) -> Grid:
        """Return the bins of k."""
        low, high = self._range(prepared.statistics)
        return Grid.spanning(low, high, k, zero_aligned=self.options.zero_aligned)

    def assignment(self, prepared: UniformPrepared, candidate: Candidate) -> GridAssignment:
        """Return bins and entries for ``candidate["k"]`` bins. O(k log N)."""
        grid = self._grid(prepared, int(candidate["k"]))
        binning = uniform_codebook(prepared.statistics, grid, self.options.centre)
        return GridAssignment(grid, binning.lookup, binning.codebook, binning.counts)

    def compress(
        self,
        prepared: UniformPrepared,
        candidate: Candidate,
        *,
        network: Network,
        refined: bool = False,
        progress: Progress = silent,
    ) -> SharedWeights:
        """Return the shared weights for ``candidate["k"]`` bins. O(N)."""
        binning = self.assignment(prepared, candidate)
        shared = [p for p in network.state if p.role == "shared"]
        assigned = {}
        for parameter, counts in zip(shared, binning.counts, strict=True):
            assert parameter.values is not None
            indices = assign_bins(
                np.ravel(parameter.values),
                binning.grid,
                lookup=binning.lookup,
                n_threads=prepared.n_threads,
            )
            assigned[parameter.name] = (0, indices, counts)
        return share(network.state, [binning.codebook], assigned, keep_all(network.state))
