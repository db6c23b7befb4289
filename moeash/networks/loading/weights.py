"""The tensors of shared weights under the names that a network has for them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights, TiedTensor, array_dtype
from moeash.networks.loading.checkpoints import names_in
from moeash.networks.loading.fitting import Outline, Own, check_fit

Stored = SharedTensor | KeptTensor
"""A tensor that shared weights hold values of."""


@dataclass(frozen=True)
class Fitted:
    """Shared weights that fit a network.

    Attributes:
        network: its own tensors.
        stored: what is to be written where; names of one memory hold the same values.
    """

    network: Own
    stored: Mapping[str, Stored]


def fit_weights(module: nn.Module, shared: SharedWeights, source: str) -> Fitted:
    """Match shared weights with a network, which may be wrapped, and change nothing.

    Args:
        module: the network.
        shared: what a file holds.
        source: what it is, for messages.

    Raises:
        CheckpointError: it does not fit; every kind of mismatch is named.
    """
    network = Own.of(module)
    stored = stored_tensors(shared)
    outlines = {name: _outline_of(tensor) for name, tensor in stored.items()}
    names = {here: there for there, here in names_in(network, outlines).items()}
    check_fit(
        network,
        {here: outlines[there] for here, there in names.items()},
        source,
        lambda one, other: same_values(shared, stored[names[one]], stored[names[other]]),
    )
    return Fitted(network, {here: stored[there] for here, there in names.items()})


def stored_tensors(shared: SharedWeights) -> dict[str, Stored]:
    """Return what holds the values of each name, in state order; tied names hold the same."""
    stored: dict[str, Stored] = {}
    for tensor in shared.tensors:
        stored[tensor.name] = stored[tensor.target] if isinstance(tensor, TiedTensor) else tensor
    return stored


def same_values(shared: SharedWeights, one: Stored, other: Stored) -> bool:
    """Tell whether two tensors decode to equal values."""
    if one is other:
        return True
    if one.shape != other.shape:
        return False
    return np.array_equal(shared.values(one), shared.values(other), equal_nan=one.dtype != "bool")


def _outline_of(tensor: Stored) -> Outline:
    kind = array_dtype(tensor.dtype).kind
    return Outline(
        tensor.shape,
        tensor.dtype,
        "float" if kind == "f" else "complex" if kind == "c" else "integer",
    )
