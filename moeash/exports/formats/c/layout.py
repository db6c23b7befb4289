"""What stands in a C file, and under which identifiers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moeash.core.codebook import KeptTensor, SharedTensor, SharedWeights, TiedTensor
from moeash.errors import ExportError
from moeash.exports.formats.c.packing import DECODED, Packed, codebook_key, codebooks, packed
from moeash.exports.formats.c.texts import identifier, identifiers
from moeash.networks.loading.weights import stored_tensors

ALIGNMENT = 8
"""Bytes that offsets in a buffer of all tensors are multiples of."""

OWN = (
    *("tensor", "tensors", "decode", "h", "implementation", "implemented", "bytes"),
    *("float", "double", "half", "float_entries", "double_entries"),
    *("float_has_32_bits", "double_has_64_bits"),
)
"""Behind the prefix, identifiers that are no tensor's."""

NUMBERED = ("data", "entries", "shape")
"""Likewise, with a number behind them."""


@dataclass(frozen=True, eq=False)
class Row:
    """One name of the network.

    Attributes:
        name: in the network.
        function: identifier of what decodes it.
        tensor: what stands behind the name.
        packed: the same as it stands in the file.
        is_tied: whether an earlier row has the same tensor.
        offset: bytes in front of it in a buffer of all tensors.
    """

    name: str
    function: str
    tensor: SharedTensor | KeptTensor
    packed: Packed
    is_tied: bool
    offset: int


@dataclass(frozen=True, eq=False)
class Layout:
    """What stands in a C file.

    Attributes:
        file: its name.
        prefix: of all its identifiers.
        books: codebooks.
        rows: a row for every name, in state order.
        n_bytes: of a buffer of all tensors.
    """

    file: str
    prefix: str
    books: list[NDArray[np.float32]]
    rows: list[Row]
    n_bytes: int


def lay_out(weights: SharedWeights, to: Path) -> Layout:
    """Return the layout of a network's C file.

    Args:
        weights: the network.
        to: the file; its name is what identifiers begin with.

    Raises:
        ExportError: the network has no tensors.
    """
    if not weights.tensors:
        raise ExportError("the network has no tensors, so there is nothing to write as C")
    prefix = identifier(to.stem).lower() + "_"
    if not prefix[0].isalpha():
        prefix = f"net_{prefix}"
    books = codebooks(weights)
    places = {key: place for place, key in enumerate(books)}
    tensors = stored_tensors(weights)
    numbered = [f"{name}_{place}" for name in NUMBERED for place in range(len(tensors))]
    functions = identifiers(tensors, prefix, [prefix + name for name in (*OWN, *numbered)])
    tied = {t.name for t in weights.tensors if isinstance(t, TiedTensor)}
    rows: list[Row] = []
    first: dict[str, Row] = {}
    end = 0
    for name, tensor in tensors.items():
        if name in tied:
            same = first[tensor.name]
            rows.append(Row(name, functions[name], tensor, same.packed, True, same.offset))
            continue
        key = codebook_key(tensor) if isinstance(tensor, SharedTensor) else None
        entry = packed(weights, tensor, places.get(key, 0) if key else 0)
        row = first[name] = Row(name, functions[name], tensor, entry, False, end)
        rows.append(row)
        end += entry.elements * element_bytes(entry)
        end += -end % ALIGNMENT
    return Layout(to.name, prefix, list(books.values()), rows, end)


def element_bytes(entry: Packed) -> int:
    """Return the bytes of a decoded element."""
    return DECODED[entry.ctype].itemsize
