"""k uniform bins of one global codebook, every weight to the bin it falls in.

Source:
    arXiv 2501.03095 (MOEA-chosen uniform bins, "MO-UB"), module 1. The shared value is the mean of
    the bin's own weights; ``centre="midpoint"`` gives the bin's middle instead. Differs: whether
    1-D parameters are shared is the network's choice (``share_all``), not the method's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moeash.core.bins import Grid, assign_bins
from moeash.core.candidate import Candidate
from moeash.core.codebook import KeptTensor, SharedWeights, State, keep_all, share
from moeash.core.statistics import BinStatistics, uniform_codebook
from moeash.core.variables import Integer, Variable
from moeash.errors import InputError
from moeash.methods.base import GridAssignment, Preparation

Centre = Literal["mean", "midpoint"]


@dataclass(frozen=True, eq=False)
class UniformPrepared:
    """What every candidate needs.

    Attributes:
        state: the float state.
        statistics: the shared weights, sorted once per tensor, in state order.
        kept: the kept parameters.
        n_threads: threads of the assignment kernel.
    """

    state: State
    statistics: BinStatistics
    kept: dict[str, KeptTensor]
    n_threads: int


@dataclass(frozen=True)
class Uniform:
    """Nearest-bin weight sharing: the published base method.

    Attributes:
        k: lowest and highest number of bins the search may try.
        centre: the value of an entry: the mean of its members, or the middle of its bin.
        zero_aligned: shift the bins so that one is centred on zero, with the entry exactly 0.
        clip: range the bins span; weights outside join the end bins. Default: all weights.
    """

    k: tuple[int, int] = (2, 256)
    centre: Centre = "mean"
    zero_aligned: bool = False
    clip: tuple[float, float] | None = None

    name = "uniform"
    refines = False

    def __post_init__(self) -> None:
        if not 1 <= self.k[0] <= self.k[1]:
            raise InputError(f"method.k must be [low, high] with 1 <= low <= high, got {self.k}")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise InputError(f"method.clip must be [low, high] with low < high, got {self.clip}")

    def space(self) -> Sequence[Variable]:
        """Return the one variable, k."""
        return (Integer("k", *self.k),)

    @property
    def calibration_images(self) -> int:
        """None: weights alone decide."""
        return 0

    def prepare(self, preparation: Preparation) -> UniformPrepared:
        """Sort the shared weights once."""
        state = preparation.network.state
        shared = [np.ravel(p.values) for p in state if p.role == "shared" and p.values is not None]
        return UniformPrepared(
            state=state,
            statistics=BinStatistics.from_tensors(shared),
            kept=keep_all(state),
            n_threads=preparation.n_threads,
        )

    def notes(self, prepared: UniformPrepared) -> Sequence[str]:
        """Return nothing: every weight goes to its bin."""
        return ()

    def grid(self, prepared: UniformPrepared, k: int) -> Grid:
        """Return the bins of k over the clipping range or all weights."""
        low, high = self.clip or (prepared.statistics.low, prepared.statistics.high)
        return Grid.spanning(low, high, k, zero_aligned=self.zero_aligned)

    def assignment(self, prepared: UniformPrepared, candidate: Candidate) -> GridAssignment:
        """Return bins and entries for ``candidate["k"]`` bins. O(k log N)."""
        grid = self.grid(prepared, int(candidate["k"]))
        binning = uniform_codebook(prepared.statistics, grid, self.centre)
        return GridAssignment(grid, binning.lookup, binning.codebook, binning.counts)

    def compress(
        self, prepared: UniformPrepared, candidate: Candidate, *, refined: bool = False
    ) -> SharedWeights:
        """Return the shared weights for ``candidate["k"]`` bins. O(N)."""
        binning = self.assignment(prepared, candidate)
        shared = [p for p in prepared.state if p.role == "shared"]
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
        return share(prepared.state, [binning.codebook], assigned, prepared.kept)
