"""Files that leave: a name never stands for half a file, nor for one that was not checked."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moeash.errors import ExportError, InputError, MoeashError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""What a Git LFS pointer begins with."""

LEFTOVER_AGE_S = 3600
"""Age from which a temporary file that no process holds was left by one that was killed."""

LEFT_FOLDER_AGE_S = 60.0
"""The same of a folder, which is locked at once."""

_MOST_LINKS = 40

# The target's own name is no part of it, which may be as long as the system allows.
_PATTERN = re.compile(r"\.moeash-[0-9a-f]{16}\.tmp")

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link that leads to itself",
}

_WRITING_FAILED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""What a write reports without naming its file."""


def is_lfs_pointer(head: bytes) -> bool:
    """Tell whether a file that begins so is only Git LFS's pointer to what it should be."""
    return head.startswith(LFS_POINTER)


def lfs_text(what: str) -> str:
    """Return what to say about a Git LFS pointer."""
    return (
        f"{what} is a Git LFS pointer, not the file itself; run 'git lfs pull' in the repository "
        "it came from"
    )


def unreadable(path: Path, error: OSError | ValueError, what: str = "") -> str:
    """Return what to say of a path that cannot be read."""
    reason = getattr(error, "strerror", None) or error
    return f"cannot read {what}{looked_for(path)}: {reason}"


def looked_for(path: Path) -> str:
    """Return what to call a path that leads nowhere: a relative one may not from another folder."""
    if path.is_absolute():
        return repr(str(path))
    try:
        here = repr(str(Path.cwd()))
    except OSError:
        here = "a folder that is gone"
    return f"{str(path)!r} (from {here})"


def head_of(path: Path, error: type[InputError], what: str = "") -> bytes:
    """Return the first bytes of a file that is here, and not just its Git LFS pointer.

    Args:
        path: the file.
        error: the class of what is raised.
        what: it is, for the message.

    Raises:
        InputError: it cannot be read, or is a pointer.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS_POINTER))
    except (OSError, ValueError) as exc:  # ValueError: no system has files of such a name
        raise error(unreadable(path, exc, what)) from exc
    if is_lfs_pointer(head):
        raise error(lfs_text(repr(str(path))))
    return head


def content_of(path: Path, mark: bytes, error: type[MoeashError], needed: str) -> bytes:
    """Return the bytes of a file; of a device without its mark, which may have no end, the first.

    Raises:
        MoeashError: it cannot be read, or is larger than memory; says what is needed.
    """
    try:
        with path.open("rb") as file:
            is_device = stat.S_ISCHR(os.fstat(file.fileno()).st_mode)
            if is_device and not (head := file.peek(len(mark))).startswith(mark):
                return head
            return file.read()
    except (OSError, MemoryError) as exc:
        full = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        why = exc if isinstance(exc, OSError) else full
        raise error(f"{unreadable(path, why)}; {needed}") from exc


def as_path(value: object) -> Path:
    """Return a path of what a person gave for one.

    Raises:
        InputError: it is no path.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputError(f"got {type(value).__name__} where the path of a file was needed")
    if "\0" in (text := os.fspath(value)):
        raise InputError(f"{text!r} names no file: it holds a null character")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as exc:
        raise InputError(f"{text!r} names no file: {exc.reason}") from exc
    return Path(text)


def is_file(path: Path) -> bool:
    """Tell whether a path leads to a regular file.

    Where it cannot be looked at (a name too long, a folder that may not be entered) the answer is
    no, and whoever opens it is told why.
    """
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Tell whether a path leads to a folder; as :func:`is_file`."""
    try:
        return path.is_dir()
    except OSError:
        return False


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file to write and check, which then takes the name ``path``.

    The file lies in the folder of ``path`` and exists, empty. When the block ends, it is flushed to
    the device and renamed. When the block raises, the temporary file is removed and what was at
    ``path`` stays as it was. A symbolic link stays, and what it points to is replaced. Temporary
    files that a killed process left in the folder are removed, an hour later at the earliest.

    Args:
        path: the name the file gets.

    Raises:
        InputError: ``path`` is no path.
        ExportError: ``path`` is something else than a file, or cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "front.json"
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("[]")
        ...     path.exists()
        False
        >>> path.read_text()
        '[]'
    """
    target = _target(path)
    temporary = _temporary_name(target.parent)
    with _translated(path, temporary):
        with _made(temporary):
            yield temporary
            _flush(temporary)
            temporary.replace(target)
        _flush_folder(target.parent)


@contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """Give a temporary file, empty, which is removed unless the block gives it another name.

    Those that killed processes left in the folder are removed, an hour later at the earliest.
    """
    with _made(_temporary_name(folder)) as temporary:
        yield temporary


def _temporary_name(folder: Path) -> Path:
    """Return a name that nobody has, of the kind whose leftovers are removed."""
    return folder / f".moeash-{secrets.token_hex(8)}.tmp"


@contextmanager
def _made(temporary: Path) -> Iterator[Path]:
    _remove_leftovers(temporary.parent)
    try:
        with temporary.open("xb") as held:
            _lock(held.fileno(), fcntl.LOCK_SH)  # so that nobody takes it for a leftover
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and flush it to the device, so that reading it back checks what lies there."""
    path.write_bytes(content)
    _flush(path)


def _target(path: str | os.PathLike[str]) -> Path:
    """Return what a path leads to.

    Raises:
        InputError: it is no path.
        ExportError: it is there and no regular file, or cannot be looked at.
    """
    if _is_open_file(as_path(path)):
        raise ExportError(
            f"cannot write {os.fspath(path)!r}: it is a file that some process has open, of which "
            "one of another content would take the name; choose the name of a file"
        )
    target = Path(os.path.realpath(path))
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    except OSError as exc:
        raise _cannot_write(path, exc) from exc
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise ExportError(
            f"cannot write {os.fspath(path)!r}: it is {kind}; choose the name of a file"
        )
    return target


def _is_open_file(path: Path) -> bool:
    """Tell whether links lead through a process's table of open files, as /dev/stdout does.

    What is read through them is what was opened, whatever has its name by then.
    """
    # What cannot be looked at, or is a ring of links, is told by whoever opens it.
    with contextlib.suppress(OSError):
        for _ in range(_MOST_LINKS):
            if not path.is_symlink():
                break
            folder = Path(os.path.realpath(path.parent))
            if folder.name == "fd" and folder.parts[:2] == ("/", "proc"):
                return True
            path = folder / path.readlink()
    return False


@contextmanager
def _translated(path: str | os.PathLike[str], temporary: Path) -> Iterator[None]:
    """Turn what the system says about the temporary file into an :class:`ExportError`."""
    try:
        yield
    except OSError as exc:
        # A block may also read: what fails there is not what cannot be written.
        if exc.filename is None:
            ours = exc.errno in _WRITING_FAILED
        else:
            ours = os.fsdecode(exc.filename) == os.fspath(temporary)
        if not ours:
            raise
        raise _cannot_write(path, exc) from exc


def _cannot_write(path: str | os.PathLike[str], exc: OSError) -> ExportError:
    return ExportError(
        f"cannot write {os.fspath(path)!r}: {exc.strerror or exc}; choose a name in a folder that "
        "exists, may be written and has room"
    )


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    # The file is complete and named by now: a folder that cannot be flushed is no failure.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    # Tidying: whatever cannot be listed or removed is no reason not to write.
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _PATTERN.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or time.time() - found.st_mtime < LEFTOVER_AGE_S:
        return
    with path.open("rb") as file:
        # Whoever writes holds a lock until the file is named, however long checking takes.
        if _lock(file.fileno(), fcntl.LOCK_EX):
            path.unlink()


def check_target(to: str | os.PathLike[str], *, force: bool) -> None:
    """Refuse the name of a new file before anything is worked for it.

    Raises:
        InputError: it is a file already, and ``force`` is not set; or it is no path.
        ExportError: it is something else than a file, or no file can be written there.
    """
    target = _target(to)
    if is_file(target) and not force:
        raise InputError(
            f"{os.fspath(to)!r} exists; choose another name, or replace it with force (--force)"
        )
    temporary = _temporary_name(target.parent)
    with _translated(to, temporary), _made(temporary):
        pass


class TemporaryFolder:
    """A folder of this process's own, which whoever makes the next one removes if it is killed.

    Attributes:
        path: where it is.
    """

    def __init__(self, prefix: str) -> None:
        """Make it, and remove those of its kind whose processes were killed.

        Args:
            prefix: what its name begins with, and no other kind's.
        """
        _remove_left_folders(Path(tempfile.gettempdir()), prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        # Held as long as this process lives, however it ends.
        self._held = os.open(self.path, os.O_RDONLY)
        _lock(self._held, fcntl.LOCK_SH)
        self._close = weakref.finalize(self, _close_folder, self.path, self._held, os.getpid())

    def close(self) -> None:
        """Remove it; also done when this object is collected, and when the process ends."""
        self._close()


def _close_folder(path: Path, held: int, owner: int) -> None:
    if os.getpid() == owner:  # and not a copy of the process, made by a fork
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def _remove_left_folders(parent: Path, prefix: str) -> None:
    # Tidying: what cannot be listed, opened or removed, being somebody else's, stays.
    with contextlib.suppress(OSError):
        for path in parent.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):
                _remove_left_folder(path)


def _remove_left_folder(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    # Between making its folder and locking it a process looks like one that was killed.
    if time.time() - found.st_mtime < LEFT_FOLDER_AGE_S:
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if _lock(handle, fcntl.LOCK_EX):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(handle)


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:  # held, or a system without such locks: then nobody removes anything
        return False
    return True
