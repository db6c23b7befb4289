"""Codebook entries as bits: what a straight line through the two before does not predict.

Entries of uniform bins lie near a grid, exactly on it when they are bin centres. The prediction is
``2 * e[i-1] - e[i-2]`` in float64, rounded to float32; what is stored is how many representable
float32 values lie between it and the entry. A codebook for which that is no gain is stored as
plain float32.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from moeash.codec.bits import BitReader, BitWriter, golomb_bits, unzigzag, zigzags
from moeash.core.codebook import Codebook
from moeash.errors import CorruptContainerError, InputError

MAX_ENTRIES = 1 << 20
MAX_PREDICTED = 1 << 14
"""Longer codebooks are always plain: reading a prediction back is a loop."""

COUNT_ORDER = 4
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_ORDER_BITS = 5


def write(bits: BitWriter, codebook: Codebook) -> None:
    """Write a codebook; see the format in :mod:`moeash.codec.container`."""
    n = len(codebook)
    bits.golomb(n - 1, COUNT_ORDER)
    order, _ = _choice(codebook.entries.tobytes())
    bits.fixed(int(order is not None), 1)
    if order is None:
        for pattern in codebook.entries.view(np.uint32).tolist():
            bits.fixed(pattern, 32)
        return
    bits.fixed(order, _ORDER_BITS)
    for code in _codes(codebook.entries).tolist():
        bits.golomb(code, order)


def write_all(bits: BitWriter, codebooks: Sequence[Codebook]) -> None:
    """Write the number of codebooks, then each of them."""
    bits.golomb(len(codebooks), 0)
    for codebook in codebooks:
        write(bits, codebook)


def count_bits(codebooks: Sequence[Codebook]) -> int:
    """Return the bits :func:`write_all` takes.

    Raises:
        InputError: a codebook is too long for the format.
    """
    return int(golomb_bits(np.array(len(codebooks)), 0)) + sum(map(n_bits, codebooks))


def n_bits(codebook: Codebook) -> int:
    """Return the bits :func:`write` takes.

    Raises:
        InputError: the codebook is too long for the format.
    """
    n = len(codebook)
    if n > MAX_ENTRIES:
        raise InputError(f"a codebook holds at most {MAX_ENTRIES} entries, not {n}")
    order, body = _choice(codebook.entries.tobytes())
    head = int(golomb_bits(np.array(n - 1), COUNT_ORDER))
    return head + 1 + (0 if order is None else _ORDER_BITS) + body


def read_all(bits: BitReader, *, limit: int) -> tuple[Codebook, ...]:
    """Read what :func:`write_all` wrote.

    Raises:
        CorruptContainerError: more than ``limit`` codebooks, or one that is not valid.
    """
    n = bits.golomb(0)
    if n > limit:
        raise CorruptContainerError(f"the file claims {n} codebooks, the limit is {limit}")
    return tuple(read(bits) for _ in range(n))


def read(bits: BitReader) -> Codebook:
    """Read a codebook.

    Raises:
        CorruptContainerError: its entries are not finite and increasing, or the bits end.
    """
    n = bits.golomb(COUNT_ORDER) + 1
    if n > min(MAX_ENTRIES, bits.remaining):
        raise CorruptContainerError(f"a codebook claims {n} entries, more than the file can hold")
    if bits.fixed(1):
        entries = _read_predicted(bits, n)
    else:
        patterns = [bits.fixed(32) for _ in range(n)]
        entries = np.array(patterns, dtype=np.uint32).view(np.float32)
    try:
        return Codebook(entries)
    except InputError as exc:
        raise CorruptContainerError(f"the file holds no valid codebook: {exc}") from exc


@lru_cache(maxsize=64)
def _choice(entries: bytes) -> tuple[int | None, int]:
    """Return the Exp-Golomb order (``None``: plain) and the bits of the entries."""
    values = np.frombuffer(entries, dtype=np.float32)
    plain = 32 * values.size
    if values.size > MAX_PREDICTED:
        return None, plain
    codes = _codes(values)
    by_order = [int(golomb_bits(codes, order).sum()) for order in range(1 << _ORDER_BITS)]
    best = int(np.argmin(by_order))
    if by_order[best] + _ORDER_BITS >= plain:
        return None, plain
    return best, by_order[best]


def _codes(entries: NDArray[np.float32]) -> NDArray[np.int64]:
    exact = entries.astype(np.float64)
    line = np.zeros(entries.size)
    line[1:2] = exact[:1]
    line[2:] = 2 * exact[1:-1] - exact[:-2]
    guess = np.clip(line, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)
    return zigzags(_ranks(entries) - _ranks(guess))


def _ranks(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number float32 values in their order: 0.0 is 0, -0.0 is -1."""
    pattern = values.view(np.int32).astype(np.int64)
    return np.where(pattern >= 0, pattern, -(pattern & 0x7FFFFFFF) - 1)


def _read_predicted(bits: BitReader, n: int) -> NDArray[np.float32]:
    if n > MAX_PREDICTED:
        raise CorruptContainerError(f"a codebook of {n} entries must be stored plainly")
    order = bits.fixed(_ORDER_BITS)
    patterns = []
    older = newer = 0.0
    for position in range(n):
        guess = (0.0, newer)[position] if position < 2 else 2 * newer - older
        guess = min(max(guess, -_FLOAT32_MAX), _FLOAT32_MAX)
        (pattern,) = struct.unpack("<i", struct.pack("<f", guess))
        rank = pattern if pattern >= 0 else -(pattern & 0x7FFFFFFF) - 1
        rank += unzigzag(bits.golomb(order))
        pattern = rank if rank >= 0 else (-rank - 1) | 0x80000000
        if not 0 <= pattern < 1 << 32 or (rank >= 0 and rank > 0x7FFFFFFF):
            raise CorruptContainerError("a codebook entry is out of range; the file is damaged")
        older = newer
        (newer,) = struct.unpack("<f", struct.pack("<I", pattern))
        if newer - newer != 0:
            raise CorruptContainerError("a codebook entry is not finite; the file is damaged")
        patterns.append(pattern)
    return np.array(patterns, dtype=np.uint32).view(np.float32)
