"""Tune a solution: train the values of its entries and its kept parameters; every index stays.

The gradient of an entry is the sum over the weights that use it (Han et al., ICLR 2016, section 3).
An entry moves less than halfway to its neighbours, so their order stays, and one that is exactly 0
stays 0. The file grows by the entries' values where they were evenly spaced before.

Adam, cosine learning rate, in units of the distance between neighbouring entries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from moeash.core.codebook import Codebook, SharedWeights
from moeash.core.solutions.recipe import Tune
from moeash.methods.training.checkpoints import load_optimiser, optimiser_tensors
from moeash.methods.training.distilling import KEPT_A_STEP, kept_tensors, with_tensors
from moeash.methods.training.losses import DTYPES, Lesson, Outputs, float_tensors
from moeash.methods.training.session import Seen, Session
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


class _Look(torch.autograd.Function):
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


def look(entries: Tensor, indices: Tensor) -> Tensor:
    """Return entries by index, differentiable; on CPUs with the same bits every time."""
    return _Look.apply(entries, indices)  # type: ignore[no-any-return]


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
    def of(cls, codebook: Codebook, device: str) -> "Entries":
        """Return the entries of a codebook, unmoved."""
        first = torch.tensor(codebook.entries, device=device)
        gaps = first.diff()
        # The ends may move outwards as far as inwards; a single entry by its own size.
        ends = gaps if len(gaps) else first.abs().clamp_min(1e-3)
        below = torch.cat([ends[:1], gaps])
        above = torch.cat([gaps, ends[-1:]])
        unit = torch.where(first == 0, 0.0, torch.minimum(below, above))
        safe = torch.where(unit == 0, 1.0, unit)
        moved = torch.zeros_like(first).requires_grad_()
        return cls(moved, first, unit, -REACH * below / safe, REACH * above / safe)

    def values(self) -> Tensor:
        """Return the entries, differentiable."""
        return self.first + self.unit * self.moved


class Tuning:
    """The training of one solution's entries."""

    def __init__(
        self, step: Tune, start: SharedWeights, network: Network, session: Session
    ) -> None:
        self._start = start
        self._n_steps = step.epochs * session.steps_an_epoch
        device = session.device
        self._outputs = Outputs(network.module, device, network.output, session.bfloat16)
        self._lesson = Lesson(
            self._outputs, float_tensors(network, device), step.labels, step.temperature
        )
        self._entries = [Entries.of(codebook, device) for codebook in start.codebooks]
        self._indices = {
            tensor.name: torch.from_numpy(tensor.indices.astype("int64"))
            .reshape(tensor.shape)
            .to(device)
            for tensor in start.shared
        }
        self._kept = kept_tensors(start, network, device)

    @property
    def stages(self) -> Sequence[int]:
        """One stage."""
        return (self._n_steps,)

    def begin(self, stage: int) -> None:
        """Make the optimiser."""
        self._optimiser = torch.optim.Adam(
            [
                {"params": [entries.moved for entries in self._entries], "base": MOVED_A_STEP},
                {
                    "params": [t for t in self._kept.values() if t.requires_grad],
                    "base": KEPT_A_STEP,
                },
            ]
        )

    def step(self, seen: Seen) -> Tensor:
        """Take one step."""
        scores = self._outputs({**self._kept, **self._weights()}, seen.inputs)
        loss = self._lesson.loss(scores, seen)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in self._optimiser.param_groups:
            group["lr"] = group["base"] * 0.5 * (1 + math.cos(math.pi * seen.step / seen.steps))
        self._optimiser.step()
        with torch.no_grad():
            for entries in self._entries:
                entries.moved.clamp_(entries.low, entries.high)
        return loss.detach()

    def _weights(self) -> dict[str, Tensor]:
        codebooks = [entries.values() for entries in self._entries]
        return {
            tensor.name: codebooks[tensor.codebook].to(DTYPES.get(tensor.dtype, torch.float32))[
                self._indices[tensor.name]
            ]
            for tensor in self._start.shared
        }

    def end(self, stage: int) -> None:
        """Leave everything as it is."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all that changes."""
        moved = {f"moved/{i}": entries.moved for i, entries in enumerate(self._entries)}
        kept = {f"kept/{name}": t for name, t in self._kept.items() if t.requires_grad}
        return {**moved, **kept, **optimiser_tensors(self._optimiser)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`tensors` returned."""
        with torch.no_grad():
            for i, entries in enumerate(self._entries):
                entries.moved.copy_(tensors[f"moved/{i}"])
            for name, tensor in self._kept.items():
                if tensor.requires_grad:
                    tensor.copy_(tensors[f"kept/{name}"])
        load_optimiser(self._optimiser, tensors)

    def words(self) -> str:
        """Return how far the entries have moved."""
        furthest = max(float(entries.moved.detach().abs().max()) for entries in self._entries)
        return f"entries moved by up to {furthest:.2f} of their distances"

    def shared(self) -> SharedWeights:
        """Return the solution as it is now."""
        codebooks = tuple(
            Codebook(entries.values().detach().cpu().numpy()) for entries in self._entries
        )
        return replace(with_tensors(self._start, {}, self._kept), codebooks=codebooks)
