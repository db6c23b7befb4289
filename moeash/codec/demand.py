"""What reading a file will take, known from its directory and codebooks, before it is read."""

from collections.abc import Sequence
from dataclasses import dataclass

from moeash.codec.adaptive.walk import work_bytes
from moeash.codec.entries import Entries, numpy_dtype
from moeash.core.codebook import Codebook, array_dtype, index_dtype
from moeash.errors import CorruptContainerError

DEFAULT_MAX_BYTES = 128 << 20
DEFAULT_MAX_EXPANSION = 1024

TENSOR_BYTES = 1 << 10
"""Memory of one tensor besides its values and its name."""

CHARACTER_BYTES = 4
"""Memory of one byte of a name, at worst."""

COUNT_BYTES = 8


def default_limit(file_bytes: int) -> int:
    """Return the most bytes that reading a file of ``file_bytes`` may take unless told."""
    return max(DEFAULT_MAX_BYTES, DEFAULT_MAX_EXPANSION * file_bytes)


@dataclass(frozen=True)
class Demand:
    """Bytes of memory that a file asks for.

    Attributes:
        names: of the tensors' names, shapes and objects.
        stored: of indices, counts and kept values as the file has them.
        values: of every tensor decoded.
        ties: of decoded tensors once more under every tied name, as formats without ties have them.
        work: the most that decoding needs besides.
        on_disk: of every tensor under every name in a file of decoded tensors, where bfloat16 takes
            2 bytes and not the 4 it has as an array.
    """

    names: int
    stored: int
    values: int
    ties: int
    work: int
    on_disk: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.names + self.stored + self.values + self.ties + self.work

    def check(self, max_bytes: int) -> None:
        """Refuse before anything is allocated: what a file asks for is a claim so far.

        Raises:
            CorruptContainerError: it is more than ``max_bytes``.
        """
        if self.total > max_bytes:
            raise too_much(self.total, max_bytes)

    @property
    def written(self) -> int:
        """What a network takes that is decoded into a file, not into memory."""
        return self.names + self.on_disk

    def check_written(self, max_bytes: int) -> None:
        """Refuse before anything is written, as :meth:`check` does for memory.

        Raises:
            CorruptContainerError: :attr:`written` is more than ``max_bytes``.
        """
        if self.written > max_bytes:
            raise CorruptContainerError(
                f"the file claims a network of {self.written} bytes, above the limit of "
                f"{max_bytes}; if you trust it, read it with max_bytes={self.written}"
            )


def too_much(n_bytes: int, max_bytes: int) -> CorruptContainerError:
    """Return the error of a file that asks for more than it may."""
    return CorruptContainerError(
        f"the file claims {n_bytes} bytes of memory, above the limit of {max_bytes}; "
        f"if you trust it, read it with max_bytes={n_bytes}"
    )


def demand_of(entries: Entries, books: Sequence[Codebook], *, adaptive: bool) -> Demand:
    """Return what a file asks for.

    Args:
        entries: its directory.
        books: its codebooks.
        adaptive: whether the adaptive coder may have taken shared tensors.

    Raises:
        CorruptContainerError: a tensor uses a codebook that is not there.
    """
    names = stored = values = ties = work = on_disk = 0
    decoded: list[int] = []
    filed: list[int] = []
    for entry in entries:
        names += TENSOR_BYTES + CHARACTER_BYTES * len(entry.name)
        if entry.kind == "tied":
            decoded.append(decoded[entry.target])
            ties += decoded[-1]
            filed.append(filed[entry.target])
            on_disk += filed[-1]
            continue
        if entry.kind == "kept":
            stored += entry.size * numpy_dtype(entry.stored).itemsize
        elif entry.codebook >= len(books):
            raise CorruptContainerError(
                f"{entry.name!r} uses codebook {entry.codebook} of {len(books)}"
            )
        else:
            n_entries = len(books[entry.codebook])
            stored += entry.size * index_dtype(n_entries).itemsize + COUNT_BYTES * n_entries
            if adaptive:
                work = max(work, work_bytes(entry.shape))
        decoded.append(entry.size * array_dtype(entry.dtype).itemsize)
        values += decoded[-1]
        filed.append(decoded[-1] // 2 if entry.dtype == "bfloat16" else decoded[-1])
        on_disk += filed[-1]
    return Demand(names, stored, values, ties, work, on_disk)
