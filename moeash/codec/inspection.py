"""Two questions about a file on disk: is it whole, and where do its bytes go?

Of the ANS coder's files a part of the stream is in memory, and what has to be had in another order
stands in a temporary file. The other coders decode a file as a whole.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeash.codec.container import VERSION, decode, encode, read_bytes
from moeash.codec.size import SizeReport, Totals, report_of, size
from moeash.codec.streaming import checking
from moeash.codec.streaming.reading import FileReader
from moeash.codec.streaming.spool import spooled
from moeash.codec.streaming.writing import CODER, Counted
from moeash.core.codebook import Codebook, float32_bytes
from moeash.errors import CorruptContainerError
from moeash.options.arguments import checked


@dataclass(frozen=True)
class VerifyReport:
    """A file that was found whole.

    Attributes:
        path: the file.
        size_bytes: its bytes.
        fingerprint: of the network in it, see
            :meth:`moeash.core.codebook.SharedWeights.fingerprint`.
        coder: its entropy coder.
        version: format version of the file.
    """

    path: str
    size_bytes: int
    fingerprint: str
    coder: str
    version: int


@checked("max_bytes")
def verify(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> VerifyReport:
    """Check a file: checksum, structure, decoding, and that it encodes to the same bytes again.

    Args:
        path: a ``.moeash`` file.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: the file cannot be read, is damaged, or is not the file of its network.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> moeash.verify(path).coder
        'ans'
    """
    with FileReader(path, max_bytes=max_bytes) as reader:
        if reader.coder == CODER:
            with spooled(reader) as spool:
                counted = checking.count(reader, spool)
                same = checking.is_canonical(reader, counted, spool)
                fingerprint = checking.fingerprint(reader, spool)
            n_bytes = reader.size_bytes
        else:
            data = read_bytes(path)
            container = decode(data, max_bytes=max_bytes)
            same = data == encode(container.shared, coder=container.coder, notes=container.notes)
            fingerprint = container.shared.fingerprint()
            n_bytes = len(data)
    if not same:
        raise CorruptContainerError(
            f"{os.fspath(path)!r} decodes, but its network encodes to other bytes; it was not "
            "written by this version of moeash"
        )
    return VerifyReport(os.fspath(path), n_bytes, fingerprint, reader.coder, VERSION)


@checked("max_bytes")
def inspect(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> SizeReport:
    """Return the bytes of every part and tensor of a file.

    Args:
        path: a ``.moeash`` file.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: the file cannot be read, is damaged, or is not the file of its network.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> report = moeash.inspect(path)
        >>> report.n_shared, report.n_kept, report.n_entries
        (2048, 32, 4)
        >>> [tensor.name for tensor in report.tensors]
        ['weight', 'bias']
    """
    return open_and_size(path, max_bytes=max_bytes)[1]


@dataclass(frozen=True, eq=False)
class BookUse:
    """A codebook and what uses it.

    Attributes:
        tensors: names of the shared tensors.
        entries: ``(n,)`` of it.
        counts: ``(n,)`` how many weights use each.
    """

    tensors: tuple[str, ...]
    entries: NDArray[np.float32]
    counts: NDArray[np.int64]


def open_and_size(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> tuple[tuple[BookUse, ...], SizeReport]:
    """Return the codebooks of a file and their use, and what :func:`inspect` returns.

    Args:
        path: a ``.moeash`` file.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: as :func:`inspect`.
    """
    with FileReader(path, max_bytes=max_bytes) as reader:
        n_bytes = reader.size_bytes
        if reader.coder == CODER:
            uses, report = _counted(checking.count(reader))
        else:
            container = decode(read_bytes(path), max_bytes=max_bytes)
            shared = container.shared
            report = size(shared, coder=container.coder, notes=container.notes)
            named = [(tensor.name, tensor.codebook) for tensor in shared.shared]
            uses = _uses(shared.codebooks, named, shared.usage())
    if report.total != n_bytes:
        raise CorruptContainerError(
            f"{os.fspath(path)!r} has {n_bytes} bytes, but its network takes {report.total}; it "
            "was not written by this version of moeash"
        )
    return uses, report


def _counted(counted: Counted) -> tuple[tuple[BookUse, ...], SizeReport]:
    entries, books = counted.entries, counted.books
    usage = [np.zeros(len(book), dtype=np.int64) for book in books]
    for position, counts in counted.counts.items():
        usage[entries[position].codebook] += counts
    of_kind = {
        kind: [entry for entry in entries if entry.kind == kind] for kind in ("shared", "kept")
    }
    totals = Totals(
        sum(entry.size for entry in of_kind["shared"]),
        sum(entry.size for entry in of_kind["kept"]),
        usage,
        sum(float32_bytes(e.dtype, e.size) for some in of_kind.values() for e in some),
        counted.notes,
    )
    named = [(entry.name, entry.codebook) for entry in of_kind["shared"]]
    return _uses(books, named, usage), report_of(counted.layout(), totals)


def _uses(
    books: Sequence[Codebook],
    named: Sequence[tuple[str, int]],
    usage: Sequence[NDArray[np.int64]],
) -> tuple[BookUse, ...]:
    return tuple(
        BookUse(tuple(name for name, own in named if own == position), book.entries, counts)
        for position, (book, counts) in enumerate(zip(books, usage, strict=True))
    )
