"""Weights as positions among the entries they may take, so that training moves them by entries.

A weight's position is a real number: at 3 it is on the fourth entry, at 3.4 the nearest entry is
the fourth still. The network computes with nearest entries, or in part with what lies at the
position between two entries; gradients reach the positions as if it did so wholly
(straight-through: Bengio et al., 2013, arXiv:1308.3432). So one unit is one step of the codebook
wherever its entries are and whatever their distances. Only entries that some weight uses count, so
there are never more of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx

from moeash.core.codebook import SharedTensor, SharedWeights
from moeash.methods.training.losses import DTYPES


class _Rounded(torch.autograd.Function):
    """Entries nearest to positions, or nearly; backward, the slope between two entries."""

    @staticmethod
    def forward(ctx: FunctionCtx, position: Tensor, entries: Tensor, softness: float) -> Tensor:
        gaps = gaps_of(position, entries)
        ctx.save_for_backward(gaps)
        places = nearest(position, len(entries))
        if softness == 0:
            return entries[places]
        return entries[places] + (softness * (position - places) * gaps).to(entries.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gaps,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0] * gaps, None, None


def nearest(position: Tensor, n_entries: int) -> Tensor:
    """Return the entries nearest to positions; halfway goes to even."""
    return position.round().clamp_(0, n_entries - 1).long()


def below_of(position: Tensor, n_entries: int) -> Tensor:
    """Return the entries below positions; the last but one for what is on the last."""
    return position.floor().clamp_(0, max(0, n_entries - 2)).long()


def gaps_of(position: Tensor, entries: Tensor) -> Tensor:
    """Return how far apart the two entries are between which positions lie."""
    below = below_of(position, len(entries))
    return entries[(below + 1).clamp_(max=len(entries) - 1)] - entries[below]


@dataclass(frozen=True, eq=False)
class Places:
    """The weights of one shared tensor.

    Attributes:
        tensor: as it was.
        position: of every weight, in the tensor's shape, float32; a leaf with gradients.
        entries: those it may take, ascending, in the tensor's dtype.
        used: their places in the codebook.
    """

    tensor: SharedTensor
    position: Tensor
    entries: Tensor
    used: NDArray[np.int64]

    def values(self, softness: float = 0.0) -> Tensor:
        """Return the entries nearest to the positions, differentiable.

        Args:
            softness: 1 for what lies at the positions between two entries, 0 for the nearest entry,
                and what lies between those for numbers between.
        """
        return _Rounded.apply(self.position, self.entries, softness)  # type: ignore[no-any-return]

    def nearest(self) -> Tensor:
        """Return which of :attr:`entries` each weight is nearest to."""
        return nearest(self.position.detach(), len(self.entries))

    def shared(self) -> SharedTensor:
        """Return the tensor with the indices it has now."""
        tensor = self.tensor
        indices = self.used[self.nearest().flatten().cpu().numpy()].astype(tensor.indices.dtype)
        counts = np.bincount(indices, minlength=len(tensor.counts)).astype(np.int64)
        return SharedTensor(
            tensor.name, tensor.shape, tensor.dtype, tensor.codebook, indices, counts
        )


def places_of(shared: SharedWeights, device: str) -> list[Places]:
    """Return the weights of every shared tensor, on the entries they have."""
    all_used = [np.flatnonzero(count) for count in counts_of(shared)]
    places = []
    for tensor in shared.shared:
        used = all_used[tensor.codebook]
        entries = torch.tensor(shared.codebooks[tensor.codebook].entries[used], device=device)
        position = torch.from_numpy(np.searchsorted(used, tensor.indices).astype(np.float32))
        position = position.reshape(tensor.shape).to(device).requires_grad_()
        entries = entries.to(DTYPES.get(tensor.dtype, torch.float32))
        places.append(Places(tensor, position, entries, used))
    return places


def counts_of(shared: SharedWeights) -> Sequence[NDArray[np.int64]]:
    """Return how many weights use each entry, by codebook."""
    counts = [np.zeros(len(codebook), dtype=np.int64) for codebook in shared.codebooks]
    for tensor in shared.shared:
        counts[tensor.codebook] += tensor.counts
    return counts


def tensors_of(places: Sequence[Places]) -> Mapping[str, Tensor]:
    """Return the positions by tensor."""
    return {f"position/{place.tensor.name}": place.position for place in places}
