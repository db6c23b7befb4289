"""The arrays of an ``.npz`` file that may be hostile; what they take is known beforehand."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from moeash.errors import DataError
from moeash.files import head_of, is_file

LEAST_LIMIT_BYTES = 1 << 30
"""Bytes that the arrays of any file may take."""

USUAL_RATIO = 16
"""Times its own size that a file may unpack to, if that is more; images rarely reach 10."""

MOST_RATIO = 1032
"""Times its own size that deflate can unpack to."""

MOST_MEMBERS = 1000
"""Arrays in a file: data sets have two for each part."""


def read_npz(path: Path, *, max_bytes: int | None = None) -> dict[str, NDArray[Any]]:
    """Return the arrays of a data set: ``x`` and ``y``, ``x_<part>`` and ``y_<part>``.

    Their headers alone say how much memory they take, and must agree with the archive. Other arrays
    are not read.

    Args:
        path: the file.
        max_bytes: what the arrays may take; default: 1 GiB, or 16 times the file's size if that is
            more.

    Raises:
        DataError: the file is missing, damaged or only a Git LFS pointer, an array holds Python
            objects or no numbers, or they take more than ``max_bytes``.
    """
    head_of(path, DataError)
    if not is_file(path):  # an archive is read from its end, and a device may have none
        raise DataError(f"cannot read {str(path)!r}: it is no regular file")
    try:
        size = path.stat().st_size
        _check_count(path)
        with zipfile.ZipFile(path) as archive:
            members = {_key(info.filename): info for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise DataError(f"{str(path)!r} holds two arrays of one name")
            wanted = {
                key: info for key, info in members.items() if key[:2] in ("x", "y", "x_", "y_")
            }
            if not wanted:
                raise DataError(
                    f"{str(path)!r} holds {sorted(members)}, needed x and y, or x_<part> and "
                    "y_<part>"
                )
            for key, info in wanted.items():
                _check_member(f"{key!r} in {str(path)!r}", archive, info, size)
            total = sum(info.file_size for info in wanted.values())
            limit = max(LEAST_LIMIT_BYTES, USUAL_RATIO * size) if max_bytes is None else max_bytes
            if total > limit:
                raise DataError(
                    f"{str(path)!r} of {size:,} bytes unpacks to {total:,}, at most {limit:,} are "
                    "taken; if you trust the file, raise the option max_bytes"
                )
            return {key: _read(archive, info) for key, info in wanted.items()}
    except DataError:
        raise
    except Exception as exc:
        # A damaged archive surfaces as almost any type: BadZipFile, NotImplementedError, ...
        raise DataError(f"{str(path)!r} is not a readable .npz file: {exc}") from exc


def _key(name: str) -> str:
    return name.removesuffix(".npy")


def _check_count(path: Path) -> None:
    """Refuse a directory of very many members, of which each takes hundreds of bytes to list."""
    mark, tail, count = b"PK\x01\x02", b"", 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            count += (tail + block).count(mark)
            tail = block[1 - len(mark) :]
            if count > MOST_MEMBERS:
                raise zipfile.BadZipFile(f"it lists more than {MOST_MEMBERS:,} arrays")


def _check_member(what: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> None:
    """Refuse a member whose header and place in the archive do not agree, before it is unpacked.

    Raises:
        DataError: they do not, or it holds no numbers.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{what} is packed by method {info.compress_type}; write it with np.savez")
    most = MOST_RATIO * info.compress_size if info.compress_type else info.compress_size
    if info.compress_size > size or info.file_size > most:
        raise DataError(
            f"{what} claims {info.file_size:,} bytes out of {info.compress_size:,}, which cannot "
            "be; the file is damaged"
        )
    with archive.open(info) as file:
        version = npy.read_magic(file)
        read: Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]] = (
            npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        start = file.tell()
    if dtype.hasobject:
        raise DataError(f"{what} holds pickled Python objects, which could run code; save numbers")
    if dtype.kind not in "buif" or dtype.subdtype is not None:
        raise DataError(f"{what} has dtype {dtype}, needed numbers")
    expected = dtype.itemsize
    for length in shape:
        expected *= length
    if any(length < 0 for length in shape) or start + expected != info.file_size:
        raise DataError(
            f"{what} has shape {shape} and dtype {dtype}, but {info.file_size - start:,} bytes; "
            "the file is damaged"
        )


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array
