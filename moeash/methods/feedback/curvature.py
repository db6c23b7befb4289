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
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch
from moeash.errors import DataError, InputError
from moeash.tracing.outputs import OutputOf
from moeash.tracing.passes import Part, Passes, RecordedUse
from moeash.tracing.patches import LinearMap, images_per_piece, patches, per_row, rows_of
from moeash.tracing.uses import tiles, why_unused

CurvatureKind = Literal["gradients", "inputs"]
CURVATURE_KINDS: tuple[str, ...] = get_args(CurvatureKind)

NO_WEIGHTS = "it holds no weights"


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

    @property
    def finite(self) -> bool:
        """Whether every number that calibration gave is finite: float32 sums may overflow."""
        measured = (self.gram, self.sensitivity, self.absorbed)
        return all(bool(torch.isfinite(values).all()) for values in measured)


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
    batches: Iterable[Batch],
    *,
    kind: CurvatureKind = "gradients",
    sketches: int = 4,
    temperature: float = 4.0,
    fixed: Collection[str] = (),
    seed: int = 0,
    output: OutputOf | None = None,
) -> Curvature:
    """Run calibration images through a network once and return the curvature of every layer.

    The network is used in eval mode and left as it was found. Weights are found where they are
    used (see :mod:`moeash.tracing.uses`), in the order of execution; a weight used several times
    sums its uses, without the terms between two uses, and one used in parts (attention's queries,
    keys and values) has a matrix per part, as groups have. The first dimension of what a layer
    receives counts as images, or, where it is a multiple of the batch, as their windows. Products
    of one piece of a batch are taken in float32 and added in float64, so the relative error of an
    element is of the order 2**-24 times the square root of the patches in a piece, whatever the
    number of images. Memory: one float64 matrix of ``columns**2`` per layer, the autograd graph of
    one batch, and temporaries of at most 64 MiB each.

    Args:
        network: maps a batch to scores, or to single values, see
            :func:`moeash.tracing.outputs.scores`.
        batches: images ``(batch, ...)``, unlabelled.
        kind: which Gram matrix, see the module's head.
        sketches: random sign vectors per image, at least 1. More is less noise.
        temperature: divides the logits before the softmax, positive. 1 is the Fisher matrix, which
            on a confident network hangs on a handful of images; high values tend to a Gauss-Newton
            matrix in which all logits and images count alike. 4 measured best or close to it on
            three networks.
        fixed: ``state_dict`` keys that may not serve as absorbers, e.g. biases that are shared.
        seed: of the sign vectors.
        output: names the tensor that counts of what the network returns.

    Raises:
        InputError: an argument is out of range, or the network returns no scores.
        DataError: there are no images.
    """
    if kind not in CURVATURE_KINDS:
        raise InputError(f"curvature kind {kind!r} is not one of {', '.join(CURVATURE_KINDS)}")
    if sketches < 1:
        raise InputError(f"got {sketches} sketches, needed at least 1")
    if not temperature > 0:
        raise InputError(f"got temperature {temperature}, needed a positive number")
    run = Passes(network, sketches=sketches, temperature=temperature, seed=seed, output=output)
    sums: dict[Part, _Sums] = {}
    empty = {name: NO_WEIGHTS for name, p in network.named_parameters() if not p.numel()}
    for call, gradients, n_images in run.over(batches):
        if call.part[0] in empty:
            continue
        if call.part not in sums:
            sums[call.part] = _Sums(call.use.map, kind)
        sums[call.part].add(call, gradients, n_images)
    if run.images == 0:
        raise DataError("calibration needs at least one image, got none")
    layers, left_out = _finished(network, sums, run, fixed)
    left_out |= empty
    return Curvature(tuple(layers), left_out | _unseen(network, run, layers, left_out), run.images)


def _finished(
    network: nn.Module,
    sums: dict[Part, "_Sums"],
    run: Passes,
    fixed: Collection[str],
) -> tuple[list[LayerCurvature], dict[str, str]]:
    """Return the curvature of every weight whose parts are all its rows, and why others are not.

    Empties ``sums`` on the way: they are as large as the result.
    """
    parameters = dict(network.named_parameters())
    weights: dict[str, list[_Sums]] = {}
    for part in list(sums):
        weights.setdefault(part[0], []).append(sums.pop(part))
    biases = {name: {b for part in parts for b in part.biases} for name, parts in weights.items()}
    readers = Counter(bias for used in biases.values() for bias in used)
    layers, left_out = [], {}
    for name in list(weights):
        parts = sorted(weights.pop(name), key=lambda part: part.rows.start)
        bias, *others = biases[name]
        reason = tiles([part.rows for part in parts], len(parameters[name]))
        if reason is not None:
            left_out[name] = reason
            continue
        absorber, norm = None, None
        if not any(part.rows_are_inputs for part in parts):
            norm = run.norm_of(name, sum(part.uses for part in parts))
            if others or (bias is not None and not _own(bias, readers, parameters, name)):
                norm = None  # a bias, but none of its own: nothing may be moved or rescaled
            elif bias is not None:
                absorber = bias
            elif norm is not None:
                absorber = f"{norm}.running_mean"
        if absorber in fixed:
            absorber, norm = None, None
        finished = [part.finish(name, run, absorber, norm) for part in parts]
        layers.append(_joined(finished, tuple(parameters[name].shape)))
    return layers, left_out


def _own(
    bias: str, readers: Counter[str | None], parameters: dict[str, nn.Parameter], name: str
) -> bool:
    """Whether all of a bias goes with all of a weight and with no other."""
    return bias != "" and readers[bias] == 1 and len(parameters[bias]) == len(parameters[name])


def _joined(parts: list[LayerCurvature], shape: tuple[int, ...]) -> LayerCurvature:
    """Return one weight of its parts, which become its groups."""
    if len(parts) == 1:
        return replace(parts[0], shape=shape)
    return replace(
        parts[0],
        shape=shape,
        weight=torch.cat([part.weight for part in parts]),
        gram=torch.cat([part.gram for part in parts]),
        sensitivity=torch.cat([part.sensitivity for part in parts]),
        absorbed=torch.cat([part.absorbed for part in parts]),
        positions=sum(part.positions for part in parts),
    )


def _unseen(
    network: nn.Module,
    run: Passes,
    layers: list[LayerCurvature],
    left_out: dict[str, str],
) -> dict[str, str]:
    """Say of every other weight tensor why it has no use."""
    known = {*(layer.name for layer in layers), *left_out}
    unseen = [
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim >= 2 and parameter.is_floating_point() and name not in known
    ]
    blind = dict.fromkeys(run.blind, "the network computes with it without gradients")
    return why_unused(network, unseen) | {name: blind[name] for name in unseen if name in blind}


@torch.no_grad()
def pieces(
    call: RecordedUse, gradients: list[Tensor], images: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a few images at a time what a weight's gradients are made of.

    Args:
        call: one use of the weight by one batch.
        gradients: per sketch the gradient of its scalar in the outputs of the use.
        images: in the batch.

    Yields:
        Patches ``(images, positions, groups, columns)`` and what they are multiplied with,
        ``(sketches, images, positions, groups, rows)``: ``g'x`` summed over positions is the
        gradient in the weight. Float32.
    """
    map_ = call.use.map
    if not map_.rows_are_inputs:
        yield from _cut(map_, call.inputs, gradients, images)
        return
    for gradient in gradients:  # its rows are multiplied with gradients, which differ by sketch
        yield from _cut(map_, gradient, [call.inputs], images)


def _cut(
    map_: LinearMap, inputs: Tensor, others: list[Tensor], images: int
) -> Iterator[tuple[Tensor, Tensor]]:
    batch = inputs.shape[0]
    folded = 1 if batch % images else batch // images
    positions = patches(map_, inputs[:1]).shape[1]
    size = folded * images_per_piece(map_, folded * positions)
    for start in range(0, batch, size):
        piece = slice(start, start + size)
        x = patches(map_, inputs[piece]).float()
        g = torch.stack([per_row(map_, other[piece]).float() for other in others])
        n_images = x.shape[0] // folded
        x = x.reshape(n_images, -1, *x.shape[2:])
        yield x, g.reshape(len(others), n_images, -1, *g.shape[3:])


class _Sums:
    """Running sums of one weight tensor, or of a range of its rows."""

    def __init__(self, map_: LinearMap, kind: CurvatureKind) -> None:
        self.weight = map_.weight.detach()
        self.kind = kind
        self.groups = map_.groups
        exact: dict[str, Any] = {"dtype": torch.float64, "device": self.weight.device}
        # The last column stands for a constant input: what a bias would be multiplied with.
        columns = map_.n_columns + 1
        self.gram = torch.zeros(self.groups, columns, columns, **exact)
        self.energy = torch.zeros(self.groups, map_.n_rows, **exact)
        self.positions = 0
        self.uses = 0
        self.rows = range(0)
        self.rows_are_inputs = False
        self.biases: set[str | None] = set()

    @torch.no_grad()
    def add(self, call: RecordedUse, gradients: list[Tensor], images: int) -> None:
        """Add one use of the weight by one batch.

        Args:
            call: the use.
            gradients: per sketch the gradient of its scalar in the outputs of the use.
            images: in the batch.
        """
        map_ = call.use.map
        self.uses += 1
        self.rows = call.use.rows
        self.biases.add(call.use.bias)
        self.rows_are_inputs |= map_.rows_are_inputs
        for x, g in pieces(call, gradients, images):
            self._add_piece(x, g)

    def _add_piece(self, x: Tensor, g: Tensor) -> None:
        """Add patches ``(batch, positions, groups, columns)`` and their output gradients.

        ``g`` is ``(sketches, batch, positions, groups, rows)``.
        """
        self.positions += x.shape[0] * x.shape[1]
        x = torch.cat([x, x.new_full((*x.shape[:3], 1), 0.0 if self.rows_are_inputs else 1.0)], 3)
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
        self, name: str, run: Passes, absorber: str | None, norm: str | None
    ) -> LayerCurvature:
        """Return the averages, with the absorber eliminated."""
        energy = self.energy / (run.images * run.sketches)
        if self.kind == "inputs":
            gram, sensitivity = self.gram / self.positions, energy
        else:
            # gram: mean over rows. The sensitivities say how the rows share its trace.
            gram = self.gram / (run.images * run.sketches * self.energy.shape[1])
            gram = (gram + gram.transpose(1, 2)) / 2  # X'(KX) is symmetric up to rounding only
            trace = gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
            sensitivity = energy / torch.where(trace > 0, trace, 1.0)
        mixed, constant = gram[:, :-1, -1], gram[:, -1:, -1]
        gram, absorbed = gram[:, :-1, :-1].clone(), torch.zeros_like(mixed)
        if absorber is not None:
            absorbed = mixed / torch.where(constant > 0, constant, 1.0)
            gram -= mixed.unsqueeze(2) * absorbed.unsqueeze(1)
        return LayerCurvature(
            name,
            tuple(self.weight.shape),
            rows_of(self.weight, self.groups).float().clone(),
            gram,
            sensitivity,
            absorber,
            absorbed,
            norm,
            self.positions,
        )
