"""Bits in a row: fixed fields and Exp-Golomb codes, most significant bit first.

The small side information of a container (codebooks and tables, some hundred bytes) is one bit
string. It is held as text of ``0`` and ``1``: searching for the next ``1`` is then one C call.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.errors import CorruptContainerError

MAX_GOLOMB_ZEROS = 40
"""Longest run of zeros before an Exp-Golomb code; a longer one is damage."""

LONGEST_CODE = 128
"""No number takes more bits: an Exp-Golomb code of order 31 has at most 40 + 41 + 31."""

WINDOW_BYTES = 1 << 12


def zigzag(value: int) -> int:
    """Map 0, -1, 1, -2, 2, ... to 0, 1, 2, 3, 4, ..."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(code: int) -> int:
    """Undo :func:`zigzag`."""
    return -(code + 1 >> 1) if code & 1 else code >> 1


def zigzags(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return :func:`zigzag` of every element."""
    return np.where(values >= 0, 2 * values, -2 * values - 1)


def golomb_bits(codes: NDArray[np.int64], order: int) -> NDArray[Any]:
    """Return the length in bits of every Exp-Golomb code of the given order.

    Args:
        codes: non-negative, below 2**52, any shape.
        order: number of low bits that cost one bit each, at least 0.
    """
    # frexp is exact for integers below 2**53: the exponent is the bit length.
    _, length = np.frexp((codes + (1 << order)).astype(np.float64))
    return 2 * length - 1 - order


class BitWriter:
    """Collects bits."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.n_bits = 0

    def fixed(self, value: int, width: int) -> None:
        """Write ``value`` in ``width`` bits; width 0 writes nothing."""
        assert 0 <= value < 1 << width, (value, width)
        if width:
            self._add(f"{value:0{width}b}")

    def golomb(self, code: int, order: int) -> None:
        """Write a non-negative integer as an Exp-Golomb code."""
        assert code >= 0
        text = f"{code + (1 << order):b}"
        self._add("0" * (len(text) - 1 - order) + text)

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self.n_bits += len(text)

    def to_bytes(self) -> bytes:
        """Return the bits, zero-padded to a whole byte."""
        size = -(-self.n_bits // 8)
        text = "".join(self._parts).ljust(8 * size, "0")
        return int(text, 2).to_bytes(size, "big") if size else b""


class BitReader:
    """Reads what :class:`BitWriter` wrote, and refuses to read past the end.

    Raises:
        CorruptContainerError: from every method, when the bits do not hold what is asked for.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._taken = 0  # bytes of data that are text by now
        self._text = ""
        self._at = 0
        self._low = -1  # behind here more bytes are made text

    @property
    def remaining(self) -> int:
        """Bits not read yet."""
        return len(self._text) - self._at + 8 * (len(self._data) - self._taken)

    def _look_ahead(self) -> None:
        """Make text of what is read next, some bytes at a time: text takes eight times as much."""
        more = self._data[self._taken : self._taken + WINDOW_BYTES]
        self._taken += len(more)
        if more:
            self._text = self._text[self._at :] + f"{int.from_bytes(more, 'big'):0{8 * len(more)}b}"
            self._at = 0
        at_end = self._taken == len(self._data)
        self._low = len(self._text) if at_end else len(self._text) - LONGEST_CODE

    def fixed(self, width: int) -> int:
        """Read an unsigned integer of ``width`` bits."""
        if width == 0:
            return 0
        if self._at > self._low:
            self._look_ahead()
        end = self._at + width
        if end > len(self._text):
            raise CorruptContainerError("codebooks and tables end too early; the file is damaged")
        value = int(self._text[self._at : end], 2)
        self._at = end
        return value

    def golomb(self, order: int) -> int:
        """Read an Exp-Golomb code."""
        if self._at > self._low:
            self._look_ahead()
        one = self._text.find("1", self._at, self._at + MAX_GOLOMB_ZEROS + 1)
        if one < 0:
            raise CorruptContainerError("a number in the tables is absurd; the file is damaged")
        zeros = one - self._at
        self._at = one
        return self.fixed(zeros + 1 + order) - (1 << order)

    def symbol(self, alphabet: int) -> int:
        """Read a symbol of an alphabet, written plainly."""
        value = self.fixed((alphabet - 1).bit_length())
        if value >= alphabet:
            raise CorruptContainerError(f"a table names symbol {value} of {alphabet}")
        return value

    def finish(self) -> None:
        """Check that only the zero padding of the last byte is left."""
        if self.remaining >= 8 or "1" in self._text[self._at :]:
            raise CorruptContainerError("codebooks and tables are followed by stray bits")


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

    def varints(self, n: int) -> list[int]:
        """Read ``n`` of them; most are of one byte, and then it is one step."""
        head = bytes(self._data[self._at : self._at + n])
        if len(head) == n and head.isascii():
            self._at += n
            return list(head)
        return [self.varint() for _ in range(n)]

    def text(self) -> str:
        """Read a length and that many bytes of UTF-8."""
        return self.take(self.varint()).decode()
