"""Rows balanced so that one grid suits all: in front of BatchNorms, and between two layers.

A BatchNorm behind a layer, or the columns of the layer that alone reads it, undo a rescaling of its
rows exactly, at no cost in bytes. That nothing else reads the layer is checked by its outputs.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch, call
from moeash.errors import RescalingError
from moeash.methods.feedback.columns import (
    Factor,
    balancing_scales,
    rescaled,
    rescaled_statistics,
    safe_scales,
)
from moeash.methods.feedback.pairs import Pair, find_pairs, pair_scales, recolumned
from moeash.networks.borrowing import Borrowed
from moeash.networks.norms import NORM_TYPES
from moeash.networks.sameness import SAME_FUNCTION
from moeash.tracing.outputs import OutputOf, compared, furthest
from moeash.tracing.watching import in_eval_mode

PROBE = 0.25
"""Exponent with which factors are balanced that are not to be: only to see who reads their layers,
as a running mean may absorb only what it alone reads."""


@dataclass(frozen=True)
class Balancing:
    """Which rows are balanced.

    Attributes:
        exponent: of :func:`moeash.methods.feedback.columns.balancing_scales` and
            :func:`moeash.methods.feedback.pairs.pair_scales`; 0 leaves the rows as they are.
        through_norms: let BatchNorms behind a layer undo its rescaling and take up constant
            changes. Right when nothing else reads the layer, which is checked.
        through_pairs: let the next layer's columns undo it where a layer has no BatchNorm behind
            it, see :mod:`moeash.methods.feedback.pairs`. Checked likewise.
    """

    exponent: float = 0.25
    through_norms: bool = True
    through_pairs: bool = True


def balanced(
    network: nn.Module,
    factors: list[Factor],
    batch: Batch,
    balancing: Balancing,
    shared: Collection[str],
    output: OutputOf | None = None,
) -> tuple[list[Factor], dict[str, Tensor]]:
    """Return the factors with balanced rows, and the kept tensors that undo it.

    Args:
        network: the float network.
        factors: its layers.
        batch: images on which outputs are compared.
        balancing: what is wanted.
        shared: ``state_dict`` keys that are shared: a shared bias cannot be scaled.
        output: names the tensor that is compared of what the network returns; default: all.

    Raises:
        RescalingError: something else reads a layer than what is to undo its rescaling.
    """
    state, exponent = network.state_dict(), balancing.exponent
    kept = {
        factor.absorber: state[factor.absorber].detach().clone()
        for factor in factors
        if factor.absorber is not None
    }
    if balancing.through_norms:
        probed, undone = _before_norms(network, factors, exponent or PROBE)
        _check_same_function(
            network, balanced_values(probed, kept | undone), batch, "norms", output
        )
        if exponent:
            factors, kept = probed, kept | undone
    if balancing.through_pairs and exponent:
        pairs = _usable(find_pairs(network, batch), factors, shared)
        if pairs:
            factors, kept = _between_layers(network, factors, pairs, exponent, kept)
            _check_same_function(network, balanced_values(factors, kept), batch, "pairs", output)
    return factors, kept


def balanced_values(factors: Iterable[Factor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the balanced float network by ``state_dict`` key."""
    return {factor.name: factor.weight for factor in factors} | dict(kept)


def _before_norms(
    network: nn.Module, factors: list[Factor], exponent: float
) -> tuple[list[Factor], dict[str, Tensor]]:
    """Balance the rows in front of BatchNorms; return the factors and the tensors that undo it."""
    norms, state = dict(network.named_modules()), network.state_dict()
    scales = balancing_scales(factors, exponent)
    balanced = []
    undone = {}
    for factor in factors:
        if factor.name in scales:
            norm = norms[str(factor.norm)]
            assert isinstance(norm, NORM_TYPES)
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None and variance is not None
            scale = safe_scales(scales[factor.name], variance, norm.eps)
            factor = rescaled(factor, scale)
            new_mean, new_variance = rescaled_statistics(mean, variance, norm.eps, scale.flatten())
            undone[f"{factor.norm}.running_mean"] = new_mean
            undone[f"{factor.norm}.running_var"] = new_variance
            if factor.absorber is not None and factor.absorber != f"{factor.norm}.running_mean":
                undone[factor.absorber] = state[factor.absorber] * scale.flatten()
        balanced.append(factor)
    return balanced, undone


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
    factors: list[Factor],
    pairs: tuple[Pair, ...],
    exponent: float,
    kept: dict[str, Tensor],
) -> tuple[list[Factor], dict[str, Tensor]]:
    """Balance rows against the next layer's columns; return the factors and the kept tensors."""
    scales = pair_scales(factors, pairs, exponent)
    before = {pair.consumer: pair.producer for pair in pairs}
    state, kept = network.state_dict(), dict(kept)
    balanced = []
    for factor in factors:
        if factor.name in before:
            factor = recolumned(factor, scales[before[factor.name]])
        if factor.name in scales:
            scale = scales[factor.name]
            factor = rescaled(factor, scale)
            bias = _bias_of(factor.name)
            if bias in state:
                kept[bias] = kept.get(bias, state[bias]) * scale.flatten()
        balanced.append(factor)
    return balanced, kept


@torch.no_grad()
def _check_same_function(
    network: nn.Module,
    values: Mapping[str, Tensor],
    batch: Batch,
    undone_by: str,
    output: OutputOf | None,
) -> None:
    """Refuse a network where something else reads a rescaled layer than what undoes it."""
    with in_eval_mode(network):
        expected = compared(call(network, batch), output)
    with Borrowed(network) as borrowed:
        borrowed.put(values)
        moved = furthest(expected, compared(call(network, batch), output))
    if moved > SAME_FUNCTION:
        raise RescalingError(
            f"rescaling rows moved the outputs by {moved:.2g} of the largest, so something that "
            f"was not seen reads those layers; no row is balanced through {undone_by} here"
        )
