"""Tune a solution: train the values of its entries and its kept parameters; every index stays.

The gradient of an entry is the sum over the weights that use it (Han et al., ICLR 2016, section 3).
An entry moves less than halfway to its neighbours, so their order stays, and one that is exactly 0
stays 0. So does one that a tensor uses which the outputs depend on and no gradient comes back to.
The file grows by the entries' values where they were evenly spaced before.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx

from moeash.core.codebook import Codebook, SharedWeights
from moeash.core.solutions.recipe import Tune
from moeash.methods.training.losses import DTYPES
from moeash.methods.training.session import Seen, Session
from moeash.methods.training.solution import SolutionTraining
from moeash.methods.training.trainable import reach_of, some_of
from moeash.networks.network import Network

MOVED_A_STEP = 0.005
"""How far an entry moves in a step at first, in distances to its nearest neighbour."""

REACH = 0.45
"""How far an entry may move in all, in distances to the neighbour on that side."""


def tune(step: Tune, start: SharedWeights, network: Network, session: Session) -> SharedWeights:
    """Return a solution tuned.

    Args:
        step: how.
        start: the solution.
        network: the float network it is of.
        session: where to train.
    """
    trainee = Tuning(step, start, network, session)
    session.train(trainee)
    return trainee.shared()


class _EntriesAt(torch.autograd.Function):
    """Entries by index. Backward, each entry's members are added in one order, unlike torch's."""

    @staticmethod
    def forward(ctx: FunctionCtx, entries: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.n_entries = len(entries)  # type: ignore[attr-defined]
        return entries[indices]

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors  # type: ignore[attr-defined]
        of_weights = gradients[0].flatten()
        sums = torch.bincount(
            indices.flatten(),
            of_weights.double(),
            minlength=ctx.n_entries,  # type: ignore[attr-defined]
        )
        return sums.to(of_weights.dtype), None


def entries_at(entries: Tensor, indices: Tensor) -> Tensor:
    """Return entries by index, differentiable; on CPUs with the same bits every time."""
    return _EntriesAt.apply(entries, indices)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of one codebook.

    Attributes:
        moved: ``(n_entries,)`` float32 leaf: how far each has moved, in :attr:`unit`.
        first: where they were.
        unit: ``(n_entries,)`` distance to the nearer neighbour; 0 for what stays.
        low: the least each may have moved.
        high: the most.
    """

    moved: Tensor
    first: Tensor
    unit: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(
        cls, codebook: Codebook, device: str, staying: NDArray[np.bool_] | None = None
    ) -> "Entries":
        """Return the entries of a codebook, unmoved.

        Args:
            codebook: the codebook.
            device: of the training.
            staying: ``(n_entries,)``, those that never move; 0 does not either.
        """
        first = torch.tensor(codebook.entries, device=device)
        gaps = first.diff()
        # The ends may move outwards as far as inwards; a single entry by its own size.
        ends = gaps if len(gaps) else first.abs().clamp_min(1e-3)
        below = torch.cat([ends[:1], gaps])
        above = torch.cat([gaps, ends[-1:]])
        stays = first == 0
        if staying is not None:
            stays |= torch.from_numpy(staying).to(device)
        unit = torch.where(stays, 0.0, torch.minimum(below, above))
        safe = torch.where(unit == 0, 1.0, unit)
        moved = torch.zeros_like(first).requires_grad_()
        return cls(moved, first, unit, -REACH * below / safe, REACH * above / safe)

    def values(self) -> Tensor:
        """Return the entries, differentiable."""
        return self.first + self.unit * self.moved


def used_by(names: Collection[str], shared: SharedWeights) -> list[NDArray[np.bool_]]:
    """Return which entries of each codebook some shared tensors use."""
    used = [np.zeros(len(codebook), dtype=np.bool_) for codebook in shared.codebooks]
    for tensor in shared.shared:
        if tensor.name in names:
            used[tensor.codebook] |= tensor.counts > 0
    return used


class Tuning(SolutionTraining):
    """The training of one solution's entries."""

    def __init__(
        self, step: Tune, start: SharedWeights, network: Network, session: Session
    ) -> None:
        super().__init__(step, start, network, session)
        reach = reach_of(network, some_of(session.images, session.device), session.device)
        staying = used_by(reach.hidden, start)
        self._entries = [
            Entries.of(codebook, session.device, used)
            for codebook, used in zip(start.codebooks, staying, strict=True)
        ]
        self._indices = {
            tensor.name: torch.from_numpy(tensor.indices.astype("int64"))
            .reshape(tensor.shape)
            .to(session.device)
            for tensor in start.shared
        }

    @property
    def moved_a_step(self) -> float:
        """How far an entry moves in a step at first, in distances to its nearest neighbour."""
        return MOVED_A_STEP

    def moving(self) -> Mapping[str, Tensor]:
        """Return how far the entries have moved."""
        return {f"moved/{i}": entries.moved for i, entries in enumerate(self._entries)}

    def weights(self, seen: Seen) -> Mapping[str, Tensor]:
        """Return the entries of all weights."""
        codebooks = [entries.values() for entries in self._entries]
        return {
            tensor.name: entries_at(
                codebooks[tensor.codebook].to(DTYPES.get(tensor.dtype, torch.float32)),
                self._indices[tensor.name],
            )
            for tensor in self._start.shared
        }

    def push(self) -> None:
        """Add nothing."""

    def confine(self) -> None:
        """Keep entries in their order."""
        for entries in self._entries:
            entries.moved.clamp_(entries.low, entries.high)

    def words(self) -> str:
        """Return how far the entries have moved."""
        furthest = max(float(entries.moved.detach().abs().max()) for entries in self._entries)
        return f"entries moved by up to {furthest:.2f} of their distances"

    def shared(self) -> SharedWeights:
        """Return the solution as it is now."""
        codebooks = tuple(
            Codebook(entries.values().detach().cpu().numpy()) for entries in self._entries
        )
        return replace(self.with_weights({}), codebooks=codebooks)
