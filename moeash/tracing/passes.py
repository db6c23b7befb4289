"""Calibration passes: what every use of a weight received, and the gradients in its outputs."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from moeash.errors import InputError
from moeash.tracing.uses import Use, Watched

NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Part = tuple[str, int, int, int]
"""What sums belong to: the weight's name, its first row, its number of rows, its groups."""


PASS_ELEMENTS = 1 << 25
"""Outputs of all layers that one pass may hold, 128 MiB in float32; autograd holds a few times
that. A batch of large images is passed in pieces."""


@dataclass(eq=False)
class Call:
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

    def __init__(self, network: nn.Module, *, sketches: int, temperature: float, seed: int) -> None:
        self.network = network
        self.sketches = sketches
        self.images = 0
        self.blind: set[str] = set()
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)
        self._calls: list[Call] = []
        self._norms = _NormWatcher(self._calls, network)

    def over(self, batches: Iterable[Tensor]) -> Iterator[tuple[Call, list[Tensor], int]]:
        """Yield every use of a weight, the gradients in its outputs per sketch, and the images.

        The network is in eval mode meanwhile and left as it was found.

        Raises:
            InputError: the network returns no differentiable ``(batch, classes)``.
        """
        watched = Watched(self.network, self._record)
        with _differentiable(self.network):
            for batch in _pieces(self.network, batches):
                with watched, self._norms, torch.enable_grad():
                    logits = self.network(batch)
                gradients = self._gradients(logits)
                self.images += batch.shape[0]
                for i, call in enumerate(self._calls):
                    yield call, [g[i] for g in gradients], batch.shape[0]
                self._calls.clear()

    def norm_of(self, name: str, uses: int) -> str | None:
        """Return the BatchNorm that reads every use of a weight, and nothing but that weight."""
        return self._norms.norm_of(name, uses)

    def _record(self, use: Use, inputs: Tensor, outputs: Tensor) -> None:
        if outputs.requires_grad:
            # The edge now: an activation in place would put its own in the tensor's place.
            edge = get_gradient_edge(outputs)
            self._calls.append(Call(use, inputs.detach(), outputs, edge))
        else:
            self.blind.add(use.name)

    def _gradients(self, logits: Any) -> list[list[Tensor]]:
        """Return, per sketch, the gradient of its scalar in the output of every recorded call."""
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"calibration needs logits of shape (batch, classes), got {shape}")
        if not logits.requires_grad:
            raise InputError("the network's outputs have no gradient; it detaches them somewhere")
        p = (logits.detach().float() / self._temperature).softmax(1)
        if not self._calls:
            return [[] for _ in range(self.sketches)]
        edges = [call.edge for call in self._calls]
        gradients = []
        for i in range(self.sketches):
            signs = torch.randint(0, 2, p.shape, generator=self._generator).to(p) * 2 - 1
            root = p.sqrt() * signs
            sketch = root - p * root.sum(1, keepdim=True)
            found = torch.autograd.grad(
                logits,
                edges,
                sketch.to(logits.dtype),
                retain_graph=i + 1 < self.sketches,
                allow_unused=True,
            )
            gradients.append(
                [
                    torch.zeros_like(call.outputs) if gradient is None else gradient
                    for call, gradient in zip(self._calls, found, strict=True)
                ]
            )
        return gradients


class Enough(BaseException):
    """Ends a pass that has shown what it was made for; no error, so no network catches it."""


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Hold a network in eval mode, and leave every module in the mode it was in."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


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


def _pieces(network: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield batches, cut so that the layers' outputs of one pass stay within PASS_ELEMENTS."""
    size, device = 0, next((p.device for p in network.parameters()), torch.device("cpu"))
    for batch in batches:
        if not size and len(batch):
            size = _images_per_pass(network, batch[:1].to(device))
        for start in range(0, len(batch), size or 1):
            yield batch[start : start + size].to(device)


@torch.no_grad()
def _images_per_pass(network: nn.Module, image: Tensor) -> int:
    elements = 0

    def count(use: Use, inputs: Tensor, outputs: Tensor) -> None:
        nonlocal elements
        elements += outputs.numel()

    with Watched(network, count):
        network(image)
    return max(1, PASS_ELEMENTS // max(elements, 1))


class _NormWatcher:
    """Finds the BatchNorm behind every layer: the one that is handed the layer's own output."""

    def __init__(self, calls: list[Call], network: nn.Module) -> None:
        self.recorded = calls
        self.names: dict[nn.Module, str] = {
            module: name
            for name, module in network.named_modules()
            if isinstance(module, NORM_TYPES) and module.track_running_stats
        }
        self.reads: Counter[tuple[str, str]] = Counter()  # (weight, BatchNorm)
        self.calls: Counter[str] = Counter()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        self._handles = [module.register_forward_pre_hook(self) for module in self.names]

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.calls[self.names[module]] += 1
        for call in self.recorded:
            if call.outputs is args[0]:
                self.reads[call.use.name, self.names[module]] += 1

    def norm_of(self, name: str, uses: int) -> str | None:
        """Return the BatchNorm that reads every use of a weight, and nothing but that weight."""
        for (weight, norm), reads in self.reads.items():
            if weight == name and reads == uses == self.calls[norm]:
                return norm
        return None
