"""The iterative merge of neighbouring codebook entries, as arithmetic: nothing here is evaluated.

Works on any ordered codebook. The state of a pass is its *runs*: how many consecutive original
entries each entry of the merged codebook stands for. Entries follow from runs alone, whatever the
order of merging, so a merged solution is rebuilt from its runs.

Source:
    MO-UB, arXiv 2501.03095, iterative merge of neighbouring bins. The paper leaves the order of
    pairs open; here the cheapest pair goes first, and a refused pair is not tried again before one
    of its two entries has changed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.core.codebook import (
    COUNT_DTYPE,
    ENTRY_DTYPE,
    Codebook,
    SharedTensor,
    SharedWeights,
    index_dtype,
)
from moeash.errors import InputError

Runs = tuple[int, ...]


def merge_runs(shared: SharedWeights, runs: Sequence[int]) -> SharedWeights:
    """Replace each run of consecutive entries by one entry, their count-weighted mean.

    Args:
        shared: weights with one global codebook.
        runs: lengths of the runs, each at least 1; they sum to the number of entries.

    Raises:
        InputError: there is more than one codebook, or the runs do not cover it.
    """
    if len(shared.codebooks) != 1:
        raise InputError(
            f"got {len(shared.codebooks)} codebooks; only one global codebook can be merged"
        )
    entries = shared.codebooks[0].entries
    starts = _starts(runs, entries.size)
    counts = np.zeros(entries.size, COUNT_DTYPE)
    for tensor in shared.shared:
        counts += tensor.counts
    codebook = Codebook(_merged_entries(entries, counts, starts))
    lookup = np.repeat(np.arange(starts.size), runs).astype(index_dtype(starts.size))

    def merged(tensor: SharedTensor) -> SharedTensor:
        return replace(
            tensor,
            indices=np.take(lookup, tensor.indices),
            counts=np.add.reduceat(tensor.counts, starts),
        )

    tensors = (merged(t) if isinstance(t, SharedTensor) else t for t in shared.tensors)
    return SharedWeights((codebook,), tuple(tensors))


class MergePass:
    """The greedy pass: proposes the cheapest pair, is told whether to keep it, until none is left.

    ::

        while trials := merging.proposals():
            (merging.accept if good_enough(trials[0]) else merging.reject)(trials[0])

    A backend may evaluate ``proposals(n)`` at once: they are the next trials of the loop above as
    long as each earlier one is rejected. After an acceptance the later ones are void.

    Attributes:
        runs: the merges accepted so far, as runs of the original entries.
    """

    def __init__(self, entries: NDArray[np.float32], counts: NDArray[np.int64]) -> None:
        """Start with nothing merged.

        Args:
            entries: ``(m,)`` strictly increasing.
            counts: ``(m,)`` weights per entry, over all tensors.
        """
        self._entries = Codebook(entries).entries
        self._counts = np.asarray(counts, dtype=COUNT_DTYPE)
        if self._counts.shape != self._entries.shape or (self._counts < 0).any():
            raise InputError(
                f"got counts of shape {self._counts.shape} and minimum "
                f"{self._counts.min(initial=0)}, needed one number >= 0 per entry "
                f"({self._entries.size})"
            )
        # A pair is three boundaries: where its first entry begins, the middle, where the second
        # ends. If either entry changes the boundaries do, so a tabu needs no bookkeeping.
        self._tabu: set[tuple[int, int, int]] = set()
        self.runs: Runs = (1,) * self._entries.size
        self._rank()

    @property
    def done(self) -> bool:
        """Whether every pair was refused, or one entry is left."""
        return not self.proposals()

    def proposals(self, n: int = 1) -> list[Runs]:
        """Return up to n next trials, each the current runs with one pair of neighbours merged."""
        trials: list[Runs] = []
        for pair in self._order:
            if len(trials) >= n:
                break
            if self._boundaries(pair) not in self._tabu:
                merged = self.runs[pair] + self.runs[pair + 1]
                trials.append((*self.runs[:pair], merged, *self.runs[pair + 2 :]))
        return trials

    def accept(self, runs: Sequence[int]) -> None:
        """Make a trial the current state."""
        self._pair(runs)
        self.runs = tuple(runs)
        self._rank()

    def reject(self, runs: Sequence[int]) -> None:
        """Stay, and do not propose the trial again until one of its two entries has changed."""
        self._tabu.add(self._boundaries(self._pair(runs)))

    def _rank(self) -> None:
        """Order the pairs of the current runs by how much they raise the squared error.

        Ties go to the lower pair.
        """
        starts = _starts(self.runs, self._entries.size)
        n = np.add.reduceat(self._counts, starts).astype(np.float64)
        c = _merged_entries(self._entries, self._counts, starts).astype(np.float64)
        self._ends = [0, *(starts[1:].tolist()), self._entries.size]
        rise = sse_rise(n[:-1], c[:-1], n[1:], c[1:])
        self._order: list[int] = np.argsort(rise, kind="stable").tolist()

    def _boundaries(self, pair: int) -> tuple[int, int, int]:
        return self._ends[pair], self._ends[pair + 1], self._ends[pair + 2]

    def _pair(self, runs: Sequence[int]) -> int:
        """Return the position of the one pair that a trial merges."""
        trial = tuple(runs)
        changed = (
            p for p, (now, then) in enumerate(zip(self.runs, trial, strict=False)) if now != then
        )
        pair = next(changed, len(self.runs))
        if pair + 1 < len(self.runs):
            merged = self.runs[pair] + self.runs[pair + 1]
            if trial == (*self.runs[:pair], merged, *self.runs[pair + 2 :]):
                return pair
        raise InputError(
            f"a trial of {len(trial)} runs does not merge one pair of the current {len(self.runs)}"
        )


def sse_rise(
    n_a: NDArray[np.float64],
    c_a: NDArray[np.float64],
    n_b: NDArray[np.float64],
    c_b: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return by how much merging entries with counts n and means c raises the squared error.

    ``n_a n_b / (n_a + n_b) (c_a - c_b)**2``, in the squared unit of the weights; 0 without members.
    """
    both = n_a + n_b
    harmonic = np.divide(n_a * n_b, both, out=np.zeros_like(both), where=both > 0)
    return harmonic * (c_a - c_b) ** 2


def _starts(runs: Sequence[int], n_entries: int) -> NDArray[Any]:
    """Return where each run begins, after checking that runs cover the entries."""
    lengths = np.asarray(runs)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not (lengths > 0).all():
        raise InputError("runs must be a flat list of whole numbers, each at least 1")
    if lengths.sum() != n_entries:
        raise InputError(f"runs sum to {lengths.sum()}, needed {n_entries}, the number of entries")
    return np.concatenate([[0], np.cumsum(lengths)[:-1]])


def _merged_entries(
    entries: NDArray[np.float32], counts: NDArray[np.int64], starts: NDArray[Any]
) -> NDArray[np.float32]:
    """Return the count-weighted mean of each run in float64, rounded once to float32.

    A run without weights takes the plain mean. The mean never leaves its run, so entries stay
    strictly increasing, and a run of one entry keeps it.
    """
    c = entries.astype(np.float64)
    n = counts.astype(np.float64)
    total = np.add.reduceat(n, starts)
    lengths = np.diff(starts, append=entries.size)
    n[np.repeat(total == 0, lengths)] = 1.0
    mean = np.add.reduceat(n * c, starts) / np.add.reduceat(n, starts)
    last = starts + lengths - 1
    return np.clip(mean, c[starts], c[last]).astype(ENTRY_DTYPE)
