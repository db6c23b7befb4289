"""The members of a tar that may be hostile, in memory that follows the file's size."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from moeash.errors import DataError

MOST_HEADER_BYTES = 1 << 20
"""Longest name or extended header that is read; a name takes at most 4,096 bytes on Linux."""


class _Headers:
    """What :mod:`tarfile` may read of a file: headers, which are short."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        # tarfile reads long names and extended headers whole, at the length that they claim.
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise tarfile.ReadError(
                f"a header claims {size:,} bytes, at most {MOST_HEADER_BYTES:,} are read"
            )
        return self._file.read(size)

    def seek(self, position: int) -> int:
        """Go to a position."""
        return self._file.seek(position)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


def members(location: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an uncompressed tar, none of them unpacked.

    Every member lies wholly in the file, behind the one before it, and the archive ends as archives
    do: one that is cut short or damaged in the middle is refused at that place.

    Raises:
        DataError: the file is not an uncompressed tar, is cut short or damaged, or a member claims
            a negative size or one beyond the end of the file.
    """
    try:
        with location.open("rb") as file:
            yield from _members(file)
    except DataError:
        raise
    except Exception as exc:
        # Damaged headers surface as almost any type: HeaderError, ValueError, RecursionError, ...
        raise DataError(f"{str(location)!r} is not a readable uncompressed .tar: {exc}") from exc


def _members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:  # type: ignore[call-overload]
        end = 0
        # archive.offset is where the next header lies; that it is in the file, tarfile checks.
        while (member := archive.next()) is not None:
            archive.members = []  # each would be kept
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name!r} claims {member.size:,} bytes")
            if archive.offset <= end:
                raise tarfile.ReadError(f"{member.name!r} leads back to an earlier member")
            end = archive.offset
            yield member
        # tarfile ends at whatever is no header, so what follows would be lost without a word.
        file.seek(archive.offset)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or any(block):
            raise tarfile.ReadError(
                f"unexpected end of data at byte {archive.offset:,}: no header and no end mark is "
                "there, so the archive was cut short or damaged; copy it again"
            )
