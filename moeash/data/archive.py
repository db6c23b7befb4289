"""Folders of pictures, on disk or in a ``.tar``: indexed once, read on demand, never unpacked."""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moeash.errors import DataError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
)  # as torchvision's ImageFolder
"""What counts as a picture; other files are passed by."""


@dataclass(frozen=True)
class Picture:
    """Where one encoded picture is.

    Attributes:
        path: ``<class>/.../<file>``.
        label: index of its class.
        size: bytes.
        offset: its first byte in the archive; 0 for a file.
    """

    path: str
    label: int
    size: int
    offset: int


@dataclass(frozen=True)
class Folder:
    """One part: classes in alphabetical order, pictures by class and path.

    Attributes:
        location: the directory or archive.
        classes: their names; a picture's label indexes them.
        pictures: all pictures.
    """

    location: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]

    def read(self, picture: Picture) -> bytes:
        """Return the encoded bytes of a picture; safe to call from several threads.

        Raises:
            DataError: the file has gone or become shorter since it was indexed.
        """
        inside = self.location.is_dir()
        try:
            with (self.location / picture.path if inside else self.location).open("rb") as file:
                file.seek(picture.offset)
                data = file.read(picture.size)
        except OSError as exc:
            raise DataError(
                f"cannot read {picture.path!r} of {str(self.location)!r}: {exc}"
            ) from exc
        if len(data) != picture.size:
            raise DataError(
                f"{picture.path!r} of {str(self.location)!r} has {len(data)} bytes, "
                f"had {picture.size} when it was indexed"
            )
        return data


def index_directory(location: Path) -> Folder:
    """List the pictures of a directory with one folder per class.

    Raises:
        DataError: there are no class folders, or one of them holds no picture.
    """
    try:
        classes = sorted(entry.name for entry in os.scandir(location) if entry.is_dir())
        found = [
            (file.relative_to(location).as_posix(), file.stat().st_size, 0)
            for name in classes
            for file in (location / name).rglob("*")
            if file.suffix.lower() in SUFFIXES and file.is_file()
        ]
    except OSError as exc:
        raise DataError(f"cannot list {str(location)!r}: {exc}") from exc
    return _arrange(location, classes, found)


def index_tar(location: Path) -> Folder:
    """List the pictures of an uncompressed tar of one image folder.

    Folders around the classes (``test/<class>/...``) are taken off when all pictures share them.
    Nothing is unpacked, so no name in the archive can reach the disk; an archive with names that
    try is refused all the same.

    Raises:
        DataError: the file is not an uncompressed tar, is cut short, holds links, repeated or
            climbing names, pictures outside a class folder, or a class without pictures.
    """
    files: dict[str, tuple[int, int]] = {}
    folders: set[PurePosixPath] = set()
    try:
        with tarfile.open(location, mode="r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(
                        f"{str(location)!r} holds the name {member.name!r}, which leaves the "
                        f"archive; this is not a data set"
                    )
                if member.isdir():
                    folders.add(path)
                if path.suffix.lower() not in SUFFIXES or member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"{member.name!r} in {str(location)!r} is a link or special file; "
                        f"store the pictures themselves"
                    )
                if str(path) in files:
                    raise DataError(f"{str(location)!r} holds {member.name!r} twice")
                files[str(path)] = (member.size, member.offset_data)
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise DataError(f"{str(location)!r} is not a readable uncompressed .tar: {exc}") from exc
    depth = _wrapping(list(files), str(location))
    found = [
        (PurePosixPath(*PurePosixPath(name).parts[depth:]).as_posix(), length, offset)
        for name, (length, offset) in files.items()
    ]
    classes = {path.split("/")[0] for path, _, _ in found}
    classes |= {folder.parts[depth] for folder in folders if len(folder.parts) == depth + 1}
    return _arrange(location, sorted(classes), found)


def _wrapping(names: Sequence[str], location: str) -> int:
    """Return how many leading folders to take off: one, if all pictures share it."""
    split = [PurePosixPath(name).parts for name in names]
    if any(len(parts) < 2 for parts in split):
        loose = next(name for name, parts in zip(names, split, strict=True) if len(parts) < 2)
        raise DataError(f"{loose!r} in {location!r} is in no class folder")
    shared = len({parts[0] for parts in split}) == 1
    return 1 if shared and all(len(parts) >= 3 for parts in split) else 0


def _arrange(
    location: Path, classes: Sequence[str], found: Sequence[tuple[str, int, int]]
) -> Folder:
    if not found:
        raise DataError(
            f"{str(location)!r} holds no pictures, needed <class>/<file> with one of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    label = {name: index for index, name in enumerate(classes)}
    ordered = sorted(found, key=lambda entry: entry[0].split("/"))
    pictures = tuple(
        Picture(path, label[path.split("/")[0]], size, offset) for path, size, offset in ordered
    )
    empty = set(range(len(classes))) - {picture.label for picture in pictures}
    if empty:
        raise DataError(
            f"class {classes[min(empty)]!r} of {str(location)!r} holds no pictures; "
            f"remove the folder or fill it"
        )
    return Folder(location, tuple(classes), pictures)
