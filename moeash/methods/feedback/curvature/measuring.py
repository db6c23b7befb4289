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
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch
from moeash.errors import DataError, InputError
from moeash.methods.feedback.curvature.sums import CurvatureKind, Sums
from moeash.tracing.outputs import OutputOf
from moeash.tracing.passes import Part, Passes
from moeash.tracing.patches import rows_of
from moeash.tracing.uses import tiles, why_unused

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
        lookup: whether its rows are looked up, as an embedding's are.
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
    lookup: bool = False

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
    prior: float = 0.0,
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
        prior: images more in which rows are like the average one of their layer, see
            :mod:`moeash.methods.feedback.curvature.sums`. 0: only what the images say.

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
    if not prior >= 0:
        raise InputError(f"got a prior of {prior} images, needed at least 0")
    run = Passes(network, sketches=sketches, temperature=temperature, seed=seed, output=output)
    sums: dict[Part, Sums] = {}
    empty = {name: NO_WEIGHTS for name, p in network.named_parameters() if not p.numel()}
    for call, gradients, n_images in run.over(batches):
        if call.part[0] in empty:
            continue
        if call.part not in sums:
            sums[call.part] = Sums(call.use.map, kind)
        sums[call.part].add(call, gradients, n_images)
    if run.images == 0:
        raise DataError("calibration needs at least one image, got none")
    layers, left_out = _finished(network, sums, run, fixed, prior)
    left_out |= empty
    return Curvature(tuple(layers), left_out | _unseen(network, run, layers, left_out), run.images)


def _finished(
    network: nn.Module,
    sums: dict[Part, "Sums"],
    run: Passes,
    fixed: Collection[str],
    prior: float,
) -> tuple[list[LayerCurvature], dict[str, str]]:
    """Return the curvature of every weight whose parts are all its rows, and why others are not.

    Empties ``sums`` on the way: they are as large as the result.
    """
    parameters = dict(network.named_parameters())
    weights: dict[str, list[Sums]] = {}
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
        made = [
            part.finish(run.images, run.sketches, absorbing=absorber is not None, prior=prior)
            for part in parts
        ]
        gram, sensitivity, absorbed = map(_joined, zip(*made, strict=True))
        weight = _joined([rows_of(part.weight, part.groups).float().clone() for part in parts])
        positions = sum(part.positions for part in parts)
        shape = tuple(parameters[name].shape)
        lookup = any(part.lookup for part in parts)
        layers.append(
            LayerCurvature(
                name, shape, weight, gram, sensitivity, absorber, absorbed, norm, positions, lookup
            )
        )
    return layers, left_out


def _own(
    bias: str, readers: Counter[str | None], parameters: dict[str, nn.Parameter], name: str
) -> bool:
    """Whether all of a bias goes with all of a weight and with no other."""
    return bias != "" and readers[bias] == 1 and len(parameters[bias]) == len(parameters[name])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return one tensor of its parts, which become its groups."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


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
