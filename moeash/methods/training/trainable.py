"""Which shared weights a training can move: those that gradients of the outputs come back to.

A layer that nobody calls has none, and one that is used under ``no_grad``, detached, or turned into
integers has none either, though the outputs depend on it. The network runs once with gradients to
see which, and once more for every weight that got none, with other values in it. Rows of an
embedding that hardly any text has are a kind of their own, see :class:`Meetings`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moeash.data.inputs import Batch
from moeash.errors import InputError
from moeash.methods.base import Images
from moeash.methods.training.losses import Outputs, float_tensors
from moeash.methods.training.norms import live_norms
from moeash.methods.training.options import TrainingOptions
from moeash.networks.network import Network
from moeash.tracing.uses import looked_up

IMAGES = 16
"""Inputs of the runs."""


@dataclass(frozen=True)
class Reach:
    """The shared tensors of a network that no training moves, by ``state_dict`` key.

    Attributes:
        unused: the outputs do not depend on them.
        hidden: the outputs do, but no gradient comes back.
    """

    unused: tuple[str, ...]
    hidden: tuple[str, ...]

    @property
    def notes(self) -> Sequence[str]:
        """Return what people should know, one line each."""
        return (
            *(
                f"no training looks at {name}: the outputs do not depend on it"
                for name in self.unused
            ),
            *(
                f"no training moves {name}: the outputs depend on it, but no gradient comes back "
                "to it (it is used under no_grad, detached, or made integers of)"
                for name in self.hidden
            ),
        )


LEARNT_FROM = 10
"""Steps that meet a row of an embedding before it is trained. Fewer say little of what the row is
for in other texts, and the penalty on bits, which comes in every step, would outweigh them."""


class Meetings:
    """How many steps of a training have met each row of the embeddings.

    A row that no step has met has no gradient, though other texts may need it.

    Args:
        network: that is trained.
        inputs: some, on the device.
        device: of the training.
    """

    def __init__(self, network: Network, inputs: Batch, device: str) -> None:
        embeddings = looked_up(network.module, inputs)
        self._counts = {
            parameter.name: torch.zeros(parameter.shape[0], dtype=torch.int32, device=device)
            for parameter in network.state
            if parameter.name in embeddings
        }

    def meet(self, name: str, gradient: Tensor) -> Tensor | None:
        """Count one step; return which rows of a weight have hardly been met; None: they may move.

        Args:
            name: of the weight.
            gradient: of the loss in it, or in what it is made of, its rows first.
        """
        counts = self._counts.get(name)
        if counts is None:
            return None
        counts += (gradient != 0).flatten(1).any(1)
        return counts < LEARNT_FROM

    def tensors(self) -> dict[str, Tensor]:
        """Return the counts, under names of their own in a checkpoint."""
        return {f"met/{name}": counts for name, counts in self._counts.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what :meth:`tensors` returned."""
        for name, counts in self.tensors().items():
            counts.copy_(tensors[name])


def notes_on(
    network: Network, inputs: Batch, device: str, options: TrainingOptions
) -> Sequence[str]:
    """Return what people should know before a network is trained, one line each.

    Args:
        network: in eval mode.
        inputs: some, on the device.
        device: of the network.
        options: how it will be trained.

    Raises:
        InputError: it cannot be.
    """
    notes = reach_of(network, inputs, device).notes
    if options.norms == "batch" and not live_norms(network):
        lacking = "the network has no BatchNorm with running statistics of its own"
        notes = (*notes, f"training.norms = 'batch' changes nothing: {lacking}")
    return notes


def some_of(images: Images, device: str) -> Batch:
    """Return the first :data:`IMAGES` inputs, or all if there are fewer, on a device."""
    inputs, _ = next(iter(images.batches(IMAGES)))
    return inputs.to(device)


def reach_of(network: Network, inputs: Batch, device: str) -> Reach:
    """Return which shared tensors of a network no training moves.

    Args:
        network: in eval mode; its float weights are looked at.
        inputs: some, on the device.
        device: of the network.

    Raises:
        InputError: no gradient comes back from the outputs to any parameter, or taking gradients
            fails.
    """
    outputs = Outputs(network.module, device, network.output)
    tensors = float_tensors(network, device)
    for name, _ in network.module.named_parameters():
        if name in tensors and tensors[name].is_floating_point():
            tensors[name].requires_grad_()
    shared = [p.name for p in network.state if p.role == "shared"]
    kind = type(network.module).__name__
    try:
        scores = outputs(tensors, inputs)
        if not scores.requires_grad:
            raise InputError(
                f"the outputs of {kind} have no gradient, so nothing of it can be trained; it runs "
                "under no_grad, or detaches them"
            )
        leaves = [tensors[name] for name in shared]
        gradients = torch.autograd.grad(scores.sum(), leaves, allow_unused=True)
    except RuntimeError as error:
        raise InputError(
            f"{kind} cannot be trained, as taking gradients fails: {' '.join(str(error).split())}"
        ) from error
    unused: list[str] = []
    hidden: list[str] = []
    with torch.no_grad():
        for name, gradient in zip(shared, gradients, strict=True):
            if gradient is None:
                other = outputs({**tensors, name: 1 - 2 * tensors[name]}, inputs)
                (unused if torch.equal(other, scores) else hidden).append(name)
    return Reach(tuple(unused), tuple(hidden))
