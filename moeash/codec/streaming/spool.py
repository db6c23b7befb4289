"""Symbols of a file kept beside, until they can be had in another order than they come in."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moeash.codec.entries import numpy_dtype
from moeash.codec.streaming.reading import FileReader, Run
from moeash.core.codebook import index_dtype
from moeash.errors import ContainerError, CorruptContainerError

SPOOLED_BYTES = 1 << 25
"""Bytes that are held in memory; more go to a temporary file."""


class Spool:
    """Runs of a file by tensor; the :class:`moeash.codec.streaming.writing.Contents` of it.

    Args:
        reader: whose runs they are.
        file: where they are held.
    """

    def __init__(self, reader: FileReader, file: IO[bytes]) -> None:
        self._entries = reader.entries
        self._file = file
        self._begins: dict[int, int] = {}
        self._dtypes: dict[int, np.dtype[Any]] = {}
        end = 0
        for position, entry in enumerate(reader.entries):
            if entry.kind != "tied":
                shared = entry.kind == "shared"
                width = len(reader.books[entry.codebook]) if shared else 0
                dtype = index_dtype(width) if shared else numpy_dtype(entry.stored)
                self._begins[position], self._dtypes[position] = end, dtype
                end += entry.size * dtype.itemsize

    def add(self, run: Run) -> None:
        """Take a run.

        Raises:
            ContainerError: there is no room for it.
        """
        width = self._dtypes[run.position].itemsize
        at = run.begin * width
        if run.source.plane is not None:
            at = run.source.plane * self._entries[run.position].size + run.begin
        self._file.seek(self._begins[run.position] + at)
        try:
            self._file.write(run.symbols.tobytes())
        except OSError as exc:
            raise ContainerError(
                f"a temporary file of what is decoded cannot be written: {exc.strerror or exc}; "
                "let TMPDIR name a folder with more room"
            ) from exc

    def indices(self, position: int, begin: int, end: int) -> NDArray[np.unsignedinteger[Any]]:
        """Return indices of a shared tensor, whose runs are all there."""
        dtype = self._dtypes[position]
        self._file.seek(self._begins[position] + begin * dtype.itemsize)
        return np.frombuffer(self._file.read((end - begin) * dtype.itemsize), dtype=dtype)

    def stored(self, position: int, begin: int, end: int) -> NDArray[Any]:
        """Return elements of a kept tensor in the dtype they are stored in.

        Raises:
            CorruptContainerError: no array of that dtype holds them.
        """
        entry, dtype = self._entries[position], self._dtypes[position]
        rows = np.empty((end - begin, dtype.itemsize), dtype=np.uint8)
        for plane in range(dtype.itemsize):
            self._file.seek(self._begins[position] + plane * entry.size + begin)
            rows[:, plane] = np.frombuffer(self._file.read(end - begin), dtype=np.uint8)
        if entry.stored == "bool" and rows.max(initial=0) > 1:
            raise CorruptContainerError("a kept bool is neither 0 nor 1; the file is damaged")
        return rows.reshape(-1).view(dtype).astype(np.dtype(entry.stored), copy=False)


@contextmanager
def spooled(reader: FileReader, folder: Path | None = None) -> Iterator[Spool]:
    """Hold a spool of a file's runs.

    Args:
        reader: of the file.
        folder: of the temporary file; default: where the system has such files.
    """
    where = None if folder is None else str(folder)
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES, dir=where) as file:
        yield Spool(reader, file)
