"""Open storage and stored studies. Light: who only reads a study does not load torch."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeash.files import as_path
from moeash.options.arguments import checked
from moeash.study.storage.access.tokens import Tokens
from moeash.study.storage.base import Storage
from moeash.study.storage.engines.patience import PATIENCE_S
from moeash.study.storage.sql import SqlStorage

if TYPE_CHECKING:
    from moeash.study.spec.spec import StudySpec
    from moeash.study.study import Study

DEFAULT_STORAGE = "moeash.db"


Place = str | os.PathLike[str]
"""Place of a database: path of an SQLite file, or URL. A :class:`~pathlib.Path` is never a URL."""


@checked("create", "patience_s")
def open_storage(
    storage: Place | Storage | None = None, *, create: bool = True, patience_s: float = PATIENCE_S
) -> Storage:
    """Return storage: as given, from ``MOEASH_STORAGE``, or ``./moeash.db``.

    Args:
        storage: SQLite path, database URL, or storage that is open already.
        create: make a database that does not exist; who only reads has nothing to find in it.
        patience_s: how long a server that was there is waited for when it is gone; half a minute
            at most where it was not there yet.

    Raises:
        InputError: it is neither storage nor the place of some.
        StorageError: it cannot be opened.
        StudyNotFoundError: it does not exist and is not to be created.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> storage = moeash.open_storage(tempfile.mkdtemp() + "/moeash.db")
        >>> storage.studies()
        []
    """
    if storage is None or isinstance(storage, str | os.PathLike):
        return SqlStorage(_place(storage), create=create, patience_s=patience_s)
    if not hasattr(storage, "studies"):
        as_path(storage)  # says what came
    return storage


def open_tokens(storage: Place | None = None, *, create: bool = True) -> Tokens:
    """Return the tokens of the service; arguments and errors as for :func:`open_storage`."""
    return Tokens(SqlStorage(_place(storage), create=create).database)


def _place(storage: Place | None) -> Place:
    if storage is not None:
        as_path(storage)
        return storage
    return os.environ.get("MOEASH_STORAGE") or DEFAULT_STORAGE


@checked("name", "settings", "allow_modules")
def open_study(
    name: str,
    storage: Place | Storage | None = None,
    *,
    spec: "str | Path | Mapping[str, Any] | StudySpec | None" = None,
    settings: Sequence[str] = (),
    allow_modules: Collection[str] = (),
) -> "Study":
    """Return a stored study.

    A database may name any function as its network, data or metric. Looking at a study runs none;
    exporting a solution does, once it is allowed: by ``allow_modules``, or by ``spec``.

    Args:
        name: of the study.
        storage: as for :func:`open_storage`.
        spec: the study's own spec given again, as for :func:`moeash.run`: the code it names may
            run, and its paths hold.
        settings: where files are now, ``data.root=/data`` or ``network.checkpoint=/w.pt``, and
            where its networks run, ``evaluation.device=cpu``.
        allow_modules: modules, or packages of them, whose functions may run.

    Raises:
        StudyNotFoundError: there is none of that name, or no database.
        StudyExistsError: ``spec`` is that of another study.
        InputError: a setting is about anything else.

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

    study = Study(open_storage(storage, create=False), name)
    if spec is not None or settings or allow_modules:
        from moeash.study.consent import give_spec, move
        from moeash.study.spec.reading import any_spec

        if spec is not None:
            give_spec(study, any_spec(spec))
        move(study, settings)
        study.allowed |= set(allow_modules)
    return study
