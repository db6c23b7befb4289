"""Second-order error feedback along trellises: dependent quantisation, exact for every column.

The recursion is that of :mod:`moeash.methods.assign_feedback`. But a weight may take only the
entries its trellis state allows (:mod:`moeash.core.trellis`), so the rows of a column are chosen
together::

    q_t = argmin over paths of  sum over rows r of  (w_rt - c_r)^2 + U_tt^2 penalty_r L(c_r | half)

Paths run down the rows. Given the columns before, the rows of one column do not influence one
another but through the path, so the Viterbi search finds the best column there is. Columns are
fixed in any order, since each has a path of its own.

``L(c | half)`` is the code length of entry c among the weights of its half, in this tensor,
re-estimated after every pass.

Runs on the CPU wherever the factor is, so that every machine chooses the same entries.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.trellis import Trellis, matrix, subsets, trellis
from moeash.errors import InputError
from moeash.methods import _trellis
from moeash.methods.assign_feedback import PASSES, Factor
from moeash.methods.recursion import BLOCK

_NEVER = 1e-3
"""Occurrences an unused entry is counted with: dear, not forbidden."""


@dataclass(frozen=True, eq=False)
class _Alphabet:
    """What a path may consist of.

    Attributes:
        entries: ``(n_entries,)`` float32.
        members: int32, the entries of the four subsets, see :func:`moeash.core.trellis.subsets`.
        bounds: ``(5,)`` int32, where the subsets begin and end.
        states: the trellis.
    """

    entries: NDArray[np.float32]
    members: NDArray[np.int32]
    bounds: NDArray[np.int32]
    states: Trellis

    @classmethod
    def of(cls, entries: Tensor, zero: int, n_states: int) -> "_Alphabet":
        if entries.ndim != 1 or not 0 <= zero < entries.numel():
            raise InputError(
                f"zero is entry {zero} of entries of shape {tuple(entries.shape)}; "
                "a trellis needs a flat array of entries and the position of 0 in it"
            )
        found = subsets(np.arange(entries.numel()) - zero)
        bounds = np.cumsum([0, *(subset.size for subset in found)]).astype(np.int32)
        return cls(
            entries.cpu().numpy(),
            np.concatenate(found).astype(np.int32),
            bounds,
            trellis(n_states),
        )

    @property
    def halves(self) -> NDArray[np.int64]:
        """``(members,)``, the half every member belongs to."""
        return np.repeat([0, 0, 1, 1], np.diff(self.bounds))

    def nearest_counts(self, targets: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return ``(2, n_entries)``: the nearest entries if all weights were of one half."""
        counts = np.zeros((2, self.entries.size), dtype=np.int64)
        for half in (0, 1):
            allowed = np.unique(self.members[self.halves == half])
            values = self.entries[allowed].astype(np.float64)
            nearest = allowed[np.searchsorted((values[1:] + values[:-1]) / 2, targets.ravel())]
            counts[half] = np.bincount(nearest, minlength=self.entries.size)
        return counts

    def lengths(self, counts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return ``(members,)``: ideal code lengths in bits, by uses ``(2, n_entries)``."""
        uses = np.zeros(self.members.size)
        for half in (0, 1):
            of_half = self.halves == half
            own = counts[half, self.members[of_half]] + _NEVER
            uses[of_half] = own / own.sum()
        return (-np.log2(uses)).astype(np.float32)


def assign_trellis(
    factor: Factor,
    entries: Tensor,
    zero: int,
    n_states: int,
    *,
    price: float = 0.0,
    passes: int = PASSES,
    block: int = BLOCK,
) -> Tensor:
    """Assign every weight of a layer to an entry, every column along a path of the trellis.

    Args:
        factor: from :func:`moeash.methods.assign_feedback.prepare_feedback`; of several groups all
            must have one order (``common_order``), as paths run through all of them.
        entries: ``(n_entries,)`` float32, multiples of one step.
        zero: which of them is 0.
        n_states: 4, 8 or 16.
        price: nats per bit, from :func:`moeash.methods.assign_feedback.rate_weight` with *twice*
            the step; 0 ignores the code length.
        passes: how often code lengths are re-estimated; without a price one pass is all.
        block: columns per block, see :func:`moeash.methods.recursion.recurse`.

    Returns:
        Indices in the shape of the weight, int64, on the factor's device.

    Raises:
        InputError: an argument is out of range, or the groups differ in their order.
    """
    alphabet = _Alphabet.of(entries, zero, n_states)
    if not price >= 0 or passes < 1 or block < 1:
        raise InputError(
            f"got price {price}, {passes} passes and blocks of {block}; needed >= 0, >= 1 and >= 1"
        )
    order = factor.order[0].cpu()
    if not bool((factor.order.cpu() == order).all()):
        raise InputError(f"the groups of {factor.name!r} differ in the order of their columns")
    targets = factor.weight.cpu()[:, :, order].transpose(1, 2).contiguous()
    coupling, variance = factor.coupling.cpu(), factor.variance.cpu()
    penalty = (price / factor.sensitivity.cpu()).numpy()
    counts = alphabet.nearest_counts(targets.numpy())
    chosen = np.empty(targets.shape, dtype=np.int32)
    for _ in range(passes if price else 1):
        lengths = alphabet.lengths(counts)
        counts[:] = 0
        _recurse(targets, coupling, variance, penalty, alphabet, lengths, chosen, counts, block)
    natural = torch.empty(factor.weight.shape, dtype=torch.int64)
    natural[:, :, order] = torch.from_numpy(chosen).long().transpose(1, 2)
    return natural.reshape(factor.shape).to(factor.weight.device)


def nearest_path(weight: Tensor, entries: Tensor, zero: int, n_states: int) -> Tensor:
    """Return the path nearest every column of a weight without a curvature.

    Args:
        weight: any shape; rows are axis 0.
        entries: as :func:`assign_trellis`.
        zero: likewise.
        n_states: likewise.

    Returns:
        Indices in the shape of the weight, int64, on its device.
    """
    rows, columns = matrix(tuple(weight.shape))
    alphabet = _Alphabet.of(entries, zero, n_states)
    targets = weight.detach().cpu().float().reshape(1, rows, columns).transpose(1, 2).contiguous()
    chosen = np.empty(targets.shape, dtype=np.int32)
    _recurse(
        targets,
        None,
        torch.ones(1, columns),
        np.zeros((1, rows), dtype=np.float32),
        alphabet,
        np.zeros(alphabet.members.size, dtype=np.float32),
        chosen,
        np.zeros((2, alphabet.entries.size), dtype=np.int64),
        block=1,
    )
    natural = torch.from_numpy(chosen).long().transpose(1, 2)
    return natural.reshape(weight.shape).to(weight.device)


def _recurse(
    targets: Tensor,
    coupling: Tensor | None,
    variance: Tensor,
    penalty: NDArray[np.float32],
    alphabet: _Alphabet,
    lengths: NDArray[np.float32],
    chosen: NDArray[np.int32],
    counts: NDArray[np.int64],
    block: int,
) -> None:
    """Fix all columns of ``targets`` ``(groups, columns, rows)``; fill ``chosen``, add ``counts``.

    Without a coupling columns are independent of one another, and a block must be one column.
    """
    columns = targets.shape[1]
    moving, carried = targets.clone(), torch.empty_like(targets)
    within = torch.zeros(1, 1, 1) if coupling is None else coupling
    bounds = alphabet.bounds.tolist()
    shortest = [
        lengths[first:last].min() if last > first else 0.0 for first, last in pairwise(bounds)
    ]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        _trellis.fix_columns(
            moving.numpy(),
            within.numpy(),
            variance.numpy(),
            penalty,
            start,
            stop,
            alphabet.entries,
            alphabet.members,
            alphabet.bounds,
            lengths,
            np.array(shortest, dtype=np.float32),
            alphabet.states.transitions.ravel(),
            alphabet.states.halves,
            chosen,
            carried.numpy(),
            counts,
        )
        if coupling is not None and stop < columns:
            behind = coupling[:, start:stop, stop:].transpose(1, 2)
            moving[:, stop:].baddbmm_(behind, carried[:, start:stop], alpha=-1)
