"""Which of a network's weights are fixed, and to what: what the rules of WFN and PWFN return."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeash.core.codebook import Codebook, KeptTensor, SharedWeights, State, index_dtype, share
from moeash.errors import InputError

FREE = -1
"""The index of a weight that is not fixed."""

LARGEST = 2.0**100
"""Largest magnitude of weights that can be fixed."""


@dataclass(frozen=True, eq=False)
class Fixing:
    """Weights of a network of which some are fixed to the values of one codebook.

    Attributes:
        entries: ``(k,)`` float32, strictly increasing; each has a weight. Empty while nothing is
            fixed.
        indices: ``(n,)`` int32, the entry of each weight; :data:`FREE` for one that is not fixed.
    """

    entries: NDArray[np.float32]
    indices: NDArray[np.int32]

    @property
    def fixed(self) -> NDArray[np.bool_]:
        """``(n,)``, whether a weight is fixed."""
        fixed: NDArray[np.bool_] = self.indices != FREE
        return fixed

    def applied(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return weights with the fixed ones at their entries and the others as they are."""
        values = weights.copy()
        fixed = self.fixed
        values[fixed] = self.entries[self.indices[fixed]]
        return values


def fixing_of(centres: NDArray[np.float32], fixed: NDArray[np.bool_]) -> Fixing:
    """Return the fixing of weights to one centre each.

    Args:
        centres: ``(n,)``, looked at where ``fixed`` is true.
        fixed: ``(n,)``.
    """
    entries, of_fixed = np.unique(centres[fixed], return_inverse=True)
    indices = np.full(fixed.shape, FREE, dtype=np.int32)
    indices[fixed] = of_fixed
    return Fixing(entries, indices)


def free_all(n: int) -> Fixing:
    """Return the fixing of none of ``n`` weights."""
    return Fixing(np.zeros(0, dtype=np.float32), np.full(n, FREE, dtype=np.int32))


def finite_weights(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights as a flat float32 array.

    Raises:
        InputError: one is NaN or infinite, or so large that centres beside it might be.
    """
    with np.errstate(over="ignore"):  # refused below
        flat = np.asarray(weights, dtype=np.float32).ravel()
    bad = flat.size - int(np.count_nonzero(np.abs(flat) <= LARGEST))
    if bad:
        raise InputError(
            f"{bad:,} of {flat.size:,} weights are NaN, infinite or beyond {LARGEST:g}; no centre "
            "is near them, load a clean checkpoint"
        )
    return flat


def shared_weights(fixing: Fixing, state: State, kept: Mapping[str, KeptTensor]) -> SharedWeights:
    """Return the shared weights of a network whose weights are all fixed.

    Args:
        fixing: of all shared weights, in the order of the state.
        state: of the network.
        kept: every kept parameter.
    """
    assert fixing.fixed.all(), "the last stage fixes all weights"
    n_entries, begin = len(fixing.entries), 0
    assigned = {}
    for parameter in state:
        if parameter.role == "shared" and parameter.values is not None:
            part = fixing.indices[begin : begin + parameter.values.size]
            begin += part.size
            counts = np.bincount(part, minlength=n_entries).astype(np.int64)
            assigned[parameter.name] = 0, part.astype(index_dtype(n_entries)), counts
    codebooks = [Codebook(fixing.entries)] if n_entries else []
    return share(state, codebooks, assigned, kept)
