"""Running a network on a few inputs, with its kept tensors stored one way or another."""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeash.core.codebook import KeptTensor, SharedWeights
from moeash.data.inputs import Batch, call
from moeash.methods.base import Images
from moeash.networks.network import Network
from moeash.networks.writing.inplace import WeightWriter
from moeash.tracing.outputs import chosen, compared, furthest
from moeash.tracing.pieces import FORWARD_ELEMENTS, pieces

IMAGES = 250
"""Images of the search split a decision looks at, evenly spread."""

PROBES = 24
"""Tensors measured one by one. Where there are more, about so many groups are measured, each of
consecutive tensors of one kind."""


class OutputProbe:
    """Runs a network on a few inputs.

    Attributes:
        n_passes: forward passes over the inputs so far.
    """

    def __init__(
        self,
        network: Network,
        writer: WeightWriter,
        inputs: Images,
        *,
        batch_size: int,
        device: str,
    ) -> None:
        """Read the inputs.

        Args:
            network: in eval mode.
            writer: writes into it.
            inputs: of these, evenly spread ones.
            batch_size: inputs a forward pass, at most.
            device: the network's.
        """
        n = len(inputs)
        order = np.unique(np.linspace(0, n - 1, min(IMAGES, n)).astype(np.int64))
        self._network = network
        self._writer = writer
        self._device = device
        batches = (x for x, _ in inputs.batches(batch_size, order=order))
        self._batches = list(pieces(network.module, batches, FORWARD_ELEMENTS))
        self.n_passes = 0

    def write(self, shared: SharedWeights | None) -> None:
        """Set all weights: to shared ones, or back to the float network's."""
        if shared is None:
            self._writer.restore()
        else:
            self._writer.write(shared)

    def outputs(self, kept: Iterable[KeptTensor] = ()) -> Tensor:
        """Set kept tensors and return the outputs ``(n, classes)`` in float64."""
        self._writer.write_kept(kept)
        self.n_passes += 1
        returned = [chosen(self._run(x), self._network.output) for x in self._batches]
        return torch.cat([tensor.cpu() for tensor in returned]).double()

    @property
    def compares(self) -> bool:
        """Whether the network returns a tensor by which to compare."""
        return bool(compared(self._run(self._batches[0]), self._network.output))

    def moved(self, first: Iterable[KeptTensor], second: Iterable[KeptTensor]) -> float:
        """Return how far outputs with other kept tensors are, relative to the largest of a batch.

        Both versions run batch by batch, so that outputs of one batch are held at a time.

        Args:
            first: kept tensors as they should be.
            second: other ones.
        """
        before, after = tuple(first), tuple(second)
        far = 0.0
        self.n_passes += 2
        for x in self._batches:
            expected, got = self._compared(x, before), self._compared(x, after)
            far = max(far, furthest(expected, got))
        return far

    def _compared(self, x: Batch, kept: Iterable[KeptTensor]) -> list[Tensor]:
        self._writer.write_kept(kept)
        return [t.double() for t in compared(self._run(x), self._network.output)]

    @torch.inference_mode()
    def _run(self, x: Batch) -> Any:
        return call(self._network.module, x.to(self._device))


def groups(tensors: Mapping[str, KeptTensor]) -> list[tuple[str, ...]]:
    """Divide names into about :data:`PROBES` groups of consecutive names of one kind."""
    kinds: dict[str, list[str]] = {}
    for name in tensors:
        kinds.setdefault(name.rpartition(".")[2], []).append(name)
    length = ceil(len(tensors) / PROBES)
    return [
        tuple(names[begin : begin + length])
        for names in kinds.values()
        for begin in range(0, len(names), length)
    ]
