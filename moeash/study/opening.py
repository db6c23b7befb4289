"""Open storage and stored studies. Light: who only reads a study does not load torch."""

import os
from typing import TYPE_CHECKING

from moeash.study.storage.base import Storage
from moeash.study.storage.sql import SqlStorage

if TYPE_CHECKING:
    from moeash.study.study import Study

DEFAULT_STORAGE = "moeash.db"


Place = str | os.PathLike[str]
"""Of a database: a path of an SQLite file, or a URL. A :class:`~pathlib.Path` is never a URL."""


def open_storage(storage: Place | Storage | None = None, *, create: bool = True) -> Storage:
    """Return storage: as given, from ``MOEASH_STORAGE``, or ``./moeash.db``.

    Args:
        storage: SQLite path, database URL, or storage that is open already.
        create: make a database that does not exist; who only reads has nothing to find in it.

    Raises:
        StorageError: it cannot be opened.
        StudyNotFoundError: it does not exist and is not to be created.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> storage = moeash.open_storage(tempfile.mkdtemp() + "/moeash.db")
        >>> storage.studies()
        []
    """
    if storage is None:
        storage = os.environ.get("MOEASH_STORAGE") or DEFAULT_STORAGE
    if isinstance(storage, str | os.PathLike):
        return SqlStorage(storage, create=create)
    return storage


def open_study(name: str, storage: Place | Storage | None = None) -> "Study":
    """Return a stored study.

    Raises:
        StudyNotFoundError: there is none of that name, or no database.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> storage = tempfile.mkdtemp() + "/moeash.db"
        >>> _ = moeash.search(
        ...     torch.nn.Linear(64, 32),
        ...     evaluate=lambda module: 1.0,
        ...     name="linear",
        ...     storage=storage,
        ...     generations=1,
        ...     progress=False,
        ... )
        >>> moeash.open_study("linear", storage).status
        'finished'
    """
    from moeash.study.study import Study  # a list of studies does without

    return Study(open_storage(storage, create=False), name)
