"""Folders of pictures, on disk or in a ``.tar``: indexed once, read on demand, never unpacked."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from weakref import WeakValueDictionary

from moeash.data.tars import members
from moeash.errors import DataError
from moeash.files import head_of, is_lfs_pointer, lfs_text

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
)  # as torchvision's ImageFolder
"""What counts as a picture."""

UNREAD = frozenset(
    (
        *(".apng", ".avif", ".dds", ".dib", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico"),
        *(".j2k", ".jfif", ".jp2", ".jpe", ".jxl", ".pcx", ".pfm", ".pnm", ".psd", ".qoi"),
        *(".svg", ".tga"),
    )
)
"""Pictures that are not read: passing them by would measure on others than are there."""

LEFT_BEHIND = frozenset(
    (
        *("__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db"),
        *("desktop.ini", "icon\r", "network trash folder", "temporary items"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
    )
)
"""What systems leave in folders, in lower case, besides names that begin with a dot."""

MOST_PICTURE_BYTES = 1 << 30
"""The largest encoded picture that is read."""

SHOWN = 3
"""Files named in a message."""


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
            DataError: the file has gone or become shorter since it was indexed, is too large for a
                picture, or only its Git LFS pointer is here.
        """
        if picture.size > MOST_PICTURE_BYTES:
            raise DataError(
                f"{picture.path!r} of {str(self.location)!r} has {picture.size:,} bytes; pictures "
                f"have at most {MOST_PICTURE_BYTES:,}"
            )
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
        if is_lfs_pointer(data):
            raise DataError(lfs_text(f"{picture.path!r} of {str(self.location)!r}"))
        return data


def is_hidden(path: str | PurePosixPath) -> bool:
    """Tell whether a path is, or lies in, something that systems and editors leave behind."""
    parts = _pure(path).parts
    return any(part.startswith(".") or part.lower() in LEFT_BEHIND for part in parts)


def is_picture(path: str | PurePosixPath) -> bool:
    """Tell whether a file is taken for a picture, by its name."""
    pure = _pure(path)
    return not is_hidden(pure) and pure.suffix.lower() in SUFFIXES


def _pure(path: str | PurePosixPath) -> PurePosixPath:
    # An archive has tens of thousands of names, and taking one apart costs more than all else.
    return path if isinstance(path, PurePosixPath) else PurePosixPath(path)


def index_directory(location: Path) -> Folder:
    """List the pictures of a directory with one folder per class.

    Hidden files and folders are passed by, see :func:`is_hidden`.

    Raises:
        DataError: there are no class folders, one of them holds no picture or pictures that are
            not read, or a picture lies beside them.
    """
    found: dict[str, tuple[int, int]] = {}
    others: list[str] = []
    try:
        entries = [entry for entry in location.iterdir() if not is_hidden(entry.name)]
        classes = [entry.name for entry in entries if entry.is_dir()]
        for file in [*entries, *(file for name in classes for file in _below(location / name))]:
            path = file.relative_to(location).as_posix()
            if file.is_dir():
                if file.is_symlink() and file.parent != location:  # a class may be a link
                    raise DataError(
                        f"{path!r} in {str(location)!r} is a link to a folder; store the folder"
                    )
            elif not is_picture(path):
                others.append(path)
            elif not file.is_file():
                raise DataError(
                    f"{path!r} in {str(location)!r} is a broken link or special file; store the "
                    "picture itself"
                )
            else:
                found[path] = (file.stat().st_size, 0)
    except OSError as exc:
        raise DataError(f"cannot list {str(location)!r}: {exc}") from exc
    return _arrange(location, classes, found, others)


def _below(folder: Path) -> Iterator[Path]:
    """Yield what a folder holds at any depth, but nothing hidden; links are not followed."""
    for where, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in [*folders, *files]:
            if not is_hidden(name):
                yield Path(where, name)


_indexed: WeakValueDictionary[tuple[str, int, int, int], Folder] = WeakValueDictionary()
"""Archives that somebody in this process reads: whoever searches and whoever measures the holdout
split open the same."""


def index_tar(location: Path) -> Folder:
    """List the pictures of an uncompressed tar of one image folder.

    Folders around the classes (``test/<class>/...``) are taken off when all pictures share them.
    Hidden files and folders are passed by, see :func:`is_hidden`. Nothing is unpacked, so no name
    in the archive can reach the disk; an archive with names that try is refused all the same.

    Raises:
        DataError: the file is not an uncompressed tar, is cut short, holds links, repeated or
            climbing names, pictures outside a class folder, a class without pictures, or pictures
            that are not read.
    """
    head_of(location, DataError)
    found = location.stat()
    key = (os.path.realpath(location), found.st_ino, found.st_size, found.st_mtime_ns)
    folder = _indexed.get(key)
    if folder is None:
        folder = _indexed[key] = _index_tar(location)
    return folder


def _index_tar(location: Path) -> Folder:
    files: dict[str, tuple[int, int]] = {}
    folders: set[PurePosixPath] = set()
    others: list[str] = []
    for member in members(location):
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(
                f"{str(location)!r} holds the name {member.name!r}, which leaves the "
                f"archive; this is not a data set"
            )
        name = str(path)
        if is_hidden(path):
            continue
        if member.isdir():
            folders.add(path)
        elif not is_picture(path):
            others.append(name)
        elif not member.isreg() or member.issparse():
            raise DataError(
                f"{member.name!r} in {str(location)!r} is a link or special file; "
                f"store the pictures themselves"
            )
        elif name in files:
            raise DataError(f"{str(location)!r} holds {member.name!r} twice")
        else:
            files[name] = (member.size, member.offset_data)
    depth = _wrapping(list(files), str(location))
    found = {_without(name, depth): place for name, place in files.items()}
    others = [_without(name, depth) for name in others if name.count("/") >= depth]
    classes = {path.split("/")[0] for path in [*found, *others] if "/" in path}
    classes |= {folder.parts[depth] for folder in folders if len(folder.parts) == depth + 1}
    return _arrange(location, classes, found, others)


def _raise(error: OSError) -> None:
    raise error


def _without(name: str, depth: int) -> str:
    return "/".join(name.split("/")[depth:])


def _wrapping(names: Sequence[str], location: str) -> int:
    """Return how many leading folders to take off: one, if all pictures share it."""
    split = [name.split("/") for name in names]
    if any(len(parts) < 2 for parts in split):
        loose = next(name for name, parts in zip(names, split, strict=True) if len(parts) < 2)
        raise DataError(f"{loose!r} in {location!r} is in no class folder")
    shared = len({parts[0] for parts in split}) == 1
    return 1 if shared and all(len(parts) >= 3 for parts in split) else 0


def _arrange(
    location: Path,
    classes: Iterable[str],
    found: Mapping[str, tuple[int, int]],
    others: Sequence[str],
) -> Folder:
    beside = [path for path in others if "/" in path]
    unread = [path for path in beside if PurePosixPath(path).suffix.lower() in UNREAD]
    if unread:
        raise DataError(
            f"{str(location)!r} holds {_listed(unread)}, which is not read; convert to one of "
            f"{', '.join(sorted(SUFFIXES))}, or remove"
        )
    if not found:
        raise DataError(
            f"{str(location)!r} holds no pictures, needed <class>/<file> with one of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    loose = [path for path in found if "/" not in path]
    if loose:
        raise DataError(f"{loose[0]!r} in {str(location)!r} is in no class folder")
    names = tuple(sorted(classes))
    label = {name: index for index, name in enumerate(names)}
    pictures = tuple(
        Picture(path, label[path.split("/")[0]], *found[path])
        for path in sorted(found, key=lambda path: path.split("/"))
    )
    empty = set(range(len(names))) - {picture.label for picture in pictures}
    if empty:
        name = names[min(empty)]
        there = [path for path in beside if path.startswith(f"{name}/")]
        raise DataError(
            f"class {name!r} of {str(location)!r} holds no pictures"
            + (f" but {_listed(there)}" if there else "")
            + "; remove the folder or fill it"
        )
    if beside:
        warnings.warn(
            f"{str(location)!r} holds {_listed(beside)}, not taken for pictures; pictures end in "
            f"{', '.join(sorted(SUFFIXES))}",
            stacklevel=3,
        )
    return Folder(location, names, pictures)


def _listed(paths: Sequence[str]) -> str:
    some = ", ".join(map(repr, sorted(paths)[:SHOWN]))
    return some + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
