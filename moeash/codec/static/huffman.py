"""Canonical Huffman codes, the coder of the published method.

A table's level is ``longest + 1 - length``: frequent symbols have high levels, as with
:mod:`moeash.codec.static.ans`, and the same bits describe both. ``longest`` is not stored; a
complete code has ``sum 2**(level - 1) = 2**longest``. Codes are canonical: by length, then by
symbol, each one more than the one before. A source of one symbol value takes no bits.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from bitarray import bitarray
from bitarray.util import canonical_decode
from numpy.typing import NDArray

from moeash.codec.static.tables import FRACTION_BITS, Rows, Table
from moeash.errors import CorruptContainerError

NAME = "huffman"
RESOLUTIONS = (0,)
MAX_LENGTH = 31
"""Longest code; bitarray decodes no longer ones."""

CHUNK = 1 << 20


def code_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``(P,)`` lengths of an optimal prefix code, at most ``MAX_LENGTH``.

    Counts so skewed that a code would be longer (Fibonacci-like, over two million symbols) are
    raised to ``sum >> 24`` first.
    """
    lengths = _unlimited_lengths(counts)
    if lengths.max() > MAX_LENGTH:
        lengths = _unlimited_lengths(np.maximum(counts, int(counts.sum()) >> 24))
    assert lengths.max() <= MAX_LENGTH
    return lengths


def _unlimited_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    n = counts.size
    if n == 1:
        return np.zeros(1, dtype=np.int64)
    heap = [(count, node) for node, count in enumerate(counts.tolist())]
    heapq.heapify(heap)
    parent = [0] * (2 * n - 1)
    for node in range(n, 2 * n - 1):
        low, a = heapq.heappop(heap)
        high, b = heap[0]
        heapq.heapreplace(heap, (low + high, node))
        parent[a] = parent[b] = node
    depth = [0] * (2 * n - 1)
    for node in range(2 * n - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
    return np.array(depth[:n], dtype=np.int64)


def levels(rows: Rows, resolution: int) -> NDArray[np.int64]:
    """Return ``(P,)`` the levels of every row's symbols."""
    assert resolution == 0
    out = np.empty(rows.symbols.size, dtype=np.int64)
    for start, length in zip(rows.starts.tolist(), rows.lengths.tolist(), strict=True):
        code = code_lengths(rows.counts[start : start + length])
        out[start : start + length] = code.max() + 1 - code
    return out


def flat_levels(alphabet: int) -> NDArray[np.int64]:
    """Return the levels of the flat table: lengths differ by at most one."""
    flat = np.ones(alphabet, dtype=np.int64)
    flat[: (1 << (alphabet - 1).bit_length()) - alphabet] = 2
    return flat


def costs(rows: Rows, levels: NDArray[np.int64], resolution: int) -> NDArray[np.int64]:
    """Return ``(P,)`` the code lengths, in 2**-16 bits.

    Raises:
        CorruptContainerError: the levels of a row are no complete prefix code.
    """
    assert resolution == 0
    if levels.max() > MAX_LENGTH:
        raise CorruptContainerError(f"a Huffman code is longer than {MAX_LENGTH} bits")
    total = rows.sums(np.left_shift(1, levels - 1))
    if (total & (total - 1)).any():
        raise CorruptContainerError("the lengths of a Huffman code leave gaps")
    _, exponent = np.frexp(total.astype(np.float64))
    return (rows.spread(exponent.astype(np.int64)) - levels) << FRACTION_BITS


def payload_bytes(cost: int, n_symbols: int) -> int:
    """Return the bytes of a stream whose codes take ``cost`` 2**-16 bits."""
    return -(-(cost >> FRACTION_BITS) // 8)


def _canonical(table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the code lengths and the ranks in order of their codes."""
    lengths = costs(Rows.listed([table]), table.levels, 0) >> FRACTION_BITS
    if lengths.max() > MAX_LENGTH:
        raise CorruptContainerError(f"a Huffman code is longer than {MAX_LENGTH} bits")
    return lengths, np.argsort(lengths, kind="stable")


def codes_of(table: Table) -> dict[int, bitarray]:
    """Return the code of each rank of a table."""
    lengths, order = _canonical(table)
    codes: dict[int, bitarray] = {}
    code, width = 0, 0
    for rank in order.tolist():
        length = int(lengths[rank])
        code <<= length - width
        codes[rank] = bitarray(f"{code:0{length}b}")
        code, width = code + 1, length
    return codes


def encode(
    sources: Sequence[tuple[Callable[[], NDArray[np.int32]], Table, int]], reserved: int
) -> tuple[bytes, int]:
    """Return a stream of exactly ``reserved`` bytes, and the salt 0.

    Args:
        sources: in file order, a function that returns the ranks of the source's symbols among
            those of its table, the table, and the number of symbols.
        reserved: from :func:`payload_bytes`.
    """
    bits = bitarray()
    codes: dict[int, dict[int, bitarray]] = {}
    for ranks, table, _ in sources:
        if id(table) not in codes:
            codes[id(table)] = codes_of(table)
        if table.symbols.size == 1:
            continue
        symbols = ranks()
        for begin in range(0, symbols.size, CHUNK):
            bits.encode(codes[id(table)], symbols[begin : begin + CHUNK].tolist())
    stream = bits.tobytes()
    assert len(stream) == reserved
    return stream, 0


def fill(
    payload: bytes, salt: int, targets: Sequence[tuple[Table, NDArray[Any]]]
) -> list[NDArray[np.int64]]:
    """Decode a stream.

    Args:
        payload: the stream.
        salt: 0.
        targets: in file order, the table of every source and where its symbols go.

    Returns:
        For every source, ``(P,)`` how often each symbol of its table occurs.

    Raises:
        CorruptContainerError: a table is no prefix code, or the stream has another length.
    """
    bits = bitarray()
    bits.frombytes(payload)
    at = 0
    books: dict[int, tuple[NDArray[np.int64], list[int], list[int]]] = {}
    found: list[NDArray[np.int64]] = []
    for table, out in targets:
        if id(table) not in books:
            lengths, order = _canonical(table)
            books[id(table)] = lengths, np.bincount(lengths).tolist(), order.tolist()
        lengths, count, symbols = books[id(table)]
        counts = np.zeros(len(symbols), dtype=np.int64)
        found.append(counts)
        if len(symbols) == 1:
            out[:] = table.symbols[0]
            counts[0] = out.size
            continue
        for begin in range(0, out.size, CHUNK):
            size = min(CHUNK, out.size - begin)
            # A code is at most MAX_LENGTH bits: this many hold the run, and no more are copied.
            ahead = bits[at : at + size * int(lengths.max())]
            stream = canonical_decode(ahead, count, symbols)
            try:
                ranks = np.fromiter(stream, dtype=np.int32, count=size)
            except ValueError as exc:
                raise CorruptContainerError("the coded indices end too early") from exc
            at += int(lengths[ranks].sum())
            counts += np.bincount(ranks, minlength=counts.size)
            out[begin : begin + size] = table.symbols.astype(out.dtype)[ranks]
    if salt or len(bits) - at >= 8 or bits[at:].any():
        raise CorruptContainerError("the coded indices do not end where they should")
    return found
