"""Empty databases, copied: to make one takes Alembic longer than most tests take for the rest."""

import functools
import tempfile
from pathlib import Path

from moeash.study.storage.sql import SqlStorage


@functools.cache
def _empty():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "empty.db")
        SqlStorage(path).close()
        return path.read_bytes()


def stored_at(path):
    """Open the database of this path, which is an empty one at first, as SqlStorage makes it."""
    if not Path(path).exists():
        Path(path).write_bytes(_empty())
    return SqlStorage(path)
