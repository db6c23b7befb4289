"""Distill a solution: move its weights among its own entries, towards fewer bits at equal outputs.

The network computes with entries all the time, so what is trained is what the file will hold. The
loss is the divergence from the float network's outputs on training images (or the labels, or both),
plus ``rate`` times the bits a shared weight costs (:mod:`.code_lengths`): training with a penalty
on the entropy in the manner of Oktay et al. (ICLR 2020, arXiv:1906.06624), here on the solution's
own entries and from the solution, with straight-through gradients in the place of noise. Kept
parameters are free. Number and values of the entries stay.

Adam, cosine learning rate (Loshchilov and Hutter, ICLR 2017), in units of one entry for positions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights
from moeash.core.codebook import Tensor as StoredTensor
from moeash.core.solutions.recipe import Distill
from moeash.methods.training.checkpoints import load_optimiser, optimiser_tensors
from moeash.methods.training.code_lengths import bits, code_lengths, slopes
from moeash.methods.training.losses import Lesson, Outputs, float_tensors
from moeash.methods.training.positions import places_of, tensors_of
from moeash.methods.training.session import Seen, Session
from moeash.networks.network import Network

ENTRIES_A_STEP = 0.02
"""How far a position moves in a step at first, in entries."""

KEPT_A_STEP = 1e-4
"""How far a kept parameter moves in a step at first."""

COUNT_EVERY = 50
"""Steps between counts of the entries' statistics."""


def distill(
    step: Distill, start: SharedWeights, network: Network, session: Session
) -> SharedWeights:
    """Return a solution distilled.

    Args:
        step: how.
        start: the solution.
        network: the float network it is of.
        session: where to train.
    """
    trainee = Distilling(step, start, network, session)
    session.train(trainee)
    return trainee.shared()


class Distilling:
    """The training of one solution."""

    def __init__(
        self, step: Distill, start: SharedWeights, network: Network, session: Session
    ) -> None:
        self._step = step
        self._start = start
        self._n_steps = step.epochs * session.steps_an_epoch
        device = session.device
        self._outputs = Outputs(network.module, device, network.output, session.bfloat16)
        self._lesson = Lesson(
            self._outputs, float_tensors(network, device), step.labels, step.temperature
        )
        self._places = places_of(start, device)
        self._kept = kept_tensors(start, network, device)
        self._n_shared = sum(place.tensor.size for place in self._places)
        self._lengths: list[Tensor] = []

    @property
    def stages(self) -> Sequence[int]:
        """One stage."""
        return (self._n_steps,)

    def begin(self, stage: int) -> None:
        """Make the optimiser."""
        self._optimiser = torch.optim.Adam(
            [
                {"params": [place.position for place in self._places], "base": ENTRIES_A_STEP},
                {
                    "params": [t for t in self._kept.values() if t.requires_grad],
                    "base": KEPT_A_STEP,
                },
            ]
        )
        self._count()

    def step(self, seen: Seen) -> Tensor:
        """Take one step."""
        if seen.step % COUNT_EVERY == 0:
            self._count()
        values = {place.tensor.name: place.values() for place in self._places}
        scores = self._outputs({**self._kept, **values}, seen.inputs)
        loss = self._lesson.loss(scores, seen)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for place, lengths in zip(self._places, self._lengths, strict=True):
            # Where no gradient comes, outputs may still depend on a weight: it stays.
            if place.position.grad is not None:
                worth = self._step.rate / self._n_shared
                place.position.grad.add_(slopes(place, lengths), alpha=worth)
        for group in self._optimiser.param_groups:
            group["lr"] = group["base"] * 0.5 * (1 + math.cos(math.pi * seen.step / seen.steps))
        self._optimiser.step()
        with torch.no_grad():
            for place in self._places:
                place.position.clamp_(0, len(place.entries) - 1)
        return loss.detach()

    def end(self, stage: int) -> None:
        """Leave everything as it is."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all that changes."""
        kept = {f"kept/{name}": t for name, t in self._kept.items() if t.requires_grad}
        lengths = {f"lengths/{i}": t for i, t in enumerate(self._lengths)}
        return {
            **tensors_of(self._places),
            **kept,
            **lengths,
            **optimiser_tensors(self._optimiser),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`tensors` returned."""
        with torch.no_grad():
            for name, position in tensors_of(self._places).items():
                position.copy_(tensors[name])
            for name, tensor in self._kept.items():
                if tensor.requires_grad:
                    tensor.copy_(tensors[f"kept/{name}"])
        self._lengths = [tensors[f"lengths/{i}"] for i in range(len(self._places))]
        load_optimiser(self._optimiser, tensors)

    def words(self) -> str:
        """Return the bits a shared weight costs by its tensor's statistics."""
        spent = sum(
            bits(place, lengths).item()
            for place, lengths in zip(self._places, self._lengths, strict=True)
        )
        return f"{spent / max(1, self._n_shared):.3f} bits"

    def shared(self) -> SharedWeights:
        """Return the solution as it is now."""
        weights = {place.tensor.name: place.shared() for place in self._places}
        return with_tensors(self._start, weights, self._kept)

    def _count(self) -> None:
        self._lengths = [code_lengths(place) for place in self._places]


def kept_tensors(shared: SharedWeights, network: Network, device: str) -> dict[str, Tensor]:
    """Return the kept tensors by name as they are decoded; floating parameters take gradients."""
    trainable = {name for name, _ in network.module.named_parameters()}
    dtypes = {name: tensor.dtype for name, tensor in network.module.state_dict().items()}
    kept = {}
    for tensor in shared.kept:
        value = torch.tensor(shared.values(tensor), device=device).to(dtypes[tensor.name])
        if tensor.name in trainable and value.is_floating_point():
            value.requires_grad_()
        kept[tensor.name] = value
    return kept


def with_tensors(
    start: SharedWeights, weights: Mapping[str, SharedTensor], kept: Mapping[str, Tensor]
) -> SharedWeights:
    """Return a solution with other indices, and kept parameters in the network's precision."""
    tensors: list[StoredTensor] = []
    for tensor in start.tensors:
        if tensor.name in weights:
            tensors.append(weights[tensor.name])
        elif isinstance(tensor, KeptTensor) and kept[tensor.name].requires_grad:
            values = kept[tensor.name].detach().cpu()
            values = values.float() if values.dtype == torch.bfloat16 else values
            tensors.append(KeptTensor(tensor.name, tensor.shape, tensor.dtype, values.numpy()))
        else:
            tensors.append(tensor)
    return replace(start, tensors=tuple(tensors))
