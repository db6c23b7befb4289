"""Rows balanced so that one grid suits all: in front of BatchNorms, and between two layers.

A BatchNorm behind a layer, or the columns of the layer that alone reads it, undo a rescaling of its
rows exactly, at no cost in bytes. That nothing else reads the layer is checked by its outputs.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch, call
from moeash.errors import RescalingError
from moeash.methods.bounds import MOST_BINS
from moeash.methods.feedback.assignment.columns import (
    Factor,
    balancing_scales,
    rescaled,
    rescaled_statistics,
    safe_scales,
)
from moeash.methods.feedback.balancing.grids import GridLoss, Grids
from moeash.methods.feedback.balancing.pairs import Pair, find_pairs, pair_scales, recolumned
from moeash.networks.norms import NORM_TYPES
from moeash.networks.sameness import SAME_FUNCTION
from moeash.networks.writing.borrowing import Borrowed
from moeash.tracing.outputs import OutputOf, compared, furthest
from moeash.tracing.watching import in_eval_mode

PROBE = 0.25
"""Exponent with which factors are balanced that are not to be: only to see who reads their layers,
as a running mean may absorb only what it alone reads."""

AS_ASKED = 6e-5
"""What rows balanced as asked may lose on the finest grid, a share of what the outputs say, see
:func:`balanced`. LeNet-300-100 and LeNet-5 lose 4e-5 with the exponents of their studies, and 0.03
to 0.2 with 1/2 where that ruins them."""

HARMLESS = 5e-5
"""The same, once scales are limited."""

UNBALANCED = 1.5
"""The loss may also be so many times that of unbalanced rows."""

WORTH_IT = 10.0
"""The same, where BatchNorms alone undo scales, or where SAVED says that it is worth it.
ResNet-20 loses 0.003 with the exponent of its study, 4 to 9 times what it loses without, and its
files of equal outputs are no larger."""

SAVED = 0.25
"""Bits a weight that balancing saves at equal losses where a loss of more than 1.5 times is worth
it; a loss falls by a factor of 4 a bit. The digits network saves 0.5 to 0.75 and its files are two
fifths smaller; layers beside a branch of gain 1 or 10 save nothing, and the best of a search would
end at 3 to 10 times the divergence."""

SPARED = 0.1
"""Bits a weight that are nothing: the coder sees rows that are alike, their count does not."""

HALVINGS = 6
"""How often the limit of scales is halved before all rows are left as they are."""

NAMED = 3
"""Layers that a note names, at most."""


@dataclass(frozen=True)
class Balancing:
    """Which rows are balanced, and for which grids.

    Attributes:
        exponent: of :func:`moeash.methods.feedback.assignment.columns.balancing_scales` and
            :func:`moeash.methods.feedback.balancing.pairs.pair_scales`; 0 leaves the rows as they
            are.
        through_norms: let BatchNorms behind a layer undo its rescaling and take up constant
            changes. Right when nothing else reads the layer, which is checked.
        through_pairs: let the next layer's columns undo it where a layer has no BatchNorm behind
            it, see :mod:`moeash.methods.feedback.balancing.pairs`. Checked likewise.
        finest: bins of the finest grid that candidates may ask for; None where that follows from
            what the balanced network loses (:mod:`moeash.methods.feedback.balancing.grids`).
    """

    exponent: float = 0.25
    through_norms: bool = True
    through_pairs: bool = True
    finest: int | None = 128


@dataclass(frozen=True, eq=False)
class Balanced:
    """A network with balanced rows, the same function as before.

    Attributes:
        factors: its layers.
        kept: the kept tensors that undo it, by ``state_dict`` key.
        notes: what people should know: which layers are balanced less than asked, and why.
        grids: the network on grids, where it was looked at.
    """

    factors: list[Factor]
    kept: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    grids: Grids | None = None


def balanced(
    network: nn.Module,
    factors: list[Factor],
    batches: Sequence[Batch],
    balancing: Balancing,
    shared: Collection[str],
    plain: Mapping[str, Tensor],
    output: OutputOf | None = None,
) -> Balanced:
    """Balance the rows as asked, or as far as the finest grid allows.

    All rows share one grid over their range. The scales asked for suit a grid whose bins are not
    limited: the rows of a branch of gain 0.01 are multiplied by 300, so that they alone span the
    range, and on 128 bins all other weights are 0. So the weights are assigned on the finest grid,
    with feedback and bits for free, and outputs on ``batches`` compared with the network's: their
    divergence in nats, as a share of what the outputs say, ``log(classes) - entropy``; of single
    values the squared change, as a share of their variance. Scales are taken as asked where that
    loss is at most AS_ASKED. Otherwise they are held within a limit, which is halved, in
    logarithms, until the loss is at most HARMLESS, or at most UNBALANCED times (WORTH_IT times
    where that is said there) the loss of unbalanced rows. A layer whose scales reach further has
    all of them raised to the power that brings them within; other layers keep theirs.

    Where the finest grid is not given, there is one for every way of balancing that loses as little
    as any. What counts is then bits alone: rows are balanced as asked unless rows as they are, or
    balanced within a limit, take fewer by SPARED, or no grid loses as little.

    Measured for a straight layer beside three of gain 0.3, 0.1 and 0.01: the least divergence on
    128 bins came from 4e-4, 3e-3 and 0.15 to 1e-5, as rows as they are reach it. Predictions do
    not tell such networks from others: the quadratic model's loss is up to 25 times too high and 6
    times too low, and nearest entries lose 10 times what feedback loses on ResNet-20.

    Args:
        network: the float network.
        factors: its layers.
        batches: images on which outputs are compared, as many as a pass may hold in each.
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
        _check_same_function(network, probed, batches, "norms", output)
    if not exponent:
        return as_it_is
    pairs: tuple[Pair, ...] = ()
    if balancing.through_pairs:
        pairs = _usable(find_pairs(network, batches[0]), factors, shared)
    found, furthest = _within(network, as_it_is, balancing, pairs, inf)
    if not furthest:
        return found
    if pairs:
        _check_same_function(network, found, batches, "pairs", output)
    furthest_of_all = max(furthest.values())
    loss = GridLoss(network, batches, plain, output)
    asked = loss.of(found.factors, found.kept)
    ways = _Ways(
        loss,
        asked,
        limited=lambda limit: (
            _within(network, as_it_is, balancing, pairs, limit)[0] if limit else as_it_is
        ),
        limits=[furthest_of_all / 2**halving for halving in range(1, HALVINGS + 1)],
    )
    if balancing.finest is None:
        limit, why = ways.with_fewest_bits()
    else:
        limit, why = ways.bearable(balancing.finest, has_pairs=bool(pairs))
    if limit == inf:
        return replace(found, grids=asked)
    found = ways.limited(limit)
    note = _note([name for name, far in furthest.items() if far > limit], furthest, limit)
    return Balanced(found.factors, found.kept, (f"{note}: balanced as asked, {why}",))


@dataclass(frozen=True)
class _Ways:
    """Ways to balance one network.

    Its methods return two things: the limit that scales are held within, inf for scales as they are
    asked for; and in words what is wrong with rows balanced as asked.

    Attributes:
        loss: of the network.
        asked: the network balanced as asked.
        limited: balances within a limit.
        limits: to try.
    """

    loss: GridLoss
    asked: Grids
    limited: Callable[[float], Balanced]
    limits: Sequence[float]

    def bearable(self, finest: int, *, has_pairs: bool) -> tuple[float, str]:
        """Choose the widest limit that loses little on the finest grid.

        Args:
            finest: its bins.
            has_pairs: whether columns undo some of the scales.
        """
        on_grid = self.asked.on(finest)
        if on_grid.lost <= AS_ASKED:
            return inf, ""
        unbalanced = self._grids(0.0).on(finest)
        saves = on_grid.lost * 4 ** (on_grid.bits - unbalanced.bits + SAVED) <= unbalanced.lost
        if on_grid.lost <= (WORTH_IT if saves or not has_pairs else UNBALANCED) * unbalanced.lost:
            return inf, ""
        why = (
            f"{finest} bins lose {on_grid.lost:.2g} of what the outputs say, as few rows take the "
            "whole range"
        )
        most = max(HARMLESS, UNBALANCED * unbalanced.lost)
        for limit in self.limits:
            if self._grids(limit).on(finest).lost <= most:
                return limit, why
        return 0.0, why

    def with_fewest_bits(self) -> tuple[float, str]:
        """Choose, of limits on grids that lose FINEST, the widest with about the fewest bits."""
        as_asked, unbalanced = self.asked.finest_bits(), self._grids(0.0).finest_bits()
        if as_asked < inf and as_asked <= unbalanced + SPARED:
            return inf, ""
        bits = {0.0: unbalanced} | {
            limit: self._grids(limit).finest_bits() for limit in self.limits
        }
        least = min(bits.values())
        # Where no grid of any loses as little, rows stay as they are.
        limit = max(at for at, n in bits.items() if n <= least + SPARED) if least < inf else 0.0
        if as_asked == inf:
            lost = self.asked.on(MOST_BINS).lost
            return limit, f"{MOST_BINS:,} bins lose {lost:.2g} of what the outputs say"
        return (
            limit,
            f"they take {as_asked:.2f} bits a weight where {bits[limit]:.2f} lose as little",
        )

    def _grids(self, limit: float) -> Grids:
        network = self.limited(limit)
        return self.loss.of(network.factors, network.kept)


def _note(names: Sequence[str], furthest: Mapping[str, float], limit: float) -> str:
    listed = ", ".join(names[:NAMED])
    if len(names) > NAMED:
        listed += f" and {len(names) - NAMED} more"
    if not limit:
        return f"rows of {listed} are not balanced"
    most = exp(max(furthest.values()))
    return f"rows of {listed} are balanced by factors up to {exp(limit):.2g} instead of {most:.2g}"


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
    batches: Sequence[Batch],
    undone_by: str,
    output: OutputOf | None,
) -> None:
    """Refuse a network where something else reads a rescaled layer than what undoes it."""
    with in_eval_mode(network):
        expected = [compared(call(network, batch), output) for batch in batches]
    with Borrowed(network) as borrowed:
        borrowed.put(balanced_values(rewritten.factors, rewritten.kept))
        got = (compared(call(network, batch), output) for batch in batches)
        moved = max(map(furthest, expected, got))
    if moved > SAME_FUNCTION:
        raise RescalingError(
            f"rescaling rows moved the outputs by {moved:.2g} of the largest, so something that "
            f"was not seen reads those layers; no row is balanced through {undone_by} here"
        )
