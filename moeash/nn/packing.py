"""Indices of a few bits each in a tensor of bytes, and back to weights through the codebook.

Indices follow each other in C order of the weight, most significant bit first: two of 4 bits in a
byte, four of 6 bits in three bytes, one of 8 bits a byte; those of 16 bits are in the byte order of
the machine. What is decoded equals ``codebook[indices]`` bit for bit, whatever the dtype: values
are moved, not computed.

Indices of 4 and 6 bits are looked up in pairs: a table of all pairs of entries (256 or 4,096)
halves what is gathered, and nothing needs to be unpacked to single indices.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BITS = (4, 6, 8, 16)
"""Bits an index may be stored in."""

_PAIR_DTYPES = {2: torch.int32, 4: torch.int64, 8: torch.complex128}
"""By bytes of an entry, a dtype of twice as many to move two entries as one value."""


@dataclass(frozen=True)
class Packing:
    """How the indices of one weight are stored.

    Attributes:
        shape: of the weight.
        bits: of an index, one of :data:`BITS`.
        stride: of the weight, where it is not that of C order.
        required_grad: whether the parameter that was there asked for gradients.
    """

    shape: tuple[int, ...]
    bits: int
    stride: tuple[int, ...] | None = None
    required_grad: bool = True

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def weight(self, indices: Tensor, codebook: Tensor) -> Tensor:
        """Return the weight: ``shape``, in the codebook's dtype.

        Args:
            indices: from :func:`pack`.
            codebook: ``(n_entries,)``.
        """
        weight = _decoded(indices, codebook, self.bits)[: self.size].view(self.shape)
        if self.stride is None:
            return weight
        laid_out = torch.empty_strided(
            self.shape, self.stride, dtype=weight.dtype, device=weight.device
        )
        return laid_out.copy_(weight)

    def rows(self, indices: Tensor, codebook: Tensor, rows: Tensor) -> Tensor:
        """Return rows of the weight and decode no others: ``(*rows.shape, *shape[1:])``.

        Args:
            indices: from :func:`pack`.
            codebook: ``(n_entries,)``.
            rows: positions along the first axis, integers of any shape.
        """
        n_rows, width = self.shape[0], math.prod(self.shape[1:])
        wanted = rows.reshape(-1)
        bits = width * self.bits
        if bits % (24 if self.bits == 6 else 8) == 0:  # every row begins a byte, or three of them
            found = indices.view(n_rows, bits // 8).index_select(0, wanted).view(-1)
            weights = _decoded(found, codebook, self.bits)
        else:
            single = _indices_of_rows(indices, wanted, n_rows, width, self.bits)
            weights = codebook.index_select(0, single.view(-1))
        return weights.view(*rows.shape, *self.shape[1:])


def bits_for(n_entries: int) -> int | None:
    """Return the bits that indices of a codebook are stored in: 4, 8 or 16, ``None`` beyond.

    Never 6, which takes three quarters of the memory of 8 and twice the time to decode.
    """
    return next((bits for bits in (4, 8, 16) if n_entries <= 1 << bits), None)


def pack(indices: NDArray[np.unsignedinteger[Any]], bits: int) -> Tensor:
    """Return indices as a tensor of bytes.

    Args:
        indices: ``(n,)``, all below ``2**bits``.
        bits: one of :data:`BITS`.
    """
    if bits == 16:
        return torch.tensor(indices.astype(np.uint16).view(np.uint8))
    single = indices.astype(np.uint8)
    if bits == 8:
        return torch.from_numpy(single)
    group = 2 if bits == 4 else 4
    padded = np.zeros(-(-single.size // group) * group, dtype=np.uint8)
    padded[: single.size] = single
    if bits == 4:
        return torch.from_numpy(padded[0::2] << 4 | padded[1::2])
    a, b, c, d = (padded[place::4] for place in range(4))
    packed = np.stack((a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d), axis=1)
    return torch.from_numpy(packed.reshape(-1))


def _decoded(indices: Tensor, codebook: Tensor, bits: int) -> Tensor:
    """Return the entries of all packed indices, those that only fill the last group included."""
    if bits == 8:
        return codebook.index_select(0, indices.int())
    if bits == 16:
        return codebook.index_select(0, indices.view(torch.int16).int() & 0xFFFF)
    table = _pairs(codebook, bits)
    if bits == 4:
        return table.index_select(0, indices.int()).view(codebook.dtype)
    triple = indices.view(-1, 3).int()
    first = triple[:, 0] << 4 | triple[:, 1] >> 4
    second = (triple[:, 1] & 15) << 8 | triple[:, 2]
    both = torch.stack((first, second), dim=1).view(-1)
    return table.index_select(0, both).view(codebook.dtype)


def _pairs(codebook: Tensor, bits: int) -> Tensor:
    """Return ``(2**(2 * bits),)`` all pairs of entries, each as one value of twice the bytes."""
    n = 1 << bits
    entries = codebook[torch.arange(n, device=codebook.device).clamp(max=codebook.numel() - 1)]
    pairs = torch.stack((entries.repeat_interleave(n), entries.repeat(n)), dim=1)
    return pairs.view(_PAIR_DTYPES[codebook.element_size()]).view(-1)


def _indices_of_rows(indices: Tensor, rows: Tensor, n_rows: int, width: int, bits: int) -> Tensor:
    """Return ``(rows, width)`` indices, each cut out by itself, where rows begin within a byte."""
    # Looked up rather than taken as they are, so that rows out of range are refused.
    checked = torch.arange(n_rows, device=rows.device).index_select(0, rows)
    columns = torch.arange(width, device=rows.device)
    begin = (checked[:, None] * width + columns) * bits
    byte = begin >> 3
    after = (byte + 1).clamp(max=indices.numel() - 1)
    window = indices[byte].int() << 8 | indices[after].int()
    return window >> (16 - bits - (begin & 7)) & ((1 << bits) - 1)
