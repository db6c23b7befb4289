"""Write a ``.moeash`` file of a network that is not in memory.

The bytes are those of :func:`moeash.codec.container.encode`: everything that decides them follows
from counts (:mod:`moeash.codec.layout`), and the coder's stack is written from its bottom while the
indices come from the last to the first (:func:`moeash.codec.static.ans.push`).
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moeash.codec import codebooks, streams
from moeash.codec.bits import BitWriter
from moeash.codec.container import MAGIC, NO_LIMIT, VERSION
from moeash.codec.entries import Entries, numpy_dtype
from moeash.codec.layout import CHECKSUM_BYTES, KeptPlan, Layout, lay_out_counted
from moeash.codec.pools import CODERS
from moeash.codec.sources import Coded
from moeash.codec.static import ans, rates
from moeash.codec.static.tables import Table
from moeash.codec.streaming.reading import FileReader
from moeash.core.codebook import Codebook
from moeash.core.progress import Progress, silent
from moeash.errors import ContainerError, ExportError
from moeash.files import replacing
from moeash.runtime.threads import ahead

CHUNK = 1 << 20
"""Elements in memory at a time."""

CODER = "ans"
"""The only coder whose stream can be made without holding it: Huffman's and the adaptive one's
sizes are not known, or not met, before all of it is there."""


class Contents(Protocol):
    """What a network holds, a run of elements at a time; the same whenever it is asked for."""

    def indices(self, position: int, begin: int, end: int) -> NDArray[np.unsignedinteger[Any]]:
        """Return codebook indices of a shared tensor, by its position in the directory."""

    def stored(self, position: int, begin: int, end: int) -> NDArray[Any]:
        """Return elements of a kept tensor in the dtype they are stored in."""


@dataclass(frozen=True, eq=False)
class Counted:
    """A network as far as the size of its file depends on it.

    Attributes:
        entries: its directory.
        books: its codebooks.
        counts: by position, how often each entry occurs in every shared tensor.
        kept: the plan of its kept tensors.
        notes: short texts to store along.
    """

    entries: Entries
    books: tuple[Codebook, ...]
    counts: Mapping[int, NDArray[np.int64]]
    kept: KeptPlan
    notes: Mapping[str, str]

    def layout(self) -> Layout:
        """Return the layout of its file.

        Raises:
            InputError: a limit of the format is exceeded.
        """
        return lay_out_counted(
            self.entries,
            self.books,
            self.counts,
            lambda: self.kept,
            coder=CODER,
            notes=self.notes,
        )


def write(
    path: str | os.PathLike[str],
    counted: Counted,
    contents: Contents,
    *,
    progress: Progress = silent,
) -> Layout:
    """Write a file, verified: it appears under its name only after it decoded to the same network.

    Args:
        path: target; an existing file is replaced, and untouched on any failure.
        counted: what the sizes follow from.
        contents: the network.
        progress: hears how many symbols were coded and checked.

    Raises:
        InputError: a limit of the format is exceeded.
        ExportError: the folder cannot be written or is full, the contents are not those that were
            counted, or what was read back is not the network.
    """
    layout = counted.layout()
    bits = BitWriter()
    codebooks.write_all(bits, counted.books)
    sources = streams.write_tables(bits, layout)
    model = bits.to_bytes()
    with replacing(path) as temporary:
        _encode(temporary, layout, sources, model, contents, progress)
        _verify(temporary, counted, contents, progress)
    return layout


def _encode(
    path: Path,
    layout: Layout,
    sources: Sequence[Coded],
    model: bytes,
    contents: Contents,
    progress: Progress,
) -> None:
    for salt in range(rates.MAX_SALT + 1):
        with path.open("wb") as file:
            if not write_file(layout, sources, model, contents, salt, file.write, progress):
                continue
            file.flush()
            os.fsync(file.fileno())
            assert file.tell() == layout.total_bytes
            return
    raise ans.does_not_fit(layout.payload_bytes)


def write_file(
    layout: Layout,
    sources: Sequence[Coded],
    model: bytes,
    contents: Contents,
    salt: int,
    write: Callable[[bytes], object],
    progress: Progress = silent,
) -> bool:
    """Write the bytes of a file from front to back, and tell whether the stream fits.

    Args:
        layout: of the file.
        sources: of its payload.
        model: codebooks and tables.
        contents: the network.
        salt: rotation of the coder's slots.
        write: takes the next bytes; what it took is worthless if the stream does not fit.
        progress: hears how many symbols were coded.
    """
    n_coded = sum(s.size for s in sources if s.table is not None and s.table.symbols.size > 1)
    digest = hashlib.blake2b(digest_size=CHECKSUM_BYTES)

    def put(part: bytes) -> None:
        digest.update(part)
        write(part)

    head = VERSION.to_bytes(2, "little") + bytes([CODERS.index(CODER), salt])
    put(MAGIC + head + layout.lengths + layout.directory + model)
    runs = _counting(ahead(_backwards(layout.entries, sources, contents)), sources, progress)
    fits = ans.push(runs, n_coded, layout.payload_bytes, salt, put)
    if fits:
        write(digest.digest())
    return fits


def _backwards(
    entries: Entries, sources: Sequence[Coded], contents: Contents
) -> Iterator[tuple[NDArray[np.int32], Table]]:
    """Yield the ranks of all sources in runs, from the last to the first."""
    for source in reversed(sources):
        if source.table is None or source.table.symbols.size == 1:
            continue
        ranks = streams.ranks_of(source.table)
        for position in reversed(source.positions):
            for end in range(entries[position].size, 0, -CHUNK):
                begin = max(0, end - CHUNK)
                run = np.take(ranks, symbols_of(entries, source, contents, position, begin, end))
                if run.min() < 0:
                    raise changed(entries[position].name)
                yield run, source.table


def _counting(
    runs: Iterator[tuple[NDArray[np.int32], Table]], sources: Sequence[Coded], progress: Progress
) -> Iterator[tuple[NDArray[np.int32], Table]]:
    total = sum(source.size for source in sources if source.table is not None)
    done = 0
    for run, table in runs:
        yield run, table
        done += run.size
        progress("coding, millions of symbols", done >> 20, total >> 20)


def symbols_of(
    entries: Entries, source: Coded, contents: Contents, position: int, begin: int, end: int
) -> NDArray[np.unsignedinteger[Any]]:
    """Return some symbols of a source: indices, or one byte of every kept element."""
    if source.plane is None:
        return contents.indices(position, begin, end)
    dtype = numpy_dtype(entries[position].stored)
    values = np.ascontiguousarray(contents.stored(position, begin, end), dtype=dtype)
    return values.view(np.uint8).reshape(-1, dtype.itemsize)[:, source.plane]


def changed(name: str) -> ExportError:
    """Return the error of contents that are not what was counted."""
    return ExportError(
        f"{name!r} is not what it was when it was counted; does another process write the "
        "checkpoint? compress it again when that is done"
    )


def _verify(path: Path, counted: Counted, contents: Contents, progress: Progress) -> None:
    """Read a file just written and compare it with what it should hold."""
    try:
        with FileReader(path, max_bytes=NO_LIMIT) as reader:
            same = reader.entries == counted.entries and dict(reader.notes) == dict(counted.notes)
            books = zip(reader.books, counted.books, strict=True)
            if not same or any(one.entries.tobytes() != b.entries.tobytes() for one, b in books):
                raise ExportError("the file written does not decode to the same network")
            total = sum(source.size for source in reader.sources)
            done = 0
            for run in ahead(reader.runs()):
                end = run.begin + run.symbols.size
                wanted = symbols_of(
                    counted.entries, run.source, contents, run.position, run.begin, end
                )
                if not np.array_equal(run.symbols, wanted):
                    raise ExportError(
                        "the file written does not decode to the same network: "
                        f"{counted.entries[run.position].name!r} differs"
                    )
                done += run.symbols.size
                progress("verifying, millions of symbols", done >> 20, total >> 20)
    except ContainerError as exc:
        raise ExportError(f"the file written does not decode: {exc}") from exc
