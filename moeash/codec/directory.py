"""The directory of a container: notes, and name, kind, dtype and shape of every tensor.

State names repeat themselves (``layer1.0.bn1.weight``, ``layer1.0.bn1.bias``, ...). Each name is
stored as what it shares with the one before, at the front and at the back, and every property in a
column of its own; then bzip2, whose format and reference encoder have not changed since 2000, if
it makes the result smaller. The layout is specified in :mod:`moeash.codec.container`.
"""

import bz2
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from moeash.core.codebook import FLOAT_NAMES, KeptTensor, SharedTensor, SharedWeights
from moeash.core.kept import EXPONENTS
from moeash.errors import CorruptContainerError, InputError

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
MAX_DIRECTORY_BYTES = 1 << 24

STEP_DTYPES = ("int8", "int16")
"""Dtypes in the file of floats stored in steps."""

EXPONENT_BIAS = 127
"""Added to the exponent of a step to make it a byte."""

_TIED, _SHARED, _KEPT = 0, 1, 2  # a kept tensor's kind is _KEPT + the code of its stored dtype
_PLAIN, _BZIP2 = b"\0", b"\1"


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
        return self.kind == "kept" and self.dtype in FLOAT_NAMES and self.stored in STEP_DTYPES

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


def in_steps(entries: Entries) -> bool:
    """Tell whether a directory has the column of steps, which came with version 3."""
    return any(entry.exponent for entry in entries)


def notes_of(notes: Mapping[str, str] | None) -> Notes:
    """Return notes in the order of the file: sorted by key."""
    return tuple(sorted((notes or {}).items()))


def pack(entries: Entries, notes: Notes) -> bytes:
    """Return the bytes of a directory.

    Raises:
        InputError: a limit of the format is exceeded; the message names it.
    """
    try:
        problem = _problem(entries, notes)
    except UnicodeEncodeError as exc:
        raise InputError(f"a name or note is not valid text: {exc.object[:40]!r}") from exc
    if problem:
        raise InputError(problem)
    plain = _plain(entries, notes)
    packed = bz2.compress(plain, 9)
    return _BZIP2 + packed if len(packed) < len(plain) else _PLAIN + plain


def unpack(data: bytes, *, with_steps: bool = False) -> tuple[Entries, Notes]:
    """Read the bytes of a directory.

    Args:
        data: the bytes.
        with_steps: whether it may have the column of steps.

    Raises:
        CorruptContainerError: anything but what :func:`pack` writes.
    """
    form, body = data[:1], data[1:]
    if form == _BZIP2:
        body = _decompress(body)
    elif form != _PLAIN:
        raise CorruptContainerError("the directory has an unknown form; the file is damaged")
    cursor = Cursor(body)
    try:
        entries, notes = _read(cursor)
        if with_steps and cursor.remaining:
            entries = _read_steps(cursor, entries)
    except UnicodeDecodeError as exc:
        raise CorruptContainerError("a name or note is not UTF-8; the file is damaged") from exc
    if cursor.remaining:
        raise CorruptContainerError(f"the directory has {cursor.remaining} stray bytes at its end")
    problem = _problem(entries, notes)
    if problem:
        raise CorruptContainerError(problem)
    return entries, notes


def varint(value: int) -> bytes:
    """Return a non-negative integer in groups of seven bits, lowest first (LEB128)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Reads bytes from front to back.

    Raises:
        CorruptContainerError: from every method, when the bytes end too early.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """Read ``size`` bytes."""
        if size > self.remaining:
            raise CorruptContainerError(
                f"the file says {size} bytes follow, but only {self.remaining} do; it is truncated"
            )
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def varint(self) -> int:
        """Read a :func:`varint` below 2**63 in its only, shortest form."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    break
                return value
        raise CorruptContainerError("an integer is not in its shortest form; the file is damaged")

    def text(self) -> str:
        """Read a length and that many bytes of UTF-8."""
        return self.take(self.varint()).decode()


@lru_cache(maxsize=64)
def _name(dtype: "np.dtype[Any]") -> str:
    return dtype.name  # NumPy makes the name anew each time, at the cost of all the rest


def _problem(entries: Entries, notes: Notes) -> str | None:
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
        if entry.exponent and not (entry.may_step and entry.exponent in EXPONENTS):
            return (
                f"{entry.name!r} ({entry.dtype} stored as {entry.stored}) has steps of "
                f"2**{entry.exponent}; floats stored as {' or '.join(STEP_DTYPES)} have them, of "
                f"2**{EXPONENTS[0]} to 2**{EXPONENTS[-1]}"
            )
        if entry.stored == "bfloat16":
            return f"{entry.name!r} stores bfloat16, which travels as float32"
    return None


def _plain(entries: Entries, notes: Notes) -> bytes:
    stored = [e for e in entries if e.kind != "tied"]
    names = [e.name.encode() for e in entries]
    fronts, backs, middles = [], [], []
    for before, name in zip([b"", *names], names, strict=False):
        front, back = _overlap(before, name)
        fronts.append(front)
        backs.append(back)
        middles.append(name[front : len(name) - back])
    parts = [varint(len(notes))]
    for note in notes:
        parts += [varint(len(text.encode())) + text.encode() for text in note]
    parts.append(varint(len(entries)))
    parts.append(bytes(_kind(e) for e in entries))
    parts.append(bytes(DTYPES.index(e.dtype) for e in stored))
    parts += _column(fronts)
    parts += _column(backs)
    parts += _column([len(m) for m in middles])
    parts += middles
    parts += _column([len(e.shape) for e in stored])
    parts += _column([size for e in stored for size in e.shape])
    parts += _column([e.codebook for e in entries if e.kind == "shared"])
    parts += _column([e.target for e in entries if e.kind == "tied"])
    if in_steps(entries):
        parts.append(bytes(e.exponent + EXPONENT_BIAS for e in entries if e.may_step))
    return b"".join(parts)


def _read(cursor: Cursor) -> tuple[Entries, Notes]:
    notes = tuple(
        (cursor.text(), cursor.text()) for _ in range(_limited(cursor, MAX_NOTES, "notes"))
    )
    n = _limited(cursor, MAX_TENSORS, "tensors")
    kinds = list(cursor.take(n))
    n_stored = sum(kind != _TIED for kind in kinds)
    dtypes = [_dtype(code) for code in cursor.take(n_stored)]
    fronts, backs, lengths = (_numbers(cursor, n, MAX_NAME_BYTES) for _ in range(3))
    names: list[str] = []
    name = b""
    for front, back, length in zip(fronts, backs, lengths, strict=True):
        if front + back > len(name):
            raise CorruptContainerError("a name repeats more of the one before than there is")
        name = name[:front] + cursor.take(length) + name[len(name) - back :]
        if len(name) > MAX_NAME_BYTES:
            raise CorruptContainerError(f"a name takes more than {MAX_NAME_BYTES} bytes")
        names.append(name.decode())
    ranks = _numbers(cursor, n_stored, MAX_DIMENSIONS)
    shapes = [tuple(_numbers(cursor, rank, MAX_ELEMENTS)) for rank in ranks]
    codebooks = _numbers(cursor, kinds.count(_SHARED), MAX_CODEBOOKS - 1)
    targets = _numbers(cursor, kinds.count(_TIED), MAX_TENSORS)
    each_dtype, each_shape = iter(dtypes), iter(shapes)
    each_codebook, each_target = iter(codebooks), iter(targets)
    entries = []
    for position, (name_text, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind == _TIED:
            target = next(each_target)
            if target >= position:
                raise CorruptContainerError(f"{name_text!r} is tied to a tensor after it")
            entries.append(Entry(name_text, "tied", target=target))
        elif kind == _SHARED:
            shape, dtype = next(each_shape), next(each_dtype)
            entries.append(Entry(name_text, "shared", shape, dtype, codebook=next(each_codebook)))
        else:
            stored = _dtype(kind - _KEPT)
            entries.append(Entry(name_text, "kept", next(each_shape), next(each_dtype), stored))
    return tuple(entries), notes


def _read_steps(cursor: Cursor, entries: Entries) -> Entries:
    exponents = iter(cursor.take(sum(entry.may_step for entry in entries)))
    stepped = tuple(
        entry._replace(exponent=next(exponents) - EXPONENT_BIAS) if entry.may_step else entry
        for entry in entries
    )
    if not in_steps(stepped):
        raise CorruptContainerError("the directory has a column of steps that says nothing")
    return stepped


def _kind(entry: Entry) -> int:
    if entry.kind == "kept":
        return _KEPT + DTYPES.index(entry.stored)
    return _SHARED if entry.kind == "shared" else _TIED


def _dtype(code: int) -> str:
    if code >= len(DTYPES):
        raise CorruptContainerError(f"the directory holds the unknown dtype {code}")
    return DTYPES[code]


def _overlap(before: bytes, name: bytes) -> tuple[int, int]:
    """Return how many bytes two names share at the front and, of the rest, at the back."""
    shorter = min(len(before), len(name))
    front = 0
    while front < shorter and before[front] == name[front]:
        front += 1
    back = 0
    while back < shorter - front and before[-1 - back] == name[-1 - back]:
        back += 1
    return front, back


def _column(values: Sequence[int]) -> list[bytes]:
    return [varint(value) for value in values]


def _numbers(cursor: Cursor, n: int, limit: int) -> list[int]:
    if n > cursor.remaining:
        raise CorruptContainerError("the directory is too short for its tensors")
    values = [cursor.varint() for _ in range(n)]
    if n and max(values) > limit:
        raise CorruptContainerError(f"the directory holds {max(values)} where {limit} is the limit")
    return values


def _limited(cursor: Cursor, limit: int, what: str) -> int:
    value = cursor.varint()
    if value > limit:
        raise CorruptContainerError(f"the directory claims {value} {what}, the limit is {limit}")
    return value


def _decompress(packed: bytes) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    try:
        plain = decompressor.decompress(packed, MAX_DIRECTORY_BYTES)
    except (OSError, ValueError) as exc:
        raise CorruptContainerError("the directory does not decompress") from exc
    if not decompressor.eof or decompressor.unused_data:
        raise CorruptContainerError(
            f"the directory is cut off, has stray bytes, or is above {MAX_DIRECTORY_BYTES} bytes"
        )
    return plain


def numpy_dtype(stored: str) -> "np.dtype[np.generic]":
    """Return the little-endian NumPy dtype of stored values."""
    return np.dtype(stored).newbyteorder("<")
