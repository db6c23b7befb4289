"""Calibration passes: what every use of a weight received, and the gradients in its outputs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from moeash.data.inputs import Batch
from moeash.data.inputs import call as call_network
from moeash.networks.devices import device_of
from moeash.networks.norms import NORM_TYPES
from moeash.tracing.outputs import OutputOf, scores
from moeash.tracing.pieces import BACKWARD_ELEMENTS, pieces
from moeash.tracing.trace import NORM
from moeash.tracing.uses import FUNCTIONS, Use, Uses
from moeash.tracing.watching import Call, Watcher, in_eval_mode

Part = tuple[str, int, int, int]
"""What sums belong to: the weight's name, its first row, its number of rows, its groups."""


@dataclass(eq=False)
class RecordedUse:
    """One use of a weight in one pass.

    Attributes:
        use: the use.
        inputs: as torch's function received them, detached.
        outputs: what it returned; an activation in place may have changed it since.
        edge: where the gradient in its outputs is.
    """

    use: Use
    inputs: Tensor
    outputs: Tensor
    edge: GradientEdge

    @property
    def part(self) -> Part:
        """What its sums belong to."""
        map_ = self.use.map
        return self.use.name, self.use.rows.start, len(self.use.rows), map_.groups


class Passes:
    """Runs batches through a network, each weight's uses in order of execution.

    Attributes:
        images: seen so far.
        blind: weights the network computes with where nothing is differentiable.
        sketches: random sketches of the output per image.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        sketches: int,
        temperature: float,
        seed: int,
        output: OutputOf | None = None,
    ) -> None:
        """Look the network's weights up.

        Args:
            network: to run.
            sketches: random sketches of the output per image.
            temperature: divides scores before the softmax.
            seed: of the sketches.
            output: names the tensor that counts of what the network returns, see
                :func:`moeash.tracing.outputs.scores`.
        """
        self.network = network
        self.sketches = sketches
        self.images = 0
        self.blind: set[str] = set()
        self._output = output
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)
        self._recorded: list[RecordedUse] = []
        self._uses = Uses(network)
        self._norms = _NormReads(network)

    def over(self, batches: Iterable[Batch]) -> Iterator[tuple[RecordedUse, list[Tensor], int]]:
        """Yield every use of a weight, the gradients in its outputs per sketch, and the images.

        The network is in eval mode meanwhile and left as it was found.

        Raises:
            InputError: the network returns no differentiable tensor that could be meant.
        """
        watcher = Watcher(after=self._record)
        device = device_of(self.network)
        with _differentiable(self.network):
            for piece in pieces(self.network, batches, BACKWARD_ELEMENTS):
                batch = piece.to(device)
                with watcher, torch.enable_grad():
                    returned = call_network(self.network, batch)
                with torch.enable_grad():
                    gradients = self._gradients(scores(returned, self._output))
                self.images += len(batch)
                for i, use in enumerate(self._recorded):
                    yield use, [g[i] for g in gradients], len(batch)
                self._recorded.clear()

    def norm_of(self, name: str, uses: int) -> str | None:
        """Return the BatchNorm that reads every use of a weight, and nothing but that weight."""
        return self._norms.norm_of(name, uses)

    def _record(self, call: Call) -> None:
        self._norms.note(call, self._recorded)
        use = self._uses.of(call)
        if use is None:
            return
        if call.result.requires_grad:
            inputs = call.arguments(FUNCTIONS[call.function][1])["input"].detach()
            # The edge now: an activation in place would put its own in the tensor's place.
            edge = get_gradient_edge(call.result)
            self._recorded.append(RecordedUse(use, inputs, call.result, edge))
        else:
            self.blind.add(use.name)

    def _gradients(self, logits: Tensor) -> list[list[Tensor]]:
        """Return, per sketch, the gradient of its scalar in the output of every recorded use.

        Args:
            logits: ``(any, classes)``, or single values ``(any, 1)``: their curvature is that of
                half the squared error, whose sketch is the signs.
        """
        p = (logits.detach().float() / self._temperature).softmax(1)
        if not self._recorded:
            return [[] for _ in range(self.sketches)]
        edges = [use.edge for use in self._recorded]
        gradients = []
        for i in range(self.sketches):
            signs = torch.randint(0, 2, p.shape, generator=self._generator).to(p) * 2 - 1
            root = p.sqrt() * signs
            single = logits.shape[1] == 1
            sketch = signs if single else root - p * root.sum(1, keepdim=True)
            found = torch.autograd.grad(
                logits,
                edges,
                sketch.to(logits.dtype),
                retain_graph=i + 1 < self.sketches,
                allow_unused=True,
            )
            gradients.append(
                [
                    torch.zeros_like(use.outputs) if gradient is None else gradient
                    for use, gradient in zip(self._recorded, found, strict=True)
                ]
            )
        return gradients


@contextmanager
def _differentiable(network: nn.Module) -> Iterator[None]:
    """Hold a network in eval mode, with gradients in the outputs of all layers, frozen or not."""
    frozen = [p for p in network.parameters() if p.is_floating_point() and not p.requires_grad]
    with in_eval_mode(network):
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)


class _NormReads:
    """Counts which BatchNorms are handed a layer's own output."""

    def __init__(self, network: nn.Module) -> None:
        self._names: dict[int, str] = {
            id(module.running_mean): name
            for name, module in network.named_modules()
            if isinstance(module, NORM_TYPES) and module.running_mean is not None
        }
        self._reads: Counter[tuple[str, str]] = Counter()  # (weight, BatchNorm)
        self._calls: Counter[str] = Counter()

    def note(self, call: Call, recorded: Sequence[RecordedUse]) -> None:
        """Count a call, where it is a BatchNorm's, beside the uses recorded before it."""
        if call.function is not F.batch_norm:
            return
        given = call.arguments(NORM)
        norm = self._names.get(id(given["running_mean"]))
        if norm is None:
            return
        self._calls[norm] += 1
        for use in recorded:
            if use.outputs is given["input"]:
                self._reads[use.use.name, norm] += 1

    def norm_of(self, name: str, uses: int) -> str | None:
        """Return the BatchNorm that reads every use of a weight, and nothing but that weight."""
        for (weight, norm), reads in self._reads.items():
            if weight == name and reads == uses == self._calls[norm]:
                return norm
        return None
