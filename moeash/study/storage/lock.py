"""One writer a study: an advisory lock on a file beside the database.

The kernel drops the lock when its process ends, so a kill -9 leaves nothing to clean up.
"""

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moeash.errors import StorageError, StudyLockedError


@contextmanager
def file_lock(database: Path, study: str) -> Iterator[None]:
    """Hold ``study`` of ``database``.

    Raises:
        StudyLockedError: another process, or another thread, holds it; says which when known.
        StorageError: the lock file cannot be written.
    """
    digest = hashlib.blake2b(study.encode(), digest_size=4).hexdigest()
    path = database.with_name(f"{database.name}-{digest}.lock")
    try:
        handle = path.open("a+")
    except OSError as error:
        raise StorageError(f"cannot write the lock file {path}: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "another process"
            raise StudyLockedError(
                f"study {study!r} is being worked on by {owner}; wait for it to end, "
                "or give this study another name"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot lock {path}: {error.strerror}") from error
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)
            fcntl.flock(handle, fcntl.LOCK_UN)
