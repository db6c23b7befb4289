"""One writer a study: an advisory lock on a file beside the database.

The kernel drops the lock when its process ends, so a kill -9 leaves nothing to clean up.
"""

import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from moeash.errors import StorageError, StudyLockedError

PATIENCE_S = 0.5
"""Whoever asks who holds a study holds it for an instant, which must not look like a writer."""


def this_process() -> str:
    """Return this process in words, for whoever finds a study held by it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def file_lock(database: Path, study: str) -> Iterator[None]:
    """Hold ``study`` of ``database``.

    Raises:
        StudyLockedError: another process, or another thread, holds it; says which when known.
        StorageError: the lock file cannot be written.
    """
    path = _path(database, study)
    with _open(path, "a+") as handle:
        deadline = time.monotonic() + PATIENCE_S
        while not _take(handle, path, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise StudyLockedError(
                    f"study {study!r} is being worked on by {_owner(handle)}; wait for it to end, "
                    "or give this study another name"
                )
            time.sleep(0.01)
        handle.seek(0)
        handle.truncate()
        handle.write(this_process())
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)
            fcntl.flock(handle, fcntl.LOCK_UN)


def file_lock_holder(database: Path, study: str) -> str | None:
    """Return who holds ``study`` of ``database``; None when nobody does.

    Raises:
        StorageError: the lock file cannot be read.
    """
    path = _path(database, study)
    if not path.exists():
        return None
    with _open(path, "r") as handle:
        # A shared lock, so that any number may ask at a time; closing the file gives it back.
        return None if _take(handle, path, fcntl.LOCK_SH) else _owner(handle)


def _path(database: Path, study: str) -> Path:
    digest = hashlib.blake2b(study.encode(), digest_size=4).hexdigest()
    return database.with_name(f"{database.name}-{digest}.lock")


def _open(path: Path, mode: str) -> IO[str]:
    try:
        return path.open(mode)
    except OSError as error:
        verb = "read" if mode == "r" else "write"
        raise StorageError(f"cannot {verb} the lock file {path}: {error.strerror}") from error


def _take(handle: IO[str], path: Path, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(f"cannot lock {path}: {error.strerror}") from error
    return True


def _owner(handle: IO[str]) -> str:
    handle.seek(0)
    return handle.read().strip() or "another process"
