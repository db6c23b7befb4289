"""Read a ``.moeash`` file a run of symbols at a time."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from moeash.codec import codebooks, directory, streams
from moeash.codec.bits import BitReader, Cursor
from moeash.codec.container import NEEDED, check_head, coding_in, wrong_checksum
from moeash.codec.demand import default_limit, demand_of
from moeash.codec.entries import MAX_CODEBOOKS, Entries, Notes
from moeash.codec.layout import CHECKSUM_BYTES, PREFIX_BYTES
from moeash.codec.pools import coding_of
from moeash.codec.sources import Coded
from moeash.codec.static import ans
from moeash.core.codebook import Codebook, index_dtype
from moeash.errors import ContainerError, CorruptContainerError
from moeash.files import as_path, unreadable

BLOCK = 1 << 22
"""Bytes read at a time."""

CHUNK = 1 << 20
"""Symbols of a constant that are in memory at a time."""

MAX_HEAD = 1 << 27
"""Most bytes of directory, codebooks and tables together that are held."""


@dataclass(frozen=True, eq=False)
class Run:
    """Some symbols of one tensor.

    Attributes:
        source: they belong to; its plane says which byte of kept elements they are.
        position: of the tensor in the directory.
        begin: element of the tensor that the first is of.
        symbols: ``(n,)`` unsigned; codebook indices, or bytes.
    """

    source: Coded
    position: int
    begin: int
    symbols: NDArray[np.unsignedinteger[Any]]


class FileSlices:
    """Part of an open file as bytes that are read when they are asked for."""

    def __init__(self, descriptor: int, begin: int, size: int) -> None:
        self._descriptor = descriptor
        self._begin = begin
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        begin, end, _ = part.indices(self._size)
        parts = []
        while begin < end:
            got = os.pread(self._descriptor, end - begin, self._begin + begin)
            if not got:
                raise CorruptContainerError("the file became shorter while it was read")
            parts.append(got)
            begin += len(got)
        return b"".join(parts)


def check_whole(data: FileSlices) -> None:
    """Check that a file begins as one, and that its checksum is that of its bytes.

    Raises:
        CorruptContainerError: it does not, or is not.
        ContainerVersionError: it was written by a newer moeash.
    """
    check_head(data[:100], len(data))
    digest = hashlib.blake2b(digest_size=CHECKSUM_BYTES)
    body = len(data) - CHECKSUM_BYTES
    for begin in range(0, body, BLOCK):
        digest.update(data[begin : min(begin + BLOCK, body)])
    if digest.digest() != data[body:]:
        raise wrong_checksum()


class FileReader:
    """An open file: its checksum, directory, codebooks and tables are read and checked.

    Attributes:
        coder: the entropy coder. Only ``"ans"`` can be read in runs.
        entries: the directory.
        notes: short texts stored along.
        books: the codebooks.
        sources: what the payload holds, in order; empty for other coders.
        size_bytes: of the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int | None) -> None:
        """Open a file.

        Args:
            path: the file.
            max_bytes: most bytes that its network may take, decoded; default as
                :func:`moeash.codec.container.decode`. They need not be in memory, but a file of
                a few bytes can describe a network that fills a disk.

        Raises:
            CorruptContainerError: the bytes break a rule of the format, or ask for more.
            ContainerVersionError: the file was written by a newer moeash.
            ContainerError: the file cannot be read.
        """
        try:
            self._file = as_path(path).open("rb", buffering=0)
            self.size_bytes = os.fstat(self._file.fileno()).st_size
        except OSError as exc:
            raise ContainerError(f"{unreadable(Path(path), exc)}; {NEEDED}") from exc
        try:
            self._open(default_limit(self.size_bytes) if max_bytes is None else max_bytes)
        except BaseException:
            self._file.close()
            raise

    def _open(self, max_bytes: int) -> None:
        data = FileSlices(self._file.fileno(), 0, self.size_bytes)
        check_whole(data)
        self.coder, _, self._salt = coding_in(data[:PREFIX_BYTES])
        self.sources: list[Coded] = []
        cursor = Cursor(data[PREFIX_BYTES : PREFIX_BYTES + 64])
        sections = [cursor.varint() for _ in range(4 if self.coder == "adaptive" else 3)]
        begin = PREFIX_BYTES + min(64, self.size_bytes - PREFIX_BYTES) - cursor.remaining
        left = self.size_bytes - begin - CHECKSUM_BYTES
        if sum(sections) != left:
            raise CorruptContainerError(
                f"the file says {sum(sections)} bytes follow its header, but {left} do"
            )
        if sections[0] + sections[1] > min(MAX_HEAD, max_bytes):
            raise CorruptContainerError(
                f"directory, codebooks and tables take {sections[0] + sections[1]} bytes"
            )
        model = begin + sections[0]
        payload = model + sections[1]
        self.entries: Entries
        self.notes: Notes
        self.entries, self.notes = directory.unpack(data[begin:model], max_bytes)
        names = {entry.name for entry in self.entries}
        if len(names) != len(self.entries):
            raise CorruptContainerError("the file holds no valid network: a name occurs twice")
        bits = BitReader(data[model:payload])
        self.books: tuple[Codebook, ...] = codebooks.read_all(bits, limit=MAX_CODEBOOKS)
        demand_of(self.entries, self.books, adaptive=False).check_written(max_bytes)
        if self.coder != "ans":
            return
        coding = coding_of(self.coder)
        self.sources, _ = streams.read_sources(
            bits, self.entries, self.books, coding, has_choices=False
        )
        bits.finish()
        self._payload = FileSlices(self._file.fileno(), payload, sections[2])
        coded = [(s.table, s.size) for s in self.sources if s.table is not None]
        streams.check_length(coding, coded, sections[2])

    def bytes_at(self, begin: int, size: int) -> bytes:
        """Return some bytes of the file; fewer at its end."""
        return FileSlices(self._file.fileno(), 0, self.size_bytes)[begin : begin + size]

    def runs(self) -> Iterator[Run]:
        """Yield all symbols in the order of the file, in runs of bounded length.

        Raises:
            CorruptContainerError: the payload is no stream of these tables.
        """
        of_coded = [s for s in self.sources if s.table is not None and s.table.symbols.size > 1]
        coded = [(s.table, s.size) for s in of_coded if s.table is not None]
        decoded = ans.runs(self._payload, self._salt, coded, lambda i: self._dtype(of_coded[i]))
        for source in self.sources:
            begin = 0
            while begin < source.size:
                if source.table is None or source.table.symbols.size == 1:
                    size = min(CHUNK, source.size - begin)
                    only = source.constant if source.table is None else source.table.symbols[0]
                    symbols = np.full(size, only, dtype=self._dtype(source))
                else:
                    symbols = next(decoded)
                yield from self._divided(source, begin, symbols)
                begin += symbols.size
        for _ in decoded:  # checks what can be checked at the end alone
            raise AssertionError("every source was asked for all its symbols")

    def _dtype(self, source: Coded) -> np.dtype[Any]:
        """Return the dtype of a source's symbols."""
        if source.plane is not None:
            return np.dtype(np.uint8)
        return index_dtype(len(self.books[self.entries[source.positions[0]].codebook]))

    def _divided(self, source: Coded, begin: int, symbols: NDArray[Any]) -> Iterator[Run]:
        """Divide symbols of a source, from its symbol ``begin``, by the tensors they belong to."""
        first = 0
        for position in source.positions:
            size = self.entries[position].size
            low, high = max(begin, first), min(begin + symbols.size, first + size)
            if low < high:
                yield Run(source, position, low - first, symbols[low - begin : high - begin])
            first += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
