"""What a container says about every tensor before its values: the directory's rows and limits.

How they become bytes is in :mod:`moeash.codec.directory`.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from moeash.core.codebook import FLOAT_NAMES, KeptTensor, SharedTensor, SharedWeights, array_dtype
from moeash.core.kept import EXPONENTS, STEPPED_DTYPES
from moeash.errors import InputError

DTYPES = (
    "float32",
    "float16",
    "bfloat16",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "complex128",
)
"""Dtype names by their code in the file; appended to, never reordered."""

MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_DIMENSIONS = 32
MAX_ELEMENTS = 1 << 40
MAX_CODEBOOKS = 1 << 12
MAX_NOTES = 64
MAX_NOTE_BYTES = 1 << 16

STEP_DTYPES = ("int8", "int16")
"""Dtypes in the file of floats stored in steps."""


class Entry(NamedTuple):
    """What the directory says about one tensor.

    Attributes:
        name: its ``state_dict`` key.
        kind: whether it is shared, kept or tied.
        shape: its shape; ``()`` when tied.
        dtype: its dtype name in the network; ``""`` when tied.
        stored: the dtype name its values have in the file; ``""`` unless kept.
        codebook: position of its codebook; 0 unless shared.
        target: position of the entry it is tied to; 0 unless tied.
        exponent: its stored integers count steps of ``2**exponent``; 0 unless kept in steps.
    """

    name: str
    kind: Literal["shared", "kept", "tied"]
    shape: tuple[int, ...] = ()
    dtype: str = ""
    stored: str = ""
    codebook: int = 0
    target: int = 0
    exponent: int = 0

    @property
    def may_step(self) -> bool:
        """Whether stored integers stand for floats, so that their steps need a size."""
        return self.kind == "kept" and self.dtype in STEPPED_DTYPES and self.stored in STEP_DTYPES

    @property
    def size(self) -> int:
        """Number of elements stored for this entry."""
        return 0 if self.kind == "tied" else math.prod(self.shape)

    @property
    def leaf(self) -> str:
        """The last part of the name: what kind of parameter this is in its module."""
        return self.name.rpartition(".")[2]


Entries = tuple[Entry, ...]
Notes = tuple[tuple[str, str], ...]


def entries_of(shared: SharedWeights) -> Entries:
    """Return the directory entries of a state.

    Raises:
        InputError: a shape, dtype or codebook the format has no place for.
    """
    positions: dict[str, int] = {}
    entries = []
    for position, tensor in enumerate(shared.tensors):
        positions[tensor.name] = position
        if isinstance(tensor, SharedTensor):
            entry = Entry(
                tensor.name, "shared", tensor.shape, tensor.dtype, codebook=tensor.codebook
            )
        elif isinstance(tensor, KeptTensor):
            stored = _name(tensor.values.dtype)
            entry = Entry(
                tensor.name, "kept", tensor.shape, tensor.dtype, stored, exponent=tensor.exponent
            )
        else:
            entry = Entry(tensor.name, "tied", target=positions[tensor.target])
        if not isinstance(tensor, (SharedTensor, KeptTensor)) or entry.size == tensor.size:
            entries.append(entry)
            continue
        raise InputError(
            f"{tensor.name!r} has {tensor.size} values, but its shape is {tensor.shape}"
        )
    return tuple(entries)


def notes_of(notes: Mapping[str, str] | None) -> Notes:
    """Return notes in the order of the file: sorted by key."""
    return tuple(sorted((notes or {}).items()))


def numpy_dtype(stored: str) -> "np.dtype[np.generic]":
    """Return the little-endian NumPy dtype of stored values."""
    return np.dtype(stored).newbyteorder("<")


@lru_cache(maxsize=256)
def lossless(stored: str, dtype: str) -> bool:
    """Tell whether every stored value is also a value of the dtype it has in the network."""
    source, target = np.dtype(stored), array_dtype(dtype)
    # NumPy calls it safe to cast integers of 64 bits to floats that hold 53 of them.
    rounds = source.kind in "iu" and source.itemsize == 8 and target.kind in "fc"
    return np.can_cast(source, target) and not rounds


def problem(entries: Entries, notes: Notes) -> str | None:
    """Return what the format does not allow about a directory, if anything."""
    if len(entries) > MAX_TENSORS:
        return f"a file holds at most {MAX_TENSORS} tensors, not {len(entries)}"
    if len(notes) > MAX_NOTES:
        return f"a file holds at most {MAX_NOTES} notes, not {len(notes)}"
    note_bytes = sum(len(text.encode()) for note in notes for text in note)
    if note_bytes > MAX_NOTE_BYTES:
        return f"notes take at most {MAX_NOTE_BYTES} bytes, not {note_bytes}"
    if any(key >= other for (key, _), (other, _) in pairwise(notes)):
        return "notes are not sorted by distinct keys"
    for entry in entries:
        if len(entry.name.encode()) > MAX_NAME_BYTES:
            return f"a name takes at most {MAX_NAME_BYTES} bytes: {entry.name[:40]!r}..."
        if len(entry.shape) > MAX_DIMENSIONS:
            return f"{entry.name!r} has {len(entry.shape)} dimensions, above {MAX_DIMENSIONS}"
        if math.prod(max(d, 1) for d in entry.shape) > MAX_ELEMENTS:
            return f"{entry.name!r} has shape {entry.shape}, above {MAX_ELEMENTS} elements"
        if entry.codebook >= MAX_CODEBOOKS:
            return f"{entry.name!r} uses codebook {entry.codebook}, above {MAX_CODEBOOKS - 1}"
        if entry.kind == "shared" and entry.dtype not in FLOAT_NAMES:
            return f"{entry.name!r} is shared but has dtype {entry.dtype}; only floats are shared"
        if entry.kind == "kept" and not {entry.dtype, entry.stored} <= set(DTYPES):
            return f"{entry.name!r} has a dtype the format does not know: {entry.dtype}"
        if entry.stored == "bfloat16":
            return f"{entry.name!r} stores bfloat16, which travels as float32"
        if entry.kind == "kept" and not lossless(entry.stored, entry.dtype):
            return (
                f"{entry.name!r} is stored as {entry.stored}, which {entry.dtype} cannot hold "
                "without loss"
            )
        if entry.exponent and not (entry.may_step and entry.exponent in EXPONENTS):
            return (
                f"{entry.name!r} ({entry.dtype} stored as {entry.stored}) has steps of "
                f"2**{entry.exponent}; floats stored as {' or '.join(STEP_DTYPES)} have them, of "
                f"2**{EXPONENTS[0]} to 2**{EXPONENTS[-1]}"
            )
    return None


@lru_cache(maxsize=64)
def _name(dtype: "np.dtype[Any]") -> str:
    return dtype.name  # NumPy makes the name anew each time, at the cost of all the rest
