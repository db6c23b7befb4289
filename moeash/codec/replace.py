"""Writing a file so that its name never stands for half of it."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from moeash.errors import ExportError


def replace_file(
    path: Path, content: bytes, *, check: Callable[[Path], None] | None = None
) -> None:
    """Write a temporary file beside ``path``, flush it to the device, check it, rename it.

    On any failure an existing file is untouched and no other file is left.

    Args:
        path: target.
        content: all of it.
        check: called with the temporary file; whatever it raises stops the replacement.

    Raises:
        ExportError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if check is not None:
                check(temporary)
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise ExportError(f"cannot write {str(path)!r}: {exc.strerror or exc}") from exc


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    # The file is complete and named by now: a folder that cannot be flushed is no failure.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
