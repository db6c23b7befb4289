"""Count, fingerprint and encode again what a file holds, without its network in memory."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moeash.codec import codebooks, streams
from moeash.codec.bits import BitWriter
from moeash.codec.layout import plan_kept
from moeash.codec.sources import KeptGroup
from moeash.codec.static import rates
from moeash.codec.streaming.reading import FileReader
from moeash.codec.streaming.spool import Spool
from moeash.codec.streaming.writing import CHUNK, CODER, Counted, write_file
from moeash.runtime.threads import ahead

KINDS = {"shared": "SharedTensor", "kept": "KeptTensor", "tied": "TiedTensor"}


def count(reader: FileReader, spool: Spool | None = None) -> Counted:
    """Read all runs of a file, and return what the sizes of its network follow from.

    Args:
        reader: of a file of the ANS coder.
        spool: takes the runs as well.

    Raises:
        CorruptContainerError: the payload is no stream of the tables.
    """
    entries, books = reader.entries, reader.books
    counts = {
        position: np.zeros(len(books[entry.codebook]), dtype=np.int64)
        for position, entry in enumerate(entries)
        if entry.kind == "shared"
    }
    planes: dict[tuple[tuple[int, ...], int], NDArray[np.int64]] = {}
    for run in ahead(reader.runs()):
        if run.source.plane is None:
            found = counts[run.position]
        else:
            key = run.source.positions, run.source.plane
            found = planes.setdefault(key, np.zeros(256, dtype=np.int64))
        found += np.bincount(run.symbols, minlength=found.size)
        if spool is not None:
            spool.add(run)

    def of_group(group: KeptGroup) -> list[NDArray[np.int64]]:
        return [planes[group.positions, plane] for plane in range(group.n_planes)]

    kept = plan_kept(CODER, entries, of_group)
    return Counted(entries, books, counts, kept, dict(reader.notes))


def is_canonical(reader: FileReader, counted: Counted, spool: Spool) -> bool:
    """Tell whether the network of a file encodes to the same bytes again.

    Args:
        reader: of the file.
        counted: from :func:`count`.
        spool: holds all its runs.
    """
    layout = counted.layout()
    if layout.total_bytes != reader.size_bytes:
        return False
    bits = BitWriter()
    codebooks.write_all(bits, counted.books)
    sources = streams.write_tables(bits, layout)
    model = bits.to_bytes()
    for salt in range(rates.MAX_SALT + 1):
        at, same = 0, True

        def compare(part: bytes) -> None:
            nonlocal at, same
            same = same and reader.bytes_at(at, len(part)) == part
            at += len(part)

        if write_file(layout, sources, model, spool, salt, compare):
            return same and at == reader.size_bytes
    return False


def fingerprint(reader: FileReader, spool: Spool) -> str:
    """Return :meth:`moeash.core.codebook.SharedWeights.fingerprint` of a file's network.

    Args:
        reader: of the file.
        spool: holds all its runs.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _canonical(reader, spool):
        digest.update(part)
    return digest.hexdigest()


def _canonical(reader: FileReader, spool: Spool) -> Iterator[bytes]:
    for book in reader.books:
        yield b"codebook"
        yield book.entries.astype("<f4").tobytes()
    for position, entry in enumerate(reader.entries):
        yield f"{KINDS[entry.kind]} {entry.name!r}".encode()
        parts = ((i, min(i + CHUNK, entry.size)) for i in range(0, entry.size, CHUNK))
        if entry.kind == "tied":
            yield reader.entries[entry.target].name.encode()
        elif entry.kind == "kept":
            little = np.dtype(entry.stored).newbyteorder("<")
            yield f"{entry.shape} {entry.dtype} {little.str}".encode()
            for begin, end in parts:
                yield spool.stored(position, begin, end).astype(little, copy=False).tobytes()
            if entry.exponent:
                yield f"times 2**{entry.exponent}".encode()
        else:
            yield f"{entry.shape} {entry.dtype} {entry.codebook}".encode()
            for begin, end in parts:
                indices = spool.indices(position, begin, end)
                yield indices.astype(indices.dtype.newbyteorder("<"), copy=False).tobytes()
