"""Which tensors of a network become indices, and why others do not."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import fx, nn

from moeash.core.codebook import SharedTensor, SharedWeights
from moeash.errors import InputError
from moeash.networks.loading.weights import Fitted
from moeash.nn.layers import codebook_name, indices_name
from moeash.nn.packing import bits_for

DECODING: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.PReLU,
)
"""Module types that read their parameters as attributes, all of them, at every forward pass."""


class Place(NamedTuple):
    """A parameter that becomes indices.

    Attributes:
        owner: the module it is a parameter of.
        name: what the module calls it.
        stored: what the file holds.
        bits: of an index.
    """

    owner: nn.Module
    name: str
    stored: SharedTensor
    bits: int


class Plan(NamedTuple):
    """What becomes of the tensors that a file shares.

    Attributes:
        small: what becomes indices, by name in the network; tied parameters under each name.
        dense: why the others stay as they are, by name.
    """

    small: dict[str, Place]
    dense: dict[str, str]


def plan(
    module: nn.Module,
    shared: SharedWeights,
    fitted: Fitted,
    bits: int | None,
    also: tuple[type[nn.Module], ...],
) -> Plan:
    """Decide for every shared tensor; those that are tied stay dense where one of them has to.

    Args:
        module: the network.
        shared: what the file holds.
        fitted: what goes where.
        bits: of an index, or the fewest that do.
        also: module types of which somebody knows that they read their parameters as attributes.

    Raises:
        InputError: the entries of a codebook need more than ``bits``.
    """
    widths = [_bits(len(book), bits) for book in shared.codebooks]
    small: dict[str, Place] = {}
    dense: dict[str, str] = {}
    for names in _memories(fitted):
        stored = fitted.stored[next(name for name in names if name in fitted.stored)]
        if not isinstance(stored, SharedTensor):
            continue
        width = widths[stored.codebook]
        owners = {name: _owner(module, name) for name in names}
        if width is None:
            why = "its codebook has more than 65,536 entries"
        else:
            why = next(filter(None, (_obstacle(*owners[name], also) for name in names)), "")
        for name in names:
            if why or width is None:
                dense[name] = why
            else:
                small[name] = Place(*owners[name], stored, width)
    return Plan(small, dense)


def _bits(n_entries: int, bits: int | None) -> int | None:
    if bits is not None and n_entries > 1 << bits:
        raise InputError(
            f"bits = {bits} hold {1 << bits} entries, but the file has a codebook of {n_entries}; "
            "leave bits out"
        )
    return bits or bits_for(n_entries)


def _memories(fitted: Fitted) -> Iterator[list[str]]:
    """Yield the network's names, those of one memory together, of all that the file holds."""
    first = fitted.network.first
    groups: dict[str, list[str]] = {}
    for name in fitted.network.tensors:
        groups.setdefault(first.get(name, name), []).append(name)
    for names in groups.values():
        if any(name in fitted.stored for name in names):  # counters of BatchNorm may be missing
            yield names


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return module.get_submodule(path), own


def _obstacle(owner: nn.Module, name: str, also: tuple[type[nn.Module], ...]) -> str:
    """Say why a parameter of a module cannot be indices, in a few words; nothing if it can."""
    kind = type(owner)
    if isinstance(owner, torch.jit.ScriptModule | fx.GraphModule):
        return f"{kind.__name__} is compiled code, whose parameters cannot be replaced"
    if not isinstance(owner, (*DECODING, *also)):
        return (
            f"nobody knows how {kind.__name__} reads it; where that is as an attribute, "
            f"pass also=[{kind.__name__}]"
        )
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) and owner.max_norm is not None:
        return "an embedding with max_norm writes into its weights"
    if isinstance(owner, nn.RNNBase):
        return f"{kind.__name__} keeps its weights in a list of its own"
    own_copies = any(
        method in vars(ancestor)
        for ancestor in kind.__mro__
        if ancestor not in (nn.Module, object)
        for method in ("__reduce__", "__reduce_ex__", "__getstate__", "__deepcopy__")
    )
    if own_copies:
        return f"{kind.__name__} has its own way to be copied or pickled"
    if any(hasattr(owner, part(name)) for part in (indices_name, codebook_name)):
        return f"{kind.__name__} has something called {indices_name(name)} of its own"
    return "" if name in owner._parameters else "it is no parameter"
