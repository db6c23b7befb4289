"""Write the network of a ``.moeash`` file as a safetensors checkpoint, a run of elements at a time.

Files of the ANS coder are never in memory, neither is the checkpoint. The other coders decode a
file as a whole; theirs are files of small networks.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moeash.codec.container import read
from moeash.codec.entries import Entry
from moeash.codec.streaming.reading import BLOCK, FileReader
from moeash.codec.streaming.spool import spooled
from moeash.codec.streaming.writing import CHUNK, CODER
from moeash.core.codebook import Codebook, KeptTensor, TiedTensor
from moeash.core.progress import Progress, silent
from moeash.errors import ExportError
from moeash.files import replacing
from moeash.networks.streaming.floats import to_patterns
from moeash.networks.streaming.header import StoredTensor, plan_file
from moeash.runtime.threads import ahead


def stream(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Write the decoded tensors of a ``.moeash`` file as safetensors.

    Every tensor has the dtype of the network, tied tensors are written once under each name, and
    the file's notes become the checkpoint's metadata. What was written is read back and compared
    before the file gets its name.

    Args:
        path: the file.
        to: target; an existing file is replaced, and untouched on any failure.
        max_bytes: most bytes that the decoded network may take on the disk; default the larger of
            128 MiB and 1,024 times the file. A file of a few bytes can describe a huge network.
        progress: hears how many symbols were decoded, and how many megabytes were compared.

    Returns:
        The names of the tensors, in the order of the network's state.

    Raises:
        ContainerError: the file is not readable, or asks for more.
        ExportError: the target cannot be written, or safetensors cannot hold the tensors.
    """
    with FileReader(path, max_bytes=max_bytes) as reader, replacing(to) as temporary:
        dtypes = _dtypes(reader)
        head, placed = plan_file(temporary, dtypes, dict(reader.notes))
        size_bytes = len(head) + sum(tensor.size_bytes for tensor in placed)
        with temporary.open("wb+") as file:
            file.write(head)
            target = _Target(file, {tensor.name: tensor for tensor in placed})
            if reader.coder == CODER:
                _write_runs(reader, target, temporary.parent, progress)
            else:
                _write_decoded(path, target, max_bytes)
            for entry in reader.entries:
                if entry.kind == "tied":
                    target.repeat(entry.name, reader.entries[entry.target].name)
            file.flush()
            os.fsync(file.fileno())
            if file.seek(0, os.SEEK_END) != size_bytes:
                raise ExportError(f"the safetensors file written has not {size_bytes} bytes")
            target.check(head, progress)
    return tuple(entry.name for entry in reader.entries)


def _dtypes(reader: FileReader) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return name, dtype and shape of every tensor of a file, those of tied ones too."""
    own: list[Entry] = []
    for entry in reader.entries:
        own.append(own[entry.target] if entry.kind == "tied" else entry)
    return [
        (entry.name, one.dtype, one.shape) for entry, one in zip(reader.entries, own, strict=True)
    ]


class _Target:
    """A checkpoint being written, tensor by tensor from front to back, each from its beginning."""

    def __init__(self, file: IO[bytes], placed: Mapping[str, StoredTensor]) -> None:
        self._file = file
        self._placed = placed
        self._written = dict.fromkeys(placed, 0)
        self._digests = {name: hashlib.blake2b(digest_size=16) for name in placed}

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write the next bytes of a tensor."""
        self._file.seek(self._placed[name].offset + self._written[name])
        self._file.write(content)
        self._written[name] += len(content)
        self._digests[name].update(content)

    def repeat(self, name: str, other: str) -> None:
        """Write a tensor that equals another one, which is complete."""
        for block in self._blocks(other):
            self.write(name, block)

    def check(self, head: bytes, progress: Progress) -> None:
        """Read everything back and compare it with what was to be written.

        Raises:
            ExportError: it differs.
        """
        self._file.seek(0)
        if self._file.read(len(head)) != head:
            raise ExportError("the safetensors file written has another header")
        total, done = sum(tensor.size_bytes for tensor in self._placed.values()), 0
        for name, digest in self._digests.items():
            again = hashlib.blake2b(digest_size=16)
            for block in self._blocks(name):
                again.update(block)
                done += len(block)
                progress("verifying, MB", done >> 20, total >> 20)
            whole = self._written[name] == self._placed[name].size_bytes
            if not whole or again.digest() != digest.digest():
                raise ExportError(f"the safetensors file written holds another {name!r}")

    def _blocks(self, name: str) -> Iterator[bytes]:
        tensor = self._placed[name]
        for begin in range(0, tensor.size_bytes, BLOCK):
            self._file.seek(tensor.offset + begin)
            yield self._file.read(min(BLOCK, tensor.size_bytes - begin))


def _write_runs(reader: FileReader, target: _Target, folder: Path, progress: Progress) -> None:
    total, done = sum(source.size for source in reader.sources), 0
    tables: dict[tuple[int, str], NDArray[Any]] = {}
    with spooled(reader, folder) as kept:
        for run in ahead(reader.runs()):
            entry = reader.entries[run.position]
            if run.source.plane is None:
                key = entry.codebook, entry.dtype
                if key not in tables:
                    tables[key] = as_written(
                        _in_dtype(reader.books[entry.codebook], entry.dtype), entry.dtype
                    )
                target.write(entry.name, np.take(tables[key], run.symbols).data.cast("B"))
            else:
                kept.add(run)
            done += run.symbols.size
            progress("decoding, millions of symbols", done >> 20, total >> 20)
        for position, entry in enumerate(reader.entries):
            if entry.kind == "kept":
                for begin in range(0, entry.size, CHUNK):
                    stored = kept.stored(position, begin, min(begin + CHUNK, entry.size))
                    tensor = KeptTensor(
                        entry.name, stored.shape, entry.dtype, stored, entry.exponent
                    )
                    values = as_written(tensor.decoded(), entry.dtype)
                    target.write(entry.name, values.data.cast("B"))


def _write_decoded(path: str | os.PathLike[str], target: _Target, max_bytes: int | None) -> None:
    shared = read(path, max_bytes=max_bytes).shared
    for tensor in shared.tensors:
        if not isinstance(tensor, TiedTensor):
            values = as_written(shared.values(tensor).reshape(-1), tensor.dtype)
            target.write(tensor.name, values.data.cast("B"))


def _in_dtype(book: Codebook, dtype: str) -> NDArray[Any]:
    return book.entries if dtype == "bfloat16" else book.entries.astype(dtype)


def as_written(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return flat decoded values as safetensors has them: little-endian, bfloat16 in 16 bits."""
    if dtype == "bfloat16":
        values = to_patterns(values)
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
