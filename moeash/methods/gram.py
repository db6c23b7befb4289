"""What calibration inputs know about a network: one curvature matrix per layer, streamed.

For a change E of one layer's rows the loss of the network moves by about
``1/2 sum_r sensitivity_r E_r H E_r'``. Two estimates of H:

* ``"gradients"``: the Gram matrix of per-image weight gradients, all rows of the layer together.
  It sees which patches matter to the output and how the positions of one image act together.
* ``"inputs"``: the Gram matrix of the layer's patches (optimal brain surgeon per layer, GPTQ).

Both use the gradient of a random sketch of the output: with softmax probabilities p and random
signs e, ``v = sqrt(p) e - p <sqrt(p), e>`` has covariance ``diag(p) - pp'``, the Hessian of the
cross-entropy in the logits (the Fisher matrix). Sampling labels has the same mean, but on a
confident network almost every sample is zero and the rest is noise; the sketch is never zero.

Source: methods.md section 6 (per-layer form); the sketch and the gradient form are ours.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from moeash.errors import DataError, InputError
from moeash.methods.patches import (
    LAYER_TYPES,
    Layer,
    find_layers,
    groups_of,
    images_per_piece,
    outputs,
    patches,
    rows_of,
)

CurvatureKind = Literal["gradients", "inputs"]
NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CURVATURE_KINDS: tuple[str, ...] = get_args(CurvatureKind)


@dataclass(frozen=True, eq=False)
class LayerCurvature:
    """What calibration says about one weight tensor.

    Attributes:
        name: its ``state_dict`` key.
        shape: its shape.
        weight: ``(groups, rows, columns)`` float32, the float weights.
        gram: ``(groups, columns, columns)`` float64, symmetric, positive semi-definite.
        sensitivity: ``(groups, rows)`` float64, non-negative; ``sensitivity_r gram`` is the
            curvature of row r in nats per squared weight unit and image.
        absorber: ``state_dict`` key of what can take up a constant change of the outputs: the
            layer's ``bias``, else the ``running_mean`` of ``norm``. ``None`` when there is neither.
        absorbed: ``(groups, columns)`` float64. Where there is an absorber, ``gram`` is what
            remains once it has moved optimally, and its optimal move for a change E of row r is
            ``-E_r absorbed``; zeros otherwise.
        norm: module name of the BatchNorm that reads all of the layer's outputs and nothing else;
            nobody but it may read them, which cannot be seen from here.
        positions: patches seen.
    """

    name: str
    shape: tuple[int, ...]
    weight: Tensor
    gram: Tensor
    sensitivity: Tensor
    absorber: str | None
    absorbed: Tensor
    norm: str | None
    positions: int


@dataclass(frozen=True, eq=False)
class Curvature:
    """Every layer of a network, in the order the network executes them.

    Attributes:
        layers: the weights that have a curvature.
        left_out: ``state_dict`` key -> why it has none, for every other floating parameter with
            two or more dimensions. Nothing is skipped silently.
        images: calibration images used.
    """

    layers: tuple[LayerCurvature, ...]
    left_out: dict[str, str]
    images: int

    @property
    def n_weights(self) -> int:
        """Number of weights with a curvature."""
        return sum(layer.weight.numel() for layer in self.layers)


def measure_curvature(
    network: nn.Module,
    batches: Iterable[Tensor],
    *,
    kind: CurvatureKind = "gradients",
    sketches: int = 4,
    temperature: float = 4.0,
    fixed: Collection[str] = (),
    seed: int = 0,
) -> Curvature:
    """Run calibration images through a network once and return the curvature of every layer.

    The network is used in eval mode and left as it was found. Layers are found by type, anywhere,
    and ordered by execution; a layer (or a tied weight) used several times sums its uses,
    without the terms between two uses. What a layer receives as its first dimension counts as
    images. Products of one piece of a batch are taken in float32 and added in float64, so the
    relative error of an element is of the order 2**-24 times the square root of the patches in a
    piece, whatever the number of images. Memory: one float64 matrix of ``columns**2`` per layer,
    the autograd graph of one batch, and temporaries of at most 64 MiB each.

    Args:
        network: maps a batch to logits ``(batch, classes)``.
        batches: images ``(batch, ...)``, unlabelled.
        kind: which Gram matrix, see the module's head.
        sketches: random sign vectors per image, at least 1. More is less noise.
        temperature: divides the logits before the softmax, positive. 1 is the Fisher matrix, which
            on a confident network hangs on a handful of images; high values tend to a Gauss-Newton
            matrix in which all logits and images count alike. 4 measured best or close to it on
            three networks.
        fixed: ``state_dict`` keys that may not serve as absorbers, e.g. biases that are shared.
        seed: of the sign vectors.

    Raises:
        InputError: an argument is out of range, or the network returns no ``(batch, classes)``.
        DataError: there are no images.
    """
    if kind not in CURVATURE_KINDS:
        raise InputError(f"curvature kind {kind!r} is not one of {', '.join(CURVATURE_KINDS)}")
    if sketches < 1:
        raise InputError(f"got {sketches} sketches, needed at least 1")
    if not temperature > 0:
        raise InputError(f"got temperature {temperature}, needed a positive number")
    found = find_layers(network)
    owners = {id(layer.weight): name for name, layer in found.items()}
    recorder = _Recorder(owners)
    device = next(iter(found.values())).weight.device if found else torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, _Sums] = {}
    images = 0
    modes = {module: module.training for module in network.modules()}
    handles = [
        module.register_forward_hook(recorder)
        for module in network.modules()
        if isinstance(module, LAYER_TYPES)
    ]
    watcher = _NormWatcher(recorder, {module: name for name, module in network.named_modules()})
    handles += [
        module.register_forward_pre_hook(watcher)
        for module in network.modules()
        if isinstance(module, NORM_TYPES) and module.track_running_stats
    ]
    try:
        network.eval()
        for batch in batches:
            recorder.calls.clear()
            gradients = _sketched_gradients(
                network, batch.to(device), recorder, sketches, temperature, generator
            )
            images += batch.shape[0]
            for i, call in enumerate(recorder.calls):
                if call.name not in sums:
                    sums[call.name] = _Sums(found[call.name], kind)
                sums[call.name].add(call.inputs, [g[i] for g in gradients])
    finally:
        recorder.calls.clear()
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    if images == 0:
        raise DataError("calibration needs at least one image, got none")
    holders = Counter(
        id(module.weight) for module in network.modules() if isinstance(module, LAYER_TYPES)
    )
    layers = []
    for name, total in sums.items():
        absorber, norm = None, None
        if holders[id(total.layer.weight)] == 1:  # what several layers share has no bias of its own
            norm = watcher.norm_of(name, total.uses)
            if total.layer.bias is not None:
                absorber = name.removesuffix("weight") + "bias"
            elif norm is not None:
                absorber = f"{norm}.running_mean"
            if absorber in fixed:
                absorber, norm = None, None
        layers.append(total.finish(name, images, sketches, absorber, norm))
    return Curvature(tuple(layers), _left_out(network, found, sums), images)


@dataclass(eq=False)
class _Call:
    name: str
    inputs: Tensor
    outputs: Tensor


class _Recorder:
    """A forward hook that writes down every call of a layer."""

    def __init__(self, owners: dict[int, str]) -> None:
        self.owners = owners
        self.calls: list[_Call] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
        assert isinstance(module, LAYER_TYPES)
        name = self.owners.get(id(module.weight))
        if name is not None:
            self.calls.append(_Call(name, args[0].detach(), result))


def _sketched_gradients(
    network: nn.Module,
    batch: Tensor,
    recorder: _Recorder,
    sketches: int,
    temperature: float,
    generator: torch.Generator,
) -> list[list[Tensor]]:
    """Return, per sketch, the gradient of its scalar in the output of every recorded call."""
    with torch.enable_grad():
        # A leaf that needs a gradient makes every output differentiable, frozen weights or not.
        logits = network(batch.detach().requires_grad_(batch.is_floating_point()))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"calibration needs logits of shape (batch, classes), got {shape}")
        p = (logits.detach().float() / temperature).softmax(1)
        made = [call.outputs for call in recorder.calls]
        gradients = []
        for i in range(sketches):
            signs = torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1
            root = p.sqrt() * signs
            sketch = root - p * root.sum(1, keepdim=True)
            gradients.append(
                list(
                    torch.autograd.grad(
                        logits,
                        made,
                        sketch.to(logits.dtype),
                        retain_graph=i + 1 < sketches,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                )
            )
    return gradients


class _Sums:
    """Running sums of one weight tensor."""

    def __init__(self, layer: Layer, kind: CurvatureKind) -> None:
        weight = layer.weight.detach()
        self.layer = layer
        self.kind = kind
        self.groups = groups_of(layer)
        self.rows = weight.shape[0] // self.groups
        columns = weight[0].numel()
        exact: dict[str, Any] = {"dtype": torch.float64, "device": weight.device}
        # The last column stands for a constant input: what a bias would be multiplied with.
        self.gram = torch.zeros(self.groups, columns + 1, columns + 1, **exact)
        self.energy = torch.zeros(self.groups, self.rows, **exact)
        self.positions = 0
        self.uses = 0

    @torch.no_grad()
    def add(self, inputs: Tensor, gradients: list[Tensor]) -> None:
        """Add one use of the weight by one batch.

        Args:
            inputs: as the layer received them.
            gradients: per sketch the gradient of its scalar in the layer's output.
        """
        self.uses += 1
        stacked = torch.stack([outputs(self.layer, g).float() for g in gradients])
        size = images_per_piece(self.layer, stacked.shape[2])
        for x, g in zip(torch.split(inputs, size), torch.split(stacked, size, 1), strict=True):
            self._add_piece(patches(self.layer, x).float(), g)

    def _add_piece(self, x: Tensor, g: Tensor) -> None:
        """Add patches ``(batch, positions, groups, columns)`` and their output gradients.

        ``g`` is ``(sketches, batch, positions, groups, rows)``.
        """
        self.positions += x.shape[0] * x.shape[1]
        x = torch.cat([x, x.new_ones(*x.shape[:3], 1)], 3)
        if self.kind == "inputs":
            flat = x.flatten(0, 1).transpose(0, 1)
            self.gram += (flat.transpose(1, 2) @ flat).double()
            self.energy += g.square().sum((0, 1, 2), dtype=torch.float64)
            return
        taken = x.transpose(1, 2)  # (batch, groups, positions, columns)
        g = g.transpose(2, 3)  # (sketches, batch, groups, positions, rows)
        sketches, _, _, positions, rows = g.shape
        columns = taken.shape[3]
        through_rows = sketches * rows * (positions + columns) * columns
        through_positions = positions * (2 * positions + columns) * columns
        if through_rows <= through_positions + sketches * rows * positions**2:
            for sketch in g:
                gradient = sketch.transpose(2, 3) @ taken  # (batch, groups, rows, columns)
                self.energy += gradient.square().sum((0, 3), dtype=torch.float64)
                flat = gradient.transpose(0, 1).flatten(1, 2)
                self.gram += (flat.transpose(1, 2) @ flat).double()
            return
        # The same sums without forming the gradients: X'(gg')X, all sketches at once.
        between = taken @ taken.transpose(2, 3)
        self.energy += ((between @ g) * g).sum((0, 1, 3), dtype=torch.float64)
        stacked = g.permute(1, 2, 3, 0, 4).flatten(3)  # (batch, groups, positions, sketches * rows)
        weighted = stacked @ stacked.transpose(2, 3) @ taken
        left = taken.transpose(0, 1).flatten(1, 2)
        right = weighted.transpose(0, 1).flatten(1, 2)
        self.gram += (left.transpose(1, 2) @ right).double()

    def finish(
        self, name: str, images: int, sketches: int, absorber: str | None, norm: str | None
    ) -> LayerCurvature:
        """Return the averages, with the absorber eliminated."""
        energy = self.energy / (images * sketches)
        if self.kind == "inputs":
            gram, sensitivity = self.gram / self.positions, energy
        else:
            # gram: mean over rows. The sensitivities say how the rows share its trace.
            gram = self.gram / (images * sketches * self.rows)
            gram = (gram + gram.transpose(1, 2)) / 2  # X'(KX) is symmetric up to rounding only
            trace = gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
            sensitivity = energy / torch.where(trace > 0, trace, 1.0)
        mixed, constant = gram[:, :-1, -1], gram[:, -1:, -1]
        gram, absorbed = gram[:, :-1, :-1].clone(), torch.zeros_like(mixed)
        if absorber is not None:
            absorbed = mixed / torch.where(constant > 0, constant, 1.0)
            gram -= mixed.unsqueeze(2) * absorbed.unsqueeze(1)
        weight = self.layer.weight.detach()
        return LayerCurvature(
            name,
            tuple(weight.shape),
            rows_of(weight, self.groups).float().clone(),
            gram,
            sensitivity,
            absorber,
            absorbed,
            norm,
            self.positions,
        )


class _NormWatcher:
    """Finds the BatchNorm behind every layer: the one that is handed the layer's own output."""

    def __init__(self, recorder: _Recorder, names: dict[nn.Module, str]) -> None:
        self.recorder = recorder
        self.names = names
        self.reads: Counter[tuple[str, str]] = Counter()  # (weight, BatchNorm)
        self.calls: Counter[str] = Counter()

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.calls[self.names[module]] += 1
        for call in self.recorder.calls:
            if call.outputs is args[0]:
                self.reads[call.name, self.names[module]] += 1

    def norm_of(self, name: str, uses: int) -> str | None:
        """Return the BatchNorm that reads every use of a weight, and nothing but that weight."""
        for (weight, norm), reads in self.reads.items():
            if weight == name and reads == uses == self.calls[norm]:
                return norm
        return None


def _left_out(
    network: nn.Module, found: dict[str, Layer], measured: dict[str, _Sums]
) -> dict[str, str]:
    """Say why every other weight tensor has no curvature."""
    reasons = {}
    for prefix, module in network.named_modules():
        for local, parameter in module.named_parameters(recurse=False, remove_duplicate=True):
            name = f"{prefix}.{local}" if prefix else local
            if parameter.ndim < 2 or not parameter.is_floating_point() or name in measured:
                continue
            if any(layer.weight is parameter for layer in found.values()) and name not in found:
                continue
            reasons[name] = (
                "its layer was not called by the calibration run"
                if name in found
                else f"{type(module).__name__} is not a linear or convolution layer"
            )
    return reasons
