"""Rows balanced so that one grid suits all: in front of BatchNorms, and between two layers.

A BatchNorm behind a layer, or the columns of the layer that alone reads it, undo a rescaling of its
rows exactly, at no cost in bytes. That nothing else reads the layer is checked by its outputs.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch, call
from moeash.errors import RescalingError
from moeash.methods.feedback.columns import (
    Factor,
    assign_feedback,
    balancing_scales,
    entropy_bits,
    nearest,
    output_shift,
    rescaled,
    rescaled_statistics,
    safe_scales,
    zero_aligned_entries,
)
from moeash.methods.feedback.pairs import Pair, find_pairs, pair_scales, recolumned
from moeash.networks.norms import NORM_TYPES
from moeash.networks.sameness import SAME_FUNCTION
from moeash.networks.writing.borrowing import Borrowed
from moeash.tracing.outputs import OutputOf, chosen, compared, furthest, in_rows
from moeash.tracing.watching import in_eval_mode

PROBE = 0.25
"""Exponent with which factors are balanced that are not to be: only to see who reads their layers,
as a running mean may absorb only what it alone reads."""

AS_ASKED = 6e-5
"""What rows balanced as asked may lose on the finest grid, a share of what the outputs say, see
:func:`balanced`. LeNet-300-100 and LeNet-5 lose 4e-5 with the exponents of their studies, and 0.03
to 0.2 with 1/2 where that ruins them."""

HARMLESS = 5e-5
"""Likewise once scales are limited."""

UNBALANCED = 1.5
"""Or so many times what rows as they are lose."""

WORTH_IT = 10.0
"""Or so many times, where BatchNorms alone undo scales, or where SAVED says that it is worth it.
ResNet-20 loses 0.003 with the exponent of its study, 4 to 9 times what it loses without, and its
files of equal outputs are no larger."""

SAVED = 0.25
"""Bits a weight that balancing saves at equal losses where a loss of more than 1.5 times is worth
it; a loss falls by a factor of 4 a bit. The digits network saves 0.5 to 0.75 and its files are two
fifths smaller; layers beside a branch of gain 1 or 10 save nothing, and the best of a search would
end at 3 to 10 times the divergence."""

HALVINGS = 6
"""How often the limit of scales is halved before all rows are left as they are."""

NAMED = 3
"""Layers that a note names, at most."""


@dataclass(frozen=True)
class Balancing:
    """Which rows are balanced, and for which grids.

    Attributes:
        exponent: of :func:`moeash.methods.feedback.columns.balancing_scales` and
            :func:`moeash.methods.feedback.pairs.pair_scales`; 0 leaves the rows as they are.
        through_norms: let BatchNorms behind a layer undo its rescaling and take up constant
            changes. Right when nothing else reads the layer, which is checked.
        through_pairs: let the next layer's columns undo it where a layer has no BatchNorm behind
            it, see :mod:`moeash.methods.feedback.pairs`. Checked likewise.
        finest: bins of the finest grid that candidates may ask for.
    """

    exponent: float = 0.25
    through_norms: bool = True
    through_pairs: bool = True
    finest: int = 128


@dataclass(frozen=True, eq=False)
class Balanced:
    """A network with balanced rows, the same function as before.

    Attributes:
        factors: its layers.
        kept: the kept tensors that undo it, by ``state_dict`` key.
        notes: what people should know: which layers are balanced less than asked, and why.
    """

    factors: list[Factor]
    kept: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def balanced(
    network: nn.Module,
    factors: list[Factor],
    batch: Batch,
    balancing: Balancing,
    shared: Collection[str],
    plain: Mapping[str, Tensor],
    output: OutputOf | None = None,
) -> Balanced:
    """Balance the rows as asked, or as far as the finest grid bears it.

    All rows share one grid over their range. Scales ask for the best steps of a grid as fine as one
    likes: the rows of a branch of gain 0.01 are multiplied by 300, so that they alone span the
    range, and on 128 bins all other weights are 0. So the weights are assigned on the finest grid,
    with feedback and bits for free, and the outputs on ``batch`` compared with the network's: their
    divergence in nats, as a share of what the outputs say, ``log(classes) - entropy``; of single
    values the squared change, as a share of their variance. Where that is more than AS_ASKED and
    so many times what rows as they are lose, scales are held within a limit, which is halved, in
    logarithms, until it is no more than HARMLESS or as much. A layer whose scales reach further has
    all of them raised to the power that brings them within; other layers keep theirs.

    Measured for a straight layer beside three of gain 0.3, 0.1 and 0.01: the least divergence on
    128 bins came from 4e-4, 3e-3 and 0.15 to 1e-5, as rows as they are reach it. Predictions do
    not tell such networks from others: the quadratic model's loss is up to 25 times too high and 6
    times too low, and nearest entries lose 10 times what feedback loses on ResNet-20.

    Args:
        network: the float network.
        factors: its layers.
        batch: images on which outputs are compared.
        balancing: what is wanted.
        shared: ``state_dict`` keys that are shared: a shared bias cannot be scaled.
        plain: the shared weights that have no factor, by key: they are on the same grid.
        output: names the tensor that is compared of what the network returns; default: all.

    Raises:
        RescalingError: something else reads a layer than what is to undo its rescaling.
    """
    state, exponent = network.state_dict(), balancing.exponent
    absorbers = [factor.absorber for factor in factors if factor.absorber is not None]
    as_it_is = Balanced(factors, {name: state[name].detach().clone() for name in absorbers})
    if balancing.through_norms:
        scales = balancing_scales(factors, exponent or PROBE)
        probed = _before_norms(network, as_it_is, scales)
        _check_same_function(network, probed, batch, "norms", output)
    if not exponent:
        return as_it_is
    pairs: tuple[Pair, ...] = ()
    if balancing.through_pairs:
        pairs = _usable(find_pairs(network, batch), factors, shared)
    found, furthest = _within(network, as_it_is, balancing, pairs, inf)
    if not furthest:
        return found
    if pairs:
        _check_same_function(network, found, batch, "pairs", output)
    loss = _Loss(network, batch, plain, balancing.finest, output)
    lost, bits = loss.of(found)
    if lost <= AS_ASKED:
        return found
    unbalanced, unbalanced_bits = loss.of(as_it_is)
    saves = lost * 4 ** (bits - unbalanced_bits + SAVED) <= unbalanced
    if lost <= (WORTH_IT if saves or not pairs else UNBALANCED) * unbalanced:
        return found
    most = max(HARMLESS, UNBALANCED * unbalanced)
    limit = max(furthest.values())
    for _ in range(HALVINGS):
        limit /= 2
        found, _ = _within(network, as_it_is, balancing, pairs, limit)
        if loss.of(found)[0] <= most:
            break
    else:
        found, limit = as_it_is, 0.0
    note = _note([name for name, far in furthest.items() if far > limit], furthest, limit)
    note += (
        f": balanced as asked, {balancing.finest} bins lose {lost:.2g} of what the outputs say, as "
        "few rows take the whole range"
    )
    return Balanced(found.factors, found.kept, (note,))


def _note(names: Sequence[str], furthest: Mapping[str, float], limit: float) -> str:
    listed = ", ".join(names[:NAMED])
    if len(names) > NAMED:
        listed += f" and {len(names) - NAMED} more"
    if not limit:
        return f"rows of {listed} are not balanced"
    most = exp(max(furthest.values()))
    return f"rows of {listed} are balanced by factors up to {exp(limit):.2g} instead of {most:.2g}"


class _Loss:
    """What networks of the same function lose on a grid over the range of their weights.

    Args:
        network: the float network.
        batch: images.
        plain: shared weights without a factor, by key.
        bins: of the grid.
        output: names the tensor that counts of what the network returns.
    """

    def __init__(
        self,
        network: nn.Module,
        batch: Batch,
        plain: Mapping[str, Tensor],
        bins: int,
        output: OutputOf | None,
    ) -> None:
        self._network, self._batch, self._plain, self._bins = network, batch, plain, bins
        self._output = output
        with torch.no_grad(), in_eval_mode(network):
            self._expected = self._outputs()
        if self._has_classes:
            negative_entropy = (self._expected.exp() * self._expected).sum(1).mean()
            self._said = float(negative_entropy) + log(self._expected.shape[1])
        else:
            self._said = float(self._expected.var(correction=0))

    @property
    def _has_classes(self) -> bool:
        return self._expected.shape[1] > 1

    def _outputs(self) -> Tensor:
        """Return logarithms of shares ``(any, classes)``, or single values ``(any, 1)``."""
        tensor = in_rows(chosen(call(self._network, self._batch), self._output)).double()
        return tensor.log_softmax(1) if tensor.shape[1] > 1 else tensor

    @torch.no_grad()
    def of(self, network: Balanced) -> tuple[float, float]:
        """Return what is lost, and bits a weight.

        The loss is the divergence of the outputs as a share of what they say; maybe no number.
        """
        weights = [*(factor.weight for factor in network.factors), *self._plain.values()]
        low = min(0.0, *(float(weight.min()) for weight in weights))
        high = max(0.0, *(float(weight.max()) for weight in weights))
        if not low < high:
            return 0.0, 0.0
        entries = zero_aligned_entries(low, high, self._bins)
        values, bits = dict(network.kept), 0.0
        for name, weight in self._plain.items():
            grid = entries.to(weight.device)
            indices = nearest(weight, grid)
            bits += entropy_bits(indices)
            values[name] = grid[indices]
        for factor in network.factors:
            grid = entries.to(factor.weight.device)
            indices = assign_feedback(factor, grid)
            bits += entropy_bits(indices)
            values[factor.name] = grid[indices]
            if factor.absorber is not None:
                shift = output_shift(factor, indices, grid).to(values[factor.absorber])
                sign = -1 if factor.absorber.endswith("running_mean") else 1
                values[factor.absorber] = values[factor.absorber] + sign * shift
        with Borrowed(self._network) as borrowed:
            borrowed.put(values)
            got = self._outputs()
        if self._has_classes:
            moved = (self._expected.exp() * (self._expected - got)).sum(1).mean()
        else:
            moved = (self._expected - got).square().mean()
        lost = float(moved) / self._said if self._said > 0 else 0.0
        return lost, bits / sum(weight.numel() for weight in weights)


def _within(
    network: nn.Module,
    as_it_is: Balanced,
    balancing: Balancing,
    pairs: tuple[Pair, ...],
    limit: float,
) -> tuple[Balanced, dict[str, float]]:
    """Balance with scales within a limit.

    Returns:
        The balanced network, and for every layer whose rows are balanced how far its scales would
        reach without a limit: the largest magnitude of their logarithms.
    """
    found = as_it_is
    furthest: dict[str, float] = {}
    if balancing.through_norms:
        scales = balancing_scales(found.factors, balancing.exponent)
        furthest |= {name: _reach(scale) for name, scale in scales.items()}
        scales = {name: _limited(scale, limit) for name, scale in scales.items()}
        found = _before_norms(network, found, scales)
    if pairs:
        scales = pair_scales(found.factors, pairs, balancing.exponent)
        furthest |= {name: _reach(scale) for name, scale in scales.items()}
        scales = {name: _limited(scale, limit) for name, scale in scales.items()}
        found = _between_layers(network, found, pairs, scales)
    return found, furthest


def _reach(scale: Tensor) -> float:
    return float(scale.double().log().abs().max())


def _limited(scale: Tensor, limit: float) -> Tensor:
    """Return one layer's scales, raised to the power that brings their logarithms within."""
    reach = _reach(scale)
    return scale if reach <= limit else scale.double().pow(limit / reach).float()


def balanced_values(factors: Iterable[Factor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the balanced float network by ``state_dict`` key."""
    return {factor.name: factor.weight for factor in factors} | dict(kept)


def _before_norms(network: nn.Module, before: Balanced, scales: Mapping[str, Tensor]) -> Balanced:
    """Rescale the rows in front of BatchNorms, and the statistics that undo it."""
    norms, kept = dict(network.named_modules()), dict(before.kept)
    balanced = []
    for factor in before.factors:
        if factor.name in scales:
            norm = norms[str(factor.norm)]
            assert isinstance(norm, NORM_TYPES)
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None and variance is not None
            scale = safe_scales(scales[factor.name], variance, norm.eps)
            factor = rescaled(factor, scale)
            new_mean, new_variance = rescaled_statistics(mean, variance, norm.eps, scale.flatten())
            kept[f"{factor.norm}.running_mean"] = new_mean
            kept[f"{factor.norm}.running_var"] = new_variance
            if factor.absorber is not None and factor.absorber != f"{factor.norm}.running_mean":
                kept[factor.absorber] = kept[factor.absorber] * scale.flatten()
        balanced.append(factor)
    return Balanced(balanced, kept)


def _usable(
    pairs: tuple[Pair, ...], factors: Sequence[Factor], shared: Collection[str]
) -> tuple[Pair, ...]:
    """Return the pairs of two assigned layers whose producer's bias can be scaled."""
    names = {factor.name for factor in factors}
    return tuple(
        pair
        for pair in pairs
        if {pair.producer, pair.consumer} <= names and _bias_of(pair.producer) not in shared
    )


def _bias_of(name: str) -> str:
    return name.removesuffix("weight") + "bias"


def _between_layers(
    network: nn.Module,
    before: Balanced,
    pairs: tuple[Pair, ...],
    scales: Mapping[str, Tensor],
) -> Balanced:
    """Rescale rows of producers, and the next layers' columns that undo it."""
    producers = {pair.consumer: pair.producer for pair in pairs}
    state, kept = network.state_dict(), dict(before.kept)
    balanced = []
    for factor in before.factors:
        if factor.name in producers:
            factor = recolumned(factor, scales[producers[factor.name]])
        if factor.name in scales:
            scale = scales[factor.name]
            factor = rescaled(factor, scale)
            bias = _bias_of(factor.name)
            if bias in state:
                kept[bias] = kept.get(bias, state[bias]) * scale.flatten()
        balanced.append(factor)
    return Balanced(balanced, kept)


@torch.no_grad()
def _check_same_function(
    network: nn.Module,
    rewritten: Balanced,
    batch: Batch,
    undone_by: str,
    output: OutputOf | None,
) -> None:
    """Refuse a network where something else reads a rescaled layer than what undoes it."""
    with in_eval_mode(network):
        expected = compared(call(network, batch), output)
    with Borrowed(network) as borrowed:
        borrowed.put(balanced_values(rewritten.factors, rewritten.kept))
        moved = furthest(expected, compared(call(network, batch), output))
    if moved > SAME_FUNCTION:
        raise RescalingError(
            f"rescaling rows moved the outputs by {moved:.2g} of the largest, so something that "
            f"was not seen reads those layers; no row is balanced through {undone_by} here"
        )
