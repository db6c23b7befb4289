"""The ``.moeash`` format as a short program that reads it: its second specification.

The first is the prose of :mod:`moeash.codec.container`, which has every rule a reader must check;
here are those that keep damage from doing harm. It needs Python, NumPy and nothing of moeash: copy
the file alone and call :func:`decode`, or run ``python reference.py FILE.moeash TO.npz``. Sections
stand in the order of the bytes. All integers are exact; damage is refused with ValueError.
"""

import bz2
import hashlib
import math
import sys
import zipfile
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float16", "bfloat16", "float64")
DTYPES = (*FLOATS, *INTEGERS, "bool", "complex64", "complex128")
CODERS = ANS, HUFFMAN, ADAPTIVE, IN_UNITS = range(4)
TIED, SHARED, KEPT = range(3)
Array = np.ndarray[Any, np.dtype[Any]]


def need(holds: object, rule: str) -> None:
    """Refuse the file unless a rule holds."""
    if not holds:
        raise ValueError(f"this is no sound .moeash file, which {rule}")


class Bits:
    """Bytes as text of 0 and 1, the most significant bit first, read from front to back."""

    def __init__(self, data: bytes) -> None:
        self.text, self.at = "".join(f"{byte:08b}" for byte in data), 0

    def fixed(self, width: int) -> int:
        """A number of so many bits."""
        need(width <= len(self.text) - self.at, "is not cut off")
        self.at += width
        return int("0" + self.text[self.at - width : self.at], 2)

    def golomb(self, order: int) -> int:
        """Exp-Golomb: v = u + 2**order in binary, after a zero for each bit beyond 1 + order."""
        zeros = self.text.find("1", self.at, self.at + 41) - self.at
        need(zeros >= 0, "has at most 40 zeros before a number")
        self.at += zeros
        return self.fixed(zeros + 1 + order) - (1 << order)

    def signed(self, order: int) -> int:
        """Zigzag: codes 0, 1, 2, 3, ... are 0, -1, 1, -2, ..."""
        code = self.golomb(order)
        return -(code + 1 >> 1) if code & 1 else code >> 1

    def take(self, n: int) -> bytes:
        """The next bytes, this many."""
        return self.fixed(8 * n).to_bytes(n, "big")

    def varint(self) -> int:
        """LEB128: seven bits a byte, lowest first, the high bit set in all but the last."""
        value = shift = 0
        while (byte := self.fixed(8)) > 127:
            value, shift = value | (byte & 127) << shift, shift + 7
        need((byte or not shift) and shift < 63, "has integers in their shortest form")
        return value | byte << shift

    def end(self) -> None:
        """All that is left is zeros to the end of a byte."""
        rest = self.text[self.at :]
        need(len(rest) < 8 and "1" not in rest, "has nothing but zeros to the end of a byte")


def decode(data: bytes) -> dict[str, Array]:
    """Return every tensor by name; bfloat16 comes as float32, and tied names share one array."""
    need(data[:4] == b"\x8dMSH" and data[4:6] == b"\1\0", "begins with its magic and version 1")
    checksum = hashlib.blake2b(data[:-8], digest_size=8).digest()
    need(len(data) >= 19 and checksum == data[-8:], "ends with a checksum of all before")
    try:
        return _decode(data, data[6], data[7])
    except (ArithmeticError, LookupError, OSError, TypeError) as exc:
        raise ValueError("this is no sound .moeash file: a number in it is absurd") from exc


def _decode(data: bytes, coder: int, salt: int) -> dict[str, Array]:
    # File: magic, version, coder, salt, lengths, the sections that have them, checksum.
    need(coder in CODERS and not (coder == HUFFMAN and salt), "names a coder")
    file = Bits(data[8:-8])
    lengths = [file.varint() for _ in range(4 if coder >= ADAPTIVE else 3)]
    directory, model, payload, *adaptive = [file.take(n) for n in lengths]
    file.end()
    tensors = read_directory(directory)
    claimed = sum(t.size * t.dtype.itemsize for t in tensors)
    need(claimed <= max(1 << 27, 1024 * len(data)), "holds up to 128 MiB or 1,024 times its size")
    bits = Bits(model)
    books = [read_codebook(bits) for _ in range(bits.golomb(0))]
    sources, taken = read_tables(bits, tensors, books, coder)
    bits.end()
    if coder == HUFFMAN:
        read_huffman(payload, sources)
    else:
        read_ans(payload, sources, salt)
    for section in adaptive:
        read_adaptive(Bits(section), taken, books, coder == IN_UNITS)
    arrays: dict[str, Array] = {}
    for t in tensors:
        need(t.name not in arrays, "has a name once")
        if t.kind == TIED:
            arrays[t.name] = arrays[tensors[t.number].name]
        elif t.kind == SHARED:
            arrays[t.name] = books[t.number].astype(t.dtype)[t.coded].reshape(t.shape)
        else:  # little-endian bytes of values, which may count steps of a power of two
            values = t.coded.reshape(-1).view(dtype_of(t.kind - KEPT).newbyteorder("<"))
            need(values.dtype != np.bool_ or t.coded.max(initial=0) < 2, "has bools of 0 and 1")
            values = np.ldexp(values.astype(np.float64), t.number) if t.number else values
            arrays[t.name] = values.astype(t.dtype).reshape(t.shape)
    return arrays


# --- Directory: a byte 0 or 1, then columns, plain or as one bzip2 stream -------------------------


@dataclass(eq=False)
class Tensor:
    """What the directory says of a tensor, and what is coded for it: indices or bytes."""

    name: str
    kind: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int
    coded: Array
    number: int = 0  # shared: its codebook; tied: which tensor; kept: exponent of the step


def dtype_of(code: int) -> np.dtype[Any]:
    """The dtype of arrays, by its code in the file."""
    return np.dtype(DTYPES[code].replace("bfloat16", "float32"))


def read_directory(packed: bytes) -> list[Tensor]:
    """Tensors in the order of the network's state."""
    form, body = packed[:1], packed[1:]
    if form == b"\1":
        unpacker = bz2.BZ2Decompressor()
        body = unpacker.decompress(body, min(1 << 24, (1 << 16) + 256 * len(packed)))
        need(unpacker.eof and not unpacker.unused_data, "unpacks to few bytes")
    need(form in (b"\0", b"\1"), "is plain or packed")
    columns = Bits(body)
    for _ in range(2 * columns.varint()):  # notes: keys and values
        columns.take(columns.varint()).decode()
    kinds = columns.take(columns.varint())  # tied, shared, or KEPT + the dtype it is stored as
    codes = iter(columns.take(sum(kind != TIED for kind in kinds)))
    fronts, backs, news = ([columns.varint() for _ in kinds] for _ in range(3))
    names = [b""]  # the front of the name before, new bytes, the back of the name before
    for front, back, new in zip(fronts, backs, news, strict=True):
        need(front + back <= len(names[-1]), "repeats what there is")
        end = names[-1][len(names[-1]) - back :]
        names.append(names[-1][:front] + columns.take(new) + end)
        need(len(names[-1]) <= 1024, "has names of 1,024 bytes")
    ranks = [0 if kind == TIED else columns.varint() for kind in kinds]
    tensors = []
    for name, kind, rank in zip(names[1:], kinds, ranks, strict=True):
        shape = tuple(columns.varint() for _ in range(rank))
        code = 0 if kind == TIED else next(codes)
        need(kind != SHARED or code < len(FLOATS), "shares floats")
        size = 0 if kind == TIED else math.prod(shape)
        nothing = np.empty(0, dtype=np.uint8)
        tensors.append(Tensor(name.decode(), kind, dtype_of(code), shape, size, nothing))
    for which in (SHARED, TIED):
        for i, t in enumerate(tensors):
            t.number = columns.varint() if t.kind == which else t.number
            need(t.kind != TIED or t.number < max(i, 1), "ties to tensors before")
    for t in tensors:
        if t.kind >= KEPT:
            stored = dtype_of(t.kind - KEPT)
            need(np.can_cast(stored, t.dtype), "stores what a dtype holds")
            if t.dtype == np.float32 and stored in (np.int8, np.int16):
                t.number = columns.fixed(8) - 127
                need(-126 <= t.number <= 100, "has steps within float32")
    columns.end()
    return tensors


# --- Model, a bit string: codebooks, then which coder has which tensor, and tables ----------------


def read_codebook(bits: Bits) -> Array:
    """Float32 entries, written plainly or predicted."""
    n = bits.golomb(4) + 1
    need(n <= min(1 << 20, len(bits.text) - bits.at), "has a bit at least for every entry")
    if not bits.fixed(1):
        book = np.array([bits.fixed(32) for _ in range(n)], dtype=np.uint32).view(np.float32)
    else:  # how far each float32 lies from a line through the two before: -0.0 is next below 0.0
        need(n <= 1 << 14, "predicts short codebooks only")
        order, largest = bits.fixed(5), float(np.finfo(np.float32).max)
        book = np.zeros(n, dtype=np.float32)
        for i in range(n):
            guess = 2 * float(book[i - 1]) - float(book[i - 2]) if i > 1 else float(book[0])
            pattern = int(np.float32(min(max(guess, -largest), largest)).view(np.int32))
            rank = (pattern if pattern >= 0 else -1 - (pattern & 0x7FFFFFFF)) + bits.signed(order)
            book.view(np.uint32)[i] = rank if rank >= 0 else (1 << 31) - 1 - rank
            need(np.isfinite(book[i]), "has finite entries")
    need(np.isfinite(book).all() and (book[1:] > book[:-1]).all(), "has entries that increase")
    return book


@dataclass(eq=False)
class Table:
    """The symbols that occur and, for each, a level: how likely it is in 2**-resolution octaves."""

    symbols: Array
    levels: Array
    resolution: int = 0

    @cached_property
    def frequencies(self) -> Array:
        """For ANS, out of 2**24; the first of the likeliest symbols has what rounding leaves."""
        below = (self.levels.max() - self.levels) << (3 - self.resolution)
        weights = np.maximum(EIGHTHS[below & 7] >> np.minimum(below >> 3, 31), 1)
        shares: Array = 1 + weights * ((1 << 24) - weights.size) // weights.sum()
        shares[below.argmin()] += (1 << 24) - shares.sum()
        return shares

    @cached_property
    def costs(self) -> Array:
        """For ANS, what each symbol takes, in 2**-16 bits."""
        bits: Array = np.rint(np.log2(self.frequencies) * 65536).astype(np.int64)
        return (24 << 16) - bits

    @cached_property
    def lengths(self) -> Array:
        """For Huffman, bits of the codes; none is left over."""
        total = int((1 << (self.levels - 1)).sum()) if self.levels.max() <= 31 else 3
        need(total & (total - 1) == 0, "has complete codes of up to 31 bits")
        return total.bit_length() - self.levels


EIGHTHS = np.array(  # 2**30 * 2**(-i / 8)
    [1073741824, 984625594, 902905651, 827968132, 759250125, 696235434, 638450708, 585461881]
)


def read_table(bits: Bits, alphabet: int, n_elements: int, coder: int) -> Table:
    """Which symbols of the alphabet occur, and their levels."""
    resolution = bits.fixed(2 * (coder != HUFFMAN))
    halves, order, width = bits.fixed(1), bits.fixed(2), (alphabet - 1).bit_length()
    at, last, gaps = bits.fixed(width), bits.fixed(width), bits.fixed(1)
    need(at <= last < alphabet, "has symbols of the alphabet")
    symbols: list[int] = []
    while at <= last:  # a run of symbols that occur, then a gap
        run = bits.golomb(1) + 1 if gaps else last - at + 1
        most = min(n_elements, len(bits.text) - bits.at + 1)
        need(run <= last - at + 1 and len(symbols) + run <= most, "lists what can occur")
        symbols += range(at, at + run)
        at += run if at + run > last else run + bits.golomb(1) + 1
    levels, step = [bits.golomb(3) + 1], 0
    for _ in symbols[1:]:
        step = bits.signed(order) + (step >> 1) * halves
        levels.append(levels[-1] + step)
    need(min(levels) >= 1 and max(levels) <= 512, "has levels from 1 to 512")
    return Table(np.array(symbols), np.array(levels), resolution)


def read_pool(bits: Bits, alphabet: int, sizes: list[int], coder: int) -> list[Table]:
    """The table of each source: the pool's, its own, a flat one or one of a single symbol."""
    pool = read_table(bits, alphabet, sum(sizes), coder) if sizes[1:] and bits.fixed(1) else None
    width = (alphabet - 1).bit_length()
    flat = Table(np.arange(alphabet), np.ones(alphabet, dtype=np.int64))
    flat.levels[: ((1 << width) - alphabet) * (coder == HUFFMAN)] = 2  # so that no code is left
    tables = []
    for size in sizes:
        if pool and not bits.fixed(1):
            tables.append(pool)
        elif not bits.fixed(1):
            tables.append(read_table(bits, alphabet, size, coder))
        else:
            constant = bits.fixed(1)
            symbol = bits.fixed(width * constant)
            tables.append(Table(flat.symbols[symbol:][:1], flat.levels[:1]) if constant else flat)
            need(symbol < alphabet, "has symbols of the alphabet")
    return tables


Sources = list[tuple[Table, Array]]  # in the order of the payload: a table, where its symbols go
Taken = list[tuple[int, list[tuple[Tensor, int]]]]  # a codebook, its tensors and their trellises


def read_tables(
    bits: Bits, tensors: list[Tensor], books: list[Array], coder: int
) -> tuple[Sources, Taken]:
    """What the payload holds, and what the adaptive coder took; arrays to fill are made."""
    sources: Sources = []
    taken: Taken = []
    pools: list[list[Tensor]] = [[] for _ in books]
    for t in tensors:
        if t.kind == SHARED:
            pools[t.number] += [t] * bool(t.size)
    trellises = bits.fixed(coder >= ADAPTIVE)
    for number, pool in enumerate(pools):
        # Of each tensor whether the adaptive coder took it and, if any does, which trellis it has.
        choices = [bits.fixed(coder >= ADAPTIVE) and 1 + bits.fixed(2 * trellises) for _ in pool]
        chosen = [(t, (0, 4, 8, 16)[c - 1]) for t, c in zip(pool, choices, strict=True) if c]
        taken += [(number, chosen)] if chosen else []
        rest = [t for t, c in zip(pool, choices, strict=True) if not c]
        if rest:
            tables = read_pool(bits, books[number].size, [t.size for t in rest], coder)
            for t, table in zip(rest, tables, strict=True):
                t.coded = np.empty(t.size, dtype=np.uint32)
                sources.append((table, t.coded))
    # Kept: by stored dtype a pool for every byte of an element, by last part of the name a source.
    for kind in range(KEPT, KEPT + len(DTYPES)):
        groups: dict[str, list[Tensor]] = defaultdict(list)
        for t in tensors:
            if t.kind == kind and t.size:
                groups[t.name.rpartition(".")[2]].append(t)
        sizes = [sum(t.size for t in group) for group in groups.values()]
        width = dtype_of(kind - KEPT).itemsize
        rows = [np.empty((size, width), dtype=np.uint8) for size in sizes]
        for row, group in zip(rows, groups.values(), strict=True):
            for t in group:
                t.coded, row = row[: t.size], row[t.size :]
        for plane in range(width if rows else 0):
            tables = read_pool(bits, 256, sizes, coder)
            sources += [(table, row[:, plane]) for table, row in zip(tables, rows, strict=True)]
    any_trellis = any(n_states for _, chosen in taken for _, n_states in chosen)
    need(any_trellis or not trellises, "has trellises where it says so")
    return sources, taken


# --- Payload: the symbols of all sources, as ranks in their tables, in one stream -----------------


PART = 1 << 20  # symbols from which a stream is divided into parts of so many


def read_ans(payload: bytes, sources: Sources, salt: int) -> None:
    """Stacks of 32-bit words, the last on top, and states that end as they begin."""
    coded = [(table, out) for table, out in sources if table.symbols.size > 1]
    n = sum(out.size for _, out in coded)
    parts = -(-n // PART) if n >= PART else 0  # each of four states and a stack
    slack = (n >> 15) + (288 * parts or 32 * (n > 0))
    least = sum(out.size * int(table.costs.min()) for table, out in coded)
    need(8 * len(payload) >= -(-least >> 16) + slack, "has a payload for its symbols")
    stacks, end, at = [payload.rstrip(b"\0")], len(payload) - 4 * parts, 0
    for length in np.frombuffer(payload[end:], dtype="<u4").tolist()[::-1]:
        stacks.insert(0, payload[at : at + 4 * length])
        at += 4 * length
    need(at <= end and not (parts and any(payload[at:end])), "has zeros behind its stacks")
    first = (1 << 32) * (parts > 0)
    states, words, done, cost = [first], [0][:0], 0, 0
    for table, out in sources:
        places = np.zeros(out.size, dtype=np.int64)
        widths = np.roll(table.frequencies, salt).tolist()  # slots of ranks, rotated
        begins = [0, *np.cumsum(widths).tolist()]
        for i in range(done, done + out.size) if len(widths) > 1 else ():
            if i % PART == 0:
                need(i == 0 or not (words or set(states) - {first}), "has parts that end as begun")
                stack = stacks.pop(0)
                words = np.frombuffer(stack + bytes(-len(stack) % 4), dtype="<u4").tolist()
                states = [0] * (4 if parts else 1)
                for lane in range(len(states)):
                    for _ in range(min(2, len(words))):
                        states[lane] = states[lane] << 32 | words.pop()
                need(min(states) >= first, "has states of their size")
            elif not (words or parts or states[0]):
                break  # an empty coder says place 0 and no other
            state = states[i % len(states)]
            slot = state & 0xFFFFFF
            places[i - done] = place = bisect_right(begins, slot) - 1
            state = widths[place] * (state >> 24) + slot - begins[place]
            if state < 1 << 32 and words:
                state = state << 32 | words.pop()
            states[i % len(states)] = state
        ranks = (places - salt) % len(widths)
        out[:] = table.symbols[ranks]
        if len(widths) > 1:
            done, cost = done + out.size, cost + int(table.costs[ranks].sum())
    need(not (words or set(states) - {first}), "has a payload that ends as it began")
    need(len(payload) == -(-(-(-cost >> 16) + slack) // 8), "has the bytes of its symbols")


def read_huffman(payload: bytes, sources: Sources) -> None:
    """Canonical codes: by length, then by rank, each one more than the one before."""
    bits = Bits(payload)
    for table, out in sources:
        lengths, code, width = table.lengths.tolist(), 0, 0
        shortest = min(lengths)
        codes: dict[str, int] = {}
        for rank in np.argsort(table.lengths, kind="stable").tolist():
            code, width = code << (lengths[rank] - width), lengths[rank]
            codes[f"{code:0{width}b}" * bool(width)] = rank
            code += 1
        ranks = np.zeros(out.size, dtype=np.int64)
        need(len(bits.text) - bits.at >= out.size * shortest, "is not cut off")
        for i in range(out.size if width else 0):
            end = bits.at + shortest
            while (rank := codes.get(bits.text[bits.at : end])) is None:
                need(end < len(bits.text), "is not cut off")
                end += 1
            ranks[i], bits.at = rank, end
        out[:] = table.symbols[ranks]
    bits.end()


# --- Adaptive: a stream a codebook of binary decisions, predicted from those before ---------------


def read_adaptive(section: Bits, taken: Taken, books: list[Array], in_units: bool) -> None:
    """A codebook at a time: a byte of shift where streams are in units, varint of bytes, stream."""
    shifts = [0]
    for number, tensors in taken:
        shifts.append(section.fixed(8 * in_units))
        data, n = section.take(section.varint()), books[number].size
        zero = int(np.abs(books[number]).argmin())  # the entry nearest 0, of two the lower
        need(shifts[-1] <= 15 and (n > 1 or not data), "has streams where they are needed")
        claimed = sum(t.size for t, _ in tensors) if n > 1 else 0
        need(claimed <= 16_000 * (len(data) + 8), "takes some of a bit for every weight")
        coder = Adaptive(data, zero, n - 1 - zero, shifts[-1])
        for t, n_states in tensors:
            values = coder.tensor(t.shape, n_states) if n > 1 else np.zeros(t.size, dtype=np.int64)
            t.coded = np.asarray(values) + zero
        tail = next(k for k in range(1, 9) if 1 << (64 - 8 * k) <= coder.span)
        need(n == 1 or coder.at - 8 + tail == len(data), "has streams of the fewest bytes")
    need(any(shifts) or not in_units, "has units where it says so")
    section.end()


def clamp(x: int, low: int, high: int) -> int:
    """The nearest number from low to high."""
    return low if x < low else high if x > high else x


def toward(x: int, y: int, divisor: int) -> int:
    """The way from x to y, divided."""
    return (y - x) * (65536 // divisor) >> 16


def tabulated() -> tuple[list[int], list[int], list[int]]:
    """Tables: 65536 / (1 + exp(-x / 256)) at x + 2048, its inverse, and 256 ln(mean + 1/64)."""
    one, decay = 1 << 62, 4593706758521714574  # 1 and exp(-1 / 256)
    powers = [one]
    for _ in range(2047):
        powers.append(powers[-1] * decay >> 62)
    upper = [(one << 16) // (one + power) for power in powers]
    squash = [65536 - upper[-1], *(65536 - p for p in upper[:0:-1]), *upper]
    stretch = [min(bisect_left(squash, 16 * p + 8, 1), 4095) - 2048 for p in range(4096)]
    logs = []
    for steps in (2048, 32):  # the middles of means in steps of 1 / 1024 and, from 4 on, of 1 / 16
        exponent, power = -1100, powers[1100]
        for i in range(4096):
            while (power << 62) // decay <= one * (2 * i + 1) // steps + one // 64:
                exponent, power = exponent + 1, (power << 62) // decay
            logs.append(exponent)
    return squash, stretch, logs


SQUASH, STRETCH, LOGS = tabulated()


def log(mean: int) -> int:
    """The tabulated logarithm of a mean magnitude, which has 16 fraction bits."""
    return LOGS[mean >> 6 if mean < 1 << 18 else 4096 + (mean >> 12)]


def observe(slot: list[int], bit: int) -> None:
    """Move a probability of 22 bits towards a bit, by less the more it has seen."""
    slot[0] += ((bit << 22) - bit - slot[0]) * (131072 // (2 * slot[1] + 3)) >> 16
    slot[1] = min(slot[1] + 1, 250)


class Adaptive:
    """A range decoder, and what it learns from decisions: carried from tensor to tensor."""

    def __init__(self, data: bytes, below: int, above: int, shift: int) -> None:
        self.data, self.at, self.span = data, 8, (1 << 64) - 1
        self.offset = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
        need(self.offset < self.span, "begins inside the interval")
        self.below, self.above, self.shift = below, above, shift
        # Decisions 0 to 7: is the magnitude above it? 8: is the sign +? 9, 10: 0, 1 in half 1.
        self.slots: Any = [[{} for _ in range(8)] for _ in range(11)]  # by context: p, count
        self.weights, self.steps = [[12288] * 8 + [0] * 7 for _ in range(11)], [0] * 11
        knots = [SQUASH[min(128 * k, 4095)] << 14 for k in range(33)]
        self.knots = [[list(knots) for _ in range(16)] for _ in range(11)]
        self.escapes: Any = defaultdict(lambda: 1 << 31)
        self.places: Any = defaultdict(lambda: [1 << 21, 0])
        self.mean, self.row_logs = 1 << 15, [0]  # means have 16 fraction bits

    def bit(self, probability: int) -> int:
        """A bit that is 1 with probability / 65536: the lower part of the interval."""
        split = (self.span >> 16) * probability
        bit = self.offset < split
        self.span = split if bit else self.span - split
        self.offset -= 0 if bit else split
        if self.span < 1 << 32:
            word = self.data[self.at : self.at + 4].ljust(4, b"\0")
            self.offset = self.offset << 32 | int.from_bytes(word, "big")
            self.span, self.at = self.span << 32, self.at + 4
        return int(bit)

    def decide(self, which: int, contexts: list[Any], statistics: list[int], scale: int) -> int:
        """A bit predicted by a logistic mixture of what its contexts and statistics say."""
        pairs = zip(self.slots[which], contexts, strict=True)
        slots = [table.setdefault(context, [1 << 21, 0]) for table, context in pairs]
        inputs = [*[STRETCH[slot[0] >> 10] for slot in slots], *statistics, 256]
        weights, knots = self.weights[which], self.knots[which][scale]
        x = clamp(sum(map(mul, weights, inputs)) >> 16, -2047, 2047) + 2048
        knot, part = divmod(x, 128)
        corrected = ((knots[knot] >> 14) * (128 - part) + (knots[knot + 1] >> 14) * part) >> 7
        bit = self.bit(clamp((SQUASH[x] + corrected) >> 1, 24, 65536 - 24))
        error = ((bit << 16) - SQUASH[x]) * (3 + 6000 // (200 + self.steps[which]))
        self.steps[which] = min(self.steps[which] + 1, 5801)
        for j, value in enumerate(inputs):  # modulo 2**32
            moved = weights[j] + ((value * error + (1 << 17)) >> 18) + (1 << 31)
            weights[j] = (moved & 0xFFFFFFFF) - (1 << 31)
        for slot in slots:
            observe(slot, bit)
        knot += part > 63
        knots[knot] += ((bit << 30) - bit - knots[knot]) >> 7
        return bit

    def drift(self, key: Any) -> int:
        """A bit by a probability of 32 bits that moves at one rate."""
        p = self.escapes[key]
        bit = self.bit(clamp(p >> 16, 512, 65536 - 512))
        self.escapes[key] = p + ((1 << 32) - 1 - p >> 5) if bit else p - (p >> 5)
        return bit

    def escape(self, most: int) -> int:
        """A number from 1 in Elias' gamma code, whose length and two leading bits are learned."""
        width, number = 0, 1
        while self.drift(width):
            width += 1
            need(1 << width <= most, "has magnitudes of the alphabet")
        for j in range(width):
            number = 2 * number + (self.drift((width, number)) if j < 2 else self.bit(32768))
        return number

    def place(self, units: int, scale: int) -> int:
        """Where in its last unit a magnitude lies; four leading bits are learned."""
        number = 1
        for j in range(self.shift):
            slot = self.places[scale, min(units, 4), number] if j < 4 else [1 << 21, 0]
            bit = self.bit(clamp(slot[0] >> 6, 512, 65536 - 512))
            observe(slot, bit)
            number = 2 * number + bit
        return number - (1 << self.shift)

    def tensor(self, shape: tuple[int, ...], n_states: int) -> list[int]:
        """Return how far every weight's index lies from the zero entry."""
        rows, channels, *kernel = shape if len(shape) > 1 else (1, math.prod(shape))
        taps, width = math.prod(kernel), kernel[-1] if kernel else 1
        row_size, unit = channels * taps, 1 << self.shift
        lags = 1, 2, row_size, taps if taps > 1 else 2, width if taps > 1 else 2
        turn, swap = {0: (0, 0), 4: (1, 2), 8: (5, 2), 16: (9, 4)}[n_states]
        known = self.row_logs  # rows of the tensor before are often this one's channels
        known = known if len(known) > 1 and channels % len(known) == 0 else [0]
        for tables in self.slots:
            tables[5].clear()  # the context that forgets
        self.steps = [min(n, 100) for n in self.steps]
        # Statistics begin when a weight asks for them: a size that is only claimed costs nothing.
        begin, totals, n_seen = self.mean, [], 0
        column_mean: Any = defaultdict(lambda: begin)
        channel_mean: Any = defaultdict(lambda: begin)
        column_sign, column_drift, state = (defaultdict[int, int](int) for _ in range(3))
        seen: list[int] = []  # levels in units, signed
        values: list[int] = []
        for row in range(rows):
            row_mean = recent = self.mean
            row_sign = row_drift = kernel_sum = kernel_total = total = 0
            for column in range(row_size):
                channel, tap = divmod(column, taps)
                line, across = divmod(tap, width)
                if tap == 0:
                    kernel_sum = kernel_total = 0
                left, left2, up, same, upper = (seen[-k] if k <= len(seen) else 0 for k in lags)
                diagonal = seen[-width - 1] if line and across else 0
                anti = seen[1 - width] if line and across < width - 1 else 0
                beside = (column_mean[column - 1] + column_mean[column + 1]) >> 1
                means = row_mean, channel_mean[channel], beside, recent, column_mean[column]
                logs = [log(mean) for mean in (*means, self.mean)]
                by_row, by_channel, by_beside, _, by_column, by_tensor = logs
                blend = (8 * by_row + 5 * by_column + 6 * by_channel - 3 * by_tensor) >> 4
                rowly, columnly, besidely, blendly = (
                    clamp((x + 1088) >> 6, 0, 31) for x in (by_row, by_column, by_beside, blend)
                )
                tap11, tap31 = min(tap, 11), min(tap, 31)
                near, near_same = min(abs(left), 2), min(abs(same), 2)
                contexts: list[Any] = [
                    (rowly, columnly),
                    (tap31, rowly),
                    tuple(min(abs(x), 3) for x in (left, left2, up, same)),
                    clamp((blend + 1400) >> 3, 0, 511),
                    (columnly, besidely),
                    (tap31, near),
                    (near, near_same, min(abs(upper), 2), tap31),
                    (tap11, min(kernel_total, 15)),
                ]
                statistics = [clamp(x - by_tensor, -2047, 2047) for x in logs[:5]]
                statistics.insert(4, known[channel * len(known) // channels])
                scale = clamp((by_column + 1024) >> 7, 0, 15)

                # Half 1 of a trellis has the odd distances and 0, half 0 the even ones.
                half = int(2 * state[column] >= n_states > 0)
                most_below, most_above = self.below, self.above
                if n_states:
                    most_below, most_above = (most_below + half) >> 1, (most_above + half) >> 1
                m = level = 0
                if most_below or most_above:
                    m = self.decide(9 if half else 0, contexts, statistics, scale)
                if m:
                    positive = int(most_above > 0)
                    if most_below and most_above:
                        near_by = left, upper, diagonal, anti, same, up, left2
                        signs = [(x > 0) - (x < 0) for x in near_by]
                        drift = column_drift[column]
                        beside = column_drift[column - 1] + column_drift[column + 1]
                        row_tilt, column_tilt, tilt, beside_tilt = (
                            clamp(x >> 9, -4, 4)
                            for x in (row_sign, column_sign[column], drift, beside)
                        )
                        tilts = clamp(kernel_sum, -4, 4), tilt, clamp(row_drift >> 8, -4, 4)
                        asked: list[Any] = [
                            (tap11, *signs[:4]),
                            (tap31, *signs[:2]),
                            (row_tilt, column_tilt),
                            (*signs[:2], *signs[4:6]),
                            (tilt, beside_tilt),
                            tap31,
                            tilts,
                            (signs[0], signs[6], signs[5]),
                        ]
                        signed = left, left2, upper, diagonal, anti
                        given = [*(clamp(x, -6, 6) * 128 for x in signed), drift >> 2]
                        positive = self.decide(8, asked, given, scale)
                    limit = most_above if positive else most_below
                    highest = (limit + unit - 1) >> self.shift
                    while m < min(highest, 8) and self.decide(
                        9 + m if half and m < 2 else m, contexts, statistics, scale
                    ):
                        m += 1
                    if m == 8 < highest:
                        m = 7 + self.escape(highest - 7)
                    need(m <= highest, "has magnitudes of the alphabet")
                    level = ((m - 1) << self.shift) + self.place(m, blendly) + 1
                    need(level <= limit, "has magnitudes of the alphabet")
                # What a weight teaches: sign and size, half a step less for levels of half 1.
                size = 255 << 16 if m >= 255 else (level << 16) >> self.shift
                size -= (1 << 15) >> self.shift if half and m else 0
                sign = 0 if m == 0 else 1 if positive else -1
                total += min(level, 255 << self.shift)
                seen.append(sign * m)
                values.append(sign * (2 * level - half if n_states else level))
                if n_states:
                    turned = (half * turn) ^ (level & 1) * swap
                    state[column] = (2 * state[column] % n_states) ^ turned
                row_mean += toward(row_mean, size, min(column, 1000) + 9)
                recent += (size - recent) >> 3
                column_mean[column] += toward(column_mean[column], size, min(row, 300) + 3)
                visits = min(row * taps + tap, 2000)
                channel_mean[channel] += toward(channel_mean[channel], size, visits + 6)
                self.mean += toward(self.mean, size, n_seen + 50)
                n_seen = min(n_seen + 1, 4000)
                kernel_sum = clamp(kernel_sum + sign * m, -64, 64)
                kernel_total = min(kernel_total + m, 64)
                row_sign += (4096 * sign - row_sign) >> 4
                row_drift += (4096 * sign - row_drift) >> 7
                column_sign[column] += (4096 * sign - column_sign[column]) >> 3
                column_drift[column] += 3 * (4096 * sign - column_drift[column]) >> 7
                need(self.at - 8 < len(self.data), "has streams as long as their weights")
            totals.append(((total >> self.shift) << 16) // row_size)
        self.row_logs = [clamp(log(x) - log(self.mean), -2047, 2047) for x in totals]
        return values


def main() -> None:
    """Write the arrays of a file as NumPy's archive of arrays."""
    source, target = sys.argv[1:]
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in decode(Path(source).read_bytes()).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


if __name__ == "__main__":
    main()
