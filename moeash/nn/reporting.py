"""How much memory a network takes, small or not."""

from dataclasses import dataclass

from torch import Tensor, nn

from moeash.names import contained
from moeash.nn.layers import SmallModule
from moeash.options.arguments import checked


@dataclass(frozen=True)
class Memory:
    """Bytes of a network's tensors; memory that several names share is counted once.

    Attributes:
        indices_bytes: of packed indices.
        codebook_bytes: of codebooks.
        other_bytes: of everything else: biases, norms, counters, weights that are dense.
        held_bytes: of decoded weights that are kept from one forward pass to the next.
        dense_bytes: of the weights that are indices, were they decoded.
    """

    indices_bytes: int
    codebook_bytes: int
    other_bytes: int
    held_bytes: int
    dense_bytes: int

    @property
    def at_rest_bytes(self) -> int:
        """What the network takes between two forward passes, without what is held."""
        return self.indices_bytes + self.codebook_bytes + self.other_bytes

    def __str__(self) -> str:
        return (
            f"{self.at_rest_bytes:,} bytes at rest: {self.indices_bytes:,} of indices, which would "
            f"be {self.dense_bytes:,} of weights, {self.codebook_bytes:,} of codebooks, "
            f"{self.other_bytes:,} of other tensors; {self.held_bytes:,} bytes held decoded"
        )


@contained()
@checked("module")
def memory(module: nn.Module) -> Memory:
    """Count the bytes of a network's tensors.

    Args:
        module: the network, after :func:`moeash.nn.compress_` or without it.

    Example:
        >>> import moeash.nn
        >>> import torch
        >>> print(moeash.nn.memory(torch.nn.Linear(4, 2, bias=False)).at_rest_bytes)
        32
    """
    indices: dict[int, Tensor] = {}
    codebooks: dict[int, Tensor] = {}
    dense: dict[int, int] = {}
    held: dict[int, int] = {}
    for layer in module.modules():
        if isinstance(layer, SmallModule):
            for name, packing in layer._packings.items():
                packed, codebook = layer._stored(name)
                indices[_place(packed)] = packed
                codebooks[_place(codebook)] = codebook
                dense[_place(packed)] = packing.size * codebook.element_size()
            kept = (known.held for known in layer._known.values())
            held[id(layer)] = sum(weight.nbytes for weight in kept if weight is not None)
    others = {
        _place(tensor): tensor.nbytes
        for tensor in (*module.parameters(), *module.buffers())
        if _place(tensor) not in indices and _place(tensor) not in codebooks
    }
    return Memory(
        indices_bytes=sum(tensor.nbytes for tensor in indices.values()),
        codebook_bytes=sum(tensor.nbytes for tensor in codebooks.values()),
        other_bytes=sum(others.values()),
        held_bytes=sum(held.values()),
        dense_bytes=sum(dense.values()),
    )


def _place(tensor: Tensor) -> int:
    """Return what tells the memory of a tensor from others': its address, if it has one."""
    return tensor.data_ptr() or id(tensor)
