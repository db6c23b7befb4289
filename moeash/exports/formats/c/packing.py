"""Values as arrays of a C file, each with what has to be done to decode it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights
from moeash.networks.writing.decoding import tensor_of

_INTEGERS = tuple(f"{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64))

TYPES = {
    "float32": "float",
    "float16": "float",
    "bfloat16": "float",
    "float64": "double",
    **{name: f"{name}_t" for name in _INTEGERS},
    "bool": "uint8_t",
    "complex64": "float",
    "complex128": "double",
}
"""C types that tensors are decoded to. float holds every float16 and bfloat16 exactly; complex
numbers are pairs, the real part first."""

DECODED: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    **{f"{name}_t": np.dtype(name) for name in _INTEGERS},
}
"""NumPy dtypes of C types."""


@dataclass(frozen=True, eq=False)
class Packed:
    """One tensor as it stands in a C file.

    Attributes:
        kind: ``codebook``, ``float_bits``, ``double_bits``, ``half``, ``bfloat``, ``steps`` or
            ``integers``: what makes ``data`` its values. Empty for tensors without elements.
        data: the array; a single element where all are equal.
        elements: of C, twice those of a complex tensor.
        ctype: C type of the decoded elements.
        width: bits of an index; of codebooks only.
        codebook: its position among the codebooks of the file.
        exponent: steps count multiples of ``2**exponent``.
    """

    kind: str
    data: NDArray[Any]
    elements: int
    ctype: str
    width: int = 0
    codebook: int = 0
    exponent: int = 0


def index_width(n_entries: int) -> int:
    """Return the bits of an index: ``ceil(log2 n_entries)``."""
    return (n_entries - 1).bit_length()


def pack(indices: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """Return indices of ``width`` bits one behind the other, lowest bits first, zero-padded."""
    if not width:
        return np.empty(0, np.uint8)
    flat = np.ascontiguousarray(indices, dtype="<u4").reshape(-1, 1).view(np.uint8)
    return np.packbits(
        np.unpackbits(flat, axis=1, count=width, bitorder="little"), bitorder="little"
    )


def unpack(packed: NDArray[np.uint8], width: int, n: int) -> NDArray[np.uint32]:
    """Return what :func:`pack` packed."""
    if not width:
        return np.zeros(n, np.uint32)
    planes = np.unpackbits(packed, count=n * width, bitorder="little").reshape(n, width)
    padded = np.zeros((n, 32), np.uint8)
    padded[:, :width] = planes
    return np.packbits(padded, axis=1, bitorder="little").view("<u4").reshape(-1).astype(np.uint32)


def packed(weights: SharedWeights, tensor: SharedTensor | KeptTensor, codebook: int) -> Packed:
    """Return a tensor as it stands in a C file.

    Args:
        weights: it is of.
        tensor: the tensor.
        codebook: position of its codebook in the file, see :func:`codebooks`.
    """
    ctype = TYPES[tensor.dtype]
    elements = tensor.size * (2 if tensor.dtype.startswith("complex") else 1)
    if not elements:
        return Packed("", np.empty(0, np.uint8), 0, ctype)
    if isinstance(tensor, SharedTensor):
        width = index_width(len(weights.codebooks[tensor.codebook]))
        return Packed("codebook", pack(tensor.indices, width), elements, ctype, width, codebook)
    values = tensor.values.reshape(-1)
    if tensor.dtype == "bfloat16":  # the upper half of a float
        halves = tensor_of(weights, tensor).reshape(-1).view(torch.int16).numpy()
        return Packed("bfloat", _once(halves.view(np.uint16)), elements, ctype)
    if tensor.exponent:
        return Packed("steps", _once(values), elements, ctype, exponent=tensor.exponent)
    if values.dtype == np.float16:
        return Packed("half", _once(values.view(np.uint16)), elements, ctype)
    if ctype in ("float", "double"):
        array = tensor_of(weights, tensor).reshape(-1).numpy()
        bits = array.view(np.uint32 if ctype == "float" else np.uint64)
        return Packed(f"{ctype}_bits", _once(bits), elements, ctype)
    return Packed("integers", _once(values.view(DECODED[ctype])), elements, ctype)


def unpacked(packed: Packed, books: Sequence[NDArray[np.float32]]) -> NDArray[Any]:
    """Return what the C functions make of a tensor: their twin.

    Args:
        packed: the tensor.
        books: the codebooks of its file.
    """
    kind, n, data = packed.kind, packed.elements, packed.data
    values: NDArray[Any]
    if kind == "":
        return np.empty(0, DECODED[packed.ctype])
    if kind == "codebook":
        values = books[packed.codebook][unpack(data, packed.width, n)]
    elif kind == "half":
        values = data.view(np.float16)
    elif kind == "bfloat":
        values = (data.astype(np.uint32) << 16).view(np.float32)
    elif kind == "steps":
        values = np.ldexp(data.astype(np.float64), packed.exponent)
    elif kind == "integers":
        values = data
    else:
        values = data.view(DECODED[packed.ctype])
    decoded: NDArray[Any] = np.broadcast_to(values.astype(DECODED[packed.ctype]), n)
    return decoded


def _once(values: NDArray[Any]) -> NDArray[Any]:
    return values[:1] if (values == values[0]).all() else values


def codebooks(weights: SharedWeights) -> dict[tuple[int, str], NDArray[np.float32]]:
    """Return the codebooks that tensors use, by position and dtype, rounded as their tensors are.

    There is one for each codebook of the network unless tensors of several dtypes share one.
    """
    found: dict[tuple[int, str], NDArray[np.float32]] = {}
    for tensor in weights.shared:
        key = codebook_key(tensor)
        if tensor.size and key not in found:
            entries = torch.tensor(weights.codebooks[tensor.codebook].entries)
            found[key] = entries.to(getattr(torch, key[1])).float().numpy()
    return found


def codebook_key(tensor: SharedTensor) -> tuple[int, str]:
    """Return which of :func:`codebooks` is a tensor's."""
    narrow = tensor.dtype in ("float16", "bfloat16")
    return tensor.codebook, tensor.dtype if narrow else "float32"
