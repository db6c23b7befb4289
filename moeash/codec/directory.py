"""The directory of a container as bytes: notes, and name, kind, dtype and shape of every tensor.

State names repeat themselves (``layer1.0.bn1.weight``, ``layer1.0.bn1.bias``, ...). Each name is
stored as what it shares with the one before, at the front and at the back, and every property in a
column of its own; then bzip2, whose format and reference encoder have not changed since 2000, if
it makes the result smaller. The layout is specified in :mod:`moeash.codec.container`.
"""

import bz2
from collections.abc import Sequence
from itertools import islice

from moeash.codec.bits import Cursor, varint
from moeash.codec.demand import CHARACTER_BYTES, TENSOR_BYTES, too_much
from moeash.codec.entries import (
    DTYPES,
    MAX_CODEBOOKS,
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_NAME_BYTES,
    MAX_NOTES,
    MAX_TENSORS,
    Entries,
    Entry,
    Notes,
    problem,
)
from moeash.errors import CorruptContainerError, InputError

MAX_DIRECTORY_BYTES = 1 << 24
MAX_FREE_BYTES = 1 << 16
MAX_EXPANSION = 256
"""A packed directory of D bytes holds at most MAX_FREE_BYTES + MAX_EXPANSION * D."""

EXPONENT_BIAS = 127
"""Added to the exponent of a step to make it a byte."""

_TIED, _SHARED, _KEPT = 0, 1, 2  # a kept tensor's kind is _KEPT + the code of its stored dtype
_PLAIN, _BZIP2 = b"\0", b"\1"


def pack(entries: Entries, notes: Notes) -> bytes:
    """Return the bytes of a directory.

    Raises:
        InputError: a limit of the format is exceeded; the message names it.
    """
    try:
        found = problem(entries, notes)
    except UnicodeEncodeError as exc:
        raise InputError(f"a name or note is not valid text: {exc.object[:40]!r}") from exc
    if found:
        raise InputError(found)
    plain = columns(entries, notes)
    packed = bz2.compress(plain, 9)
    smaller = len(packed) < len(plain) <= _largest(1 + len(packed))
    return _BZIP2 + packed if smaller else _PLAIN + plain


def _largest(size: int) -> int:
    """Return the most bytes that the columns of a packed directory of ``size`` bytes may take."""
    return min(MAX_DIRECTORY_BYTES, MAX_FREE_BYTES + MAX_EXPANSION * size)


def unpack(data: bytes, max_bytes: int) -> tuple[Entries, Notes]:
    """Read the bytes of a directory.

    Args:
        data: the bytes.
        max_bytes: most bytes of memory that names may take.

    Raises:
        CorruptContainerError: anything but what :func:`pack` writes.
    """
    form, body = data[:1], data[1:]
    if form == _BZIP2:
        body = _decompress(body, _largest(len(data)))
    elif form != _PLAIN:
        raise CorruptContainerError("the directory has an unknown form; the file is damaged")
    cursor = Cursor(body)
    try:
        entries, notes = _read(cursor, max_bytes)
    except UnicodeDecodeError as exc:
        raise CorruptContainerError("a name or note is not UTF-8; the file is damaged") from exc
    if cursor.remaining:
        raise CorruptContainerError(f"the directory has {cursor.remaining} stray bytes at its end")
    found = problem(entries, notes)
    if found:
        raise CorruptContainerError(found)
    return entries, notes


def columns(entries: Entries, notes: Notes) -> bytes:
    """Return the bytes of a directory before compression; nothing is checked."""
    stored = [e for e in entries if e.kind != "tied"]
    names = [e.name.encode() for e in entries]
    fronts, backs, middles = [], [], []
    for before, name in zip([b"", *names], names, strict=False):
        front, back = overlap(before, name)
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
    parts.append(bytes(e.exponent + EXPONENT_BIAS for e in entries if e.may_step))
    return b"".join(parts)


def _read(cursor: Cursor, max_bytes: int) -> tuple[Entries, Notes]:
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
    demand = n * TENSOR_BYTES
    for front, back, length in zip(fronts, backs, lengths, strict=True):
        if front + back > len(name):
            raise CorruptContainerError("a name repeats more of the one before than there is")
        name = name[:front] + cursor.take(length) + name[len(name) - back :]
        if len(name) > MAX_NAME_BYTES:
            raise CorruptContainerError(f"a name takes more than {MAX_NAME_BYTES} bytes")
        demand += CHARACTER_BYTES * len(name)
        if demand > max_bytes:
            raise too_much(demand, max_bytes)
        names.append(name.decode())
    ranks = _numbers(cursor, n_stored, MAX_DIMENSIONS)
    sizes = iter(_numbers(cursor, sum(ranks), MAX_ELEMENTS))
    shapes = [tuple(islice(sizes, rank)) for rank in ranks]
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
    exponents = iter(cursor.take(sum(entry.may_step for entry in entries)))
    stepped = (
        entry._replace(exponent=next(exponents) - EXPONENT_BIAS) if entry.may_step else entry
        for entry in entries
    )
    return tuple(stepped), notes


def _kind(entry: Entry) -> int:
    if entry.kind == "kept":
        return _KEPT + DTYPES.index(entry.stored)
    return _SHARED if entry.kind == "shared" else _TIED


def _dtype(code: int) -> str:
    if code >= len(DTYPES):
        raise CorruptContainerError(f"the directory holds the unknown dtype {code}")
    return DTYPES[code]


def overlap(before: bytes, name: bytes) -> tuple[int, int]:
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
    values = cursor.varints(n)
    if n and max(values) > limit:
        raise CorruptContainerError(f"the directory holds {max(values)} where {limit} is the limit")
    return values


def _limited(cursor: Cursor, limit: int, what: str) -> int:
    value = cursor.varint()
    if value > limit:
        raise CorruptContainerError(f"the directory claims {value} {what}, the limit is {limit}")
    return value


def _decompress(packed: bytes, most: int) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    try:
        plain = decompressor.decompress(packed, most)
    except (OSError, ValueError) as exc:
        raise CorruptContainerError("the directory does not decompress") from exc
    if not decompressor.eof or decompressor.unused_data:
        raise CorruptContainerError(
            f"the directory is cut off, has stray bytes, or is above {most} bytes"
        )
    return plain
