"""One writer a study: an advisory lock on a file beside the database.

The kernel drops the lock when its process ends, so a kill -9 leaves nothing to clean up. A lock on
a file that was deleted or replaced keeps nobody out, so the holder looks before every write.
"""

import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, Engine

from moeash.errors import StorageError, StudyLockedError
from moeash.study.storage.engines.fence import Fence

PATIENCE_S = 0.5
"""Whoever asks who holds a study holds it for an instant, which must not look like a writer."""


def this_process() -> str:
    """Return this process in words, for whoever finds a study held by it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


class FileLock:
    """A study of an SQLite file, held for writing.

    It is a :class:`moeash.study.storage.engines.fence.Hold`.

    Attributes:
        fence: what every write checks.
    """

    def __init__(self, engine: Engine, database: Path, study: str) -> None:
        """Take the study.

        Raises:
            StudyLockedError: another process, or another thread, holds it; says which when known.
            StorageError: the lock file cannot be written.
        """
        self.fence = Fence(study)
        self._engine = engine
        self._study = study
        self._path = _path(database, study)
        self._handle = self._locked()
        try:
            with engine.connect() as plain:
                connection = plain.execution_options(moeash_writes=True)
                with connection.begin():
                    self.fence.take(connection)
        except BaseException:
            self.release()
            raise

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Yield a connection of its own, after looking whether the lock file is still there."""
        if not self._is_in_place(self._handle):
            # Deleted or replaced: others lock another file by now. Whether one of them did in
            # between is what the fence tells.
            lost, self._handle = self._handle, self._locked()
            lost.close()
        with self._engine.connect() as connection:
            yield connection

    def drop(self) -> None:
        """Do nothing: each write has a connection of its own."""

    def release(self) -> None:
        """Let go of the study. The kernel does so in any case when the file is closed."""
        with suppress(OSError):
            self._handle.truncate(0)
        self._handle.close()

    def _locked(self) -> IO[str]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            handle = _open(self._path, "a+")
            try:
                taken = _take(handle, self._path, fcntl.LOCK_EX)
                if taken and self._is_in_place(handle):
                    _sign(handle)
                    return handle
                if not taken and time.monotonic() > deadline:
                    raise StudyLockedError(
                        f"study {self._study!r} is being worked on by {_owner(handle)}; wait for "
                        "it to end, or give this study another name"
                    )
            except BaseException:
                handle.close()
                raise
            handle.close()
            time.sleep(0.01)

    def _is_in_place(self, handle: IO[str]) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(handle.fileno()))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(
                f"cannot look at the lock file {self._path}: {error.strerror}"
            ) from error


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


def _sign(handle: IO[str]) -> None:
    """Say who holds the lock: a courtesy, which a full disk may refuse."""
    # Not through the handle's buffer: what a full disk refused would be tried again, and fail, when
    # the file is closed.
    with suppress(OSError):
        os.ftruncate(handle.fileno(), 0)
        os.write(handle.fileno(), this_process().encode())


def _owner(handle: IO[str]) -> str:
    handle.seek(0)
    return handle.read().strip() or "another process"
