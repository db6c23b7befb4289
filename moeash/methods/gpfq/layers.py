"""GPFQ: greedy path-following quantisation, in Gram form, layer by layer.

Each layer has an alphabet of its own. The inputs of a layer are taken twice, from the float network
(X) and from the network whose earlier layers are already quantised (X~); with ``G = X~'X~`` and
``C = X~'X`` the greedy path is::

    v_t = ( W[:, :t+1] C[t, :t+1]' - Q[:, :t] G[:t, t] ) / G[t, t];   q_t = quantiser(v_t)

which is, column by column, the minimiser of the distance to the *float* pre-activations, so later
layers partly repair what earlier ones did. Products over samples are sums, so calibration streams
in batches of any size. A filter over all its input channels is one neuron (d = C_in/groups kh kw).

Source: Zhang, Zhou, Saab, "Post-training quantization for neural networks with provable
guarantees"; Lybrand, Saab, "A greedy algorithm for quantizing neural networks"; alphabets and
variants as in the code of both, methods.md sections 1.2 to 1.5. Differs: every patch of a
convolution is used, at its real stride, instead of a random quarter of disjoint patches.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moeash.core.codebook import State
from moeash.core.progress import Progress, silent
from moeash.data.inputs import Batch, call
from moeash.errors import DataError, EvaluationError, InputError
from moeash.methods.gpfq.options import VARIANTS, Variant
from moeash.methods.recursion import BLOCK, recurse
from moeash.networks.devices import device_of
from moeash.networks.writing.borrowing import Borrowed, TwoVersions
from moeash.tracing.patches import LinearMap, images_per_piece, n_positions, patches, rows_of
from moeash.tracing.stepwise import Stepwise
from moeash.tracing.uses import Use, tiles, watch_uses, why_unused
from moeash.tracing.watching import in_eval_mode

THRESHOLD = 0.1
"""Threshold of the l0 and l1 variants, in units of the weights: the value of the paper's code."""

Quantiser = Callable[[Tensor], Tensor]
"""Targets of any shape -> int64 positions in the alphabet."""


@dataclass(frozen=True, eq=False)
class Alphabet:
    """The symbols of one layer.

    Attributes:
        entries: ``(n_entries,)``, strictly increasing.
        quantise: picks one for every target.
    """

    entries: Tensor
    quantise: Quantiser


def symmetric_alphabet(
    weight: Tensor,
    *,
    levels: int,
    scale: float = 1.16,
    variant: Variant = "nearest",
    threshold: float = THRESHOLD,
    generator: torch.Generator | None = None,
) -> Alphabet:
    """Return the mid-tread alphabet ``{-levels..levels} delta`` of a layer.

    ``delta = scale / levels`` times the mean over neurons of the largest ``|w|``. It has
    ``2 levels + 1`` symbols: the "b bits" of the reference code are ``levels = 2^(b-1)``. The l0
    variant keeps the top symbol and has two more, ``{0, +-threshold, +-(threshold + j delta')}``.

    Args:
        weight: ``(groups, rows, columns)``.
        levels: positive symbols, at least 1.
        scale: C of the paper, positive.
        variant: ``"nearest"``; ``"l1"`` shrinks targets by ``threshold`` first; ``"l0"`` sends
            ``|v| <= threshold`` to 0 and counts the other symbols from there; ``"stochastic"``
            rounds up with the probability that keeps the mean.
        threshold: of l0 and l1, in units of the weights.
        generator: of the stochastic variant, which needs one.

    Raises:
        InputError: an argument is out of its range.
    """
    if variant not in VARIANTS:
        raise InputError(f"GPFQ variant {variant!r} is not one of {', '.join(VARIANTS)}")
    if levels < 1 or not scale > 0:
        raise InputError(f"got {levels} levels, scale {scale}; needed at least 1, above 0")
    radius = float(weight.abs().flatten(0, 1).amax(dim=1).double().mean())
    delta = scale * radius / levels or 1.0  # all weights zero: any alphabet holds them
    steps = torch.arange(-levels, levels + 1, dtype=weight.dtype, device=weight.device)
    if variant == "l0":
        if not 0 <= threshold < scale * radius:
            raise InputError(
                f"threshold {threshold} is not in [0, {scale * radius}), the top symbol of a "
                "layer; choose another variant than l0"
            )
        delta -= threshold / levels
        positive = threshold + delta * torch.arange(
            levels + 1, dtype=steps.dtype, device=steps.device
        )
        entries = torch.cat([-positive.flip(0), positive.new_zeros(1), positive])
        return Alphabet(entries, _hard(delta, levels, threshold))
    if variant == "l1":
        return Alphabet(steps * delta, _soft(delta, levels, threshold))
    if variant == "stochastic":
        if generator is None:
            raise InputError("the stochastic variant needs a generator")
        return Alphabet(steps * delta, _stochastic(delta, levels, generator))
    return Alphabet(steps * delta, _soft(delta, levels, 0.0))


def finite_alphabet(entries: Tensor) -> Alphabet:
    """Return any finite alphabet with its nearest-entry rule, e.g. the global codebook."""
    middles = (entries[1:] + entries[:-1]) / 2
    return Alphabet(entries, lambda target: torch.bucketize(target.contiguous(), middles))


def _soft(delta: float, levels: int, threshold: float) -> Quantiser:
    def quantise(target: Tensor) -> Tensor:
        magnitude = (target.abs() - threshold).clamp(min=0)
        steps = (magnitude / delta + 0.5).floor().clamp(max=levels)
        return (target.sign() * steps).long() + levels

    return quantise


def _hard(delta: float, levels: int, threshold: float) -> Quantiser:
    def quantise(target: Tensor) -> Tensor:
        magnitude = target.abs() - threshold
        steps = (magnitude / delta + 0.5).floor().clamp(min=0, max=levels) + 1
        steps = torch.where(magnitude > 0, steps, 0.0)
        return (target.sign() * steps).long() + levels + 1

    return quantise


def _stochastic(delta: float, levels: int, generator: torch.Generator) -> Quantiser:
    def quantise(target: Tensor) -> Tensor:
        steps = target / delta
        # Drawn on the CPU: the same stream on every device.
        draw = torch.rand(target.shape, generator=generator, dtype=torch.float64).to(target.device)
        up = draw < (steps - steps.floor()).double()
        return (steps.floor() + up).clamp(min=-levels, max=levels).long() + levels

    return quantise


def assign_gpfq(
    weight: Tensor, gram: Tensor, cross: Tensor, alphabet: Alphabet, *, block: int = BLOCK
) -> Tensor:
    """Quantise one layer along the greedy path.

    Args:
        weight: ``(groups, rows, columns)``.
        gram: ``(groups, columns, columns)``, X~'X~.
        cross: ``(groups, columns, columns)``, X~'X; the Gram matrix itself when the inputs agree.
        alphabet: the layer's symbols.
        block: columns per block, see :func:`moeash.methods.recursion.recurse`.

    Returns:
        ``(groups, rows, columns)`` int64 positions in the alphabet. A column whose inputs are all
        zero gets 0 if the alphabet has it, else the symbol of the weight itself.
    """
    gram, cross = gram.to(weight.dtype), cross.to(weight.dtype)
    entries = alphabet.entries
    has_zero = bool((entries == 0).any())
    energy = gram.diagonal(dim1=1, dim2=2)
    alive = energy > 0
    inverse = torch.where(alive, energy, 1.0).reciprocal()
    numerators = weight @ cross.tril().transpose(1, 2)

    def choose(t: int, numerator: Tensor) -> tuple[Tensor, Tensor]:
        dead = torch.zeros_like(numerator) if has_zero else weight[:, :, t]
        target = torch.where(alive[:, t, None], numerator * inverse[:, t, None], dead)
        indices = alphabet.quantise(target)
        return indices, entries[indices]

    return recurse(numerators, gram, choose, carry="value", block=block)


@dataclass(frozen=True, eq=False)
class GpfqLayer:
    """One quantised layer.

    Attributes:
        name: ``state_dict`` key of its weight.
        shape: shape of the weight.
        indices: int64, in the shape of the weight.
        entries: ``(n_entries,)`` float32, the layer's alphabet.
        bias_shift: ``(n_outputs,)`` float64, what bias correction would add to the bias:
            ``W mean(X) - Q mean(X~)``. Not applied here.
    """

    name: str
    shape: tuple[int, ...]
    indices: Tensor
    entries: Tensor
    bias_shift: Tensor


def quantise_gpfq(
    network: nn.Module,
    batches: Sequence[Batch],
    alphabet: Callable[[Tensor], Alphabet],
    *,
    shared: Collection[str] | None = None,
    state: State | None = None,
    progress: Progress = silent,
) -> tuple[GpfqLayer, ...]:
    """Quantise the weight of every layer, in the order the network executes them.

    The float and the partly quantised network run side by side over the calibration batches, in
    the memory of one, which holds in the end what it held before; see
    :mod:`moeash.tracing.stepwise`. A weight used several times sums the Gram matrices of its uses;
    one used in parts, as attention's projections of queries, keys and values are, has a matrix per
    part.

    Args:
        network: the network.
        batches: unlabelled images.
        alphabet: makes a layer's alphabet from its ``(groups, rows, columns)`` float64 weight, e.g.
            a partial of :func:`symmetric_alphabet`.
        shared: ``state_dict`` keys to quantise; default: all that can be.
        state: the float weights; default: what the network holds.
        progress: told after every layer.

    Returns:
        The layers in execution order. :func:`quantisable` names those that are not among them.

    Raises:
        DataError: there are no batches.
        EvaluationError: a layer's inputs are not finite.
    """
    with torch.no_grad(), Borrowed(network, state) as borrowed, ExitStack() as held:
        found, _ = quantisable(network, batches)
        names = {name: n for name, n in found.items() if shared is None or name in shared}
        versions = TwoVersions(borrowed)
        steps = held.enter_context(Stepwise(versions, batches, names))
        results = []
        for name in names:
            parts = _gram_sums(steps, name)
            layer = _quantised(name, borrowed.get(name), parts, alphabet)
            versions.replace({name: layer.entries[layer.indices]})
            results.append(layer)
            progress("quantising layers", len(results), len(names))
        return tuple(results)


def _gram_sums(steps: Stepwise, name: str) -> "list[_PairSums]":
    """Return the sums of a weight's parts, by their first rows."""
    parts: dict[int, _PairSums] = {}
    for use, x, xt in steps.inputs(name):
        if use.first_row not in parts:
            parts[use.first_row] = _PairSums(use.map)
        parts[use.first_row].add(x, xt)
    return [parts[first] for first in sorted(parts)]


def _quantised(
    name: str, weight: Tensor, sums: "list[_PairSums]", alphabet: Callable[[Tensor], Alphabet]
) -> GpfqLayer:
    """Quantise one weight along the greedy path."""
    shape = tuple(weight.shape)
    weight = rows_of(weight, sum(part.map.groups for part in sums)).double()
    gram, cross = (torch.cat([getattr(p, what) for p in sums]) for what in ("gram", "cross"))
    if not (torch.isfinite(gram).all() and torch.isfinite(cross).all()):
        raise EvaluationError(
            f"the inputs of {name} are not finite, or too large for their squares, in the float or "
            "the partly quantised network; more levels or method uniform may do"
        )
    symbols = alphabet(weight)
    indices = assign_gpfq(weight, gram, cross, symbols)
    entries = symbols.entries.float()
    shift = weight @ torch.cat([part.analog_mean for part in sums]).unsqueeze(-1)
    values = entries[indices].double()
    shift -= values @ torch.cat([part.quantised_mean for part in sums]).unsqueeze(-1)
    return GpfqLayer(name, shape, indices.reshape(shape), entries, shift.flatten())


@torch.no_grad()
def quantisable(
    network: nn.Module, batches: Sequence[Batch]
) -> tuple[dict[str, int], dict[str, str]]:
    """Find the weights GPFQ can quantise by running one batch.

    Returns:
        How often each is used, by ``state_dict`` key in execution order; and of every other
        floating parameter of two or more dimensions why it cannot.

    Raises:
        DataError: there are no batches.
    """
    if not batches:
        raise DataError("calibration needs at least one batch of images, got none")
    uses: dict[str, list[Use]] = {}
    watcher = watch_uses(network, lambda use, x, y: uses.setdefault(use.name, []).append(use))
    with in_eval_mode(network), watcher:
        call(network, batches[0].to(device_of(network)))
    parameters = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.ndim >= 2 and parameter.is_floating_point()
    }
    names, reasons = {}, why_unused(network, [name for name in parameters if name not in uses])
    for name, found in uses.items():
        ranges = {(use.rows.start, use.rows.stop): use.rows for use in found}
        reason = tiles([ranges[place] for place in sorted(ranges)], len(parameters[name]))
        if any(use.map.rows_are_inputs for use in found):
            # One-hot inputs are orthogonal, so the greedy path would be rounding to the nearest.
            reason = "GPFQ's neurons are outputs, its rows are inputs"
        if reason is None:
            names[name] = len(found)
        else:
            reasons[name] = reason
    return names, reasons


class _PairSums:
    """Gram sums of one weight, or part of it, over its float and its quantised inputs, float64."""

    def __init__(self, map_: LinearMap) -> None:
        groups, columns = map_.groups, map_.n_columns
        exact: dict[str, Any] = {"dtype": torch.float64, "device": map_.weight.device}
        self.map = map_
        self.gram = torch.zeros(groups, columns, columns, **exact)
        self.cross = torch.zeros(groups, columns, columns, **exact)
        self._analog_sum = torch.zeros(groups, columns, **exact)
        self._quantised_sum = torch.zeros(groups, columns, **exact)
        self._positions = 0

    @property
    def analog_mean(self) -> Tensor:
        """Mean float input."""
        return self._analog_sum / self._positions

    @property
    def quantised_mean(self) -> Tensor:
        """Mean input in the partly quantised network."""
        return self._quantised_sum / self._positions

    @torch.no_grad()
    def add(self, analog: Tensor, quantised: Tensor) -> None:
        size = images_per_piece(self.map, n_positions(self.map, analog))
        for one, other in zip(torch.split(analog, size), torch.split(quantised, size), strict=True):
            x = patches(self.map, one).double().flatten(0, 1).transpose(0, 1)
            xt = patches(self.map, other).double().flatten(0, 1).transpose(0, 1)
            self.gram += xt.transpose(1, 2) @ xt
            self.cross += xt.transpose(1, 2) @ x
            self._analog_sum += x.sum(1)
            self._quantised_sum += xt.sum(1)
            self._positions += x.shape[1]
