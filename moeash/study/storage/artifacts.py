"""Artifacts: the ``.moeash`` bytes of solutions that cannot be built again in seconds.

A small artifact lies in its row. A large one lies in a file whose row says where and what its
digest is. The file is written first, whole or not at all, and the row afterwards in the transaction
of its evaluation, so a crash in between leaves a file without a row, never a row without a file.
Such files are removed when the study is held for writing the next time.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from moeash.errors import ExportError, StorageError
from moeash.evaluation.outcome import Outcome
from moeash.files import replacing
from moeash.study.storage.reading import read_rows
from moeash.study.storage.tables import ARTIFACTS, EVALUATIONS, HELD, STUDIES

IN_DATABASE_BYTES = 2**20
"""Artifacts of at most so many bytes lie in the database."""

MOEASH_ARTIFACTS = "MOEASH_ARTIFACTS"
"""The environment variable that names a folder all machines share, beside PostgreSQL."""

_PATH = re.compile(r"[0-9a-f]{32}/[0-9a-f]{32}\.moeash")


class Artifacts:
    """The artifacts of one storage.

    Attributes:
        folder: where large ones lie; None: in the database too. A folder belongs to one database.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def put(self, connection: Connection, study_id: int, outcomes: Sequence[Outcome]) -> set[str]:
        """Store the artifacts that outcomes bring; one that is stored already stays as it is.

        Returns:
            Their fingerprints.

        Raises:
            StorageError: a file cannot be written.
        """
        contents = {
            outcome.fingerprint: outcome.artifact
            for outcome in outcomes
            if outcome.artifact is not None and outcome.fingerprint is not None
        }
        if not contents:
            return set()
        known = set(connection.execute(_of(study_id, ARTIFACTS.c.fingerprint)).scalars())
        for fingerprint, content in contents.items():
            if fingerprint not in known:
                row = {"study_id": study_id, "fingerprint": fingerprint}
                row |= self._row(connection, study_id, content)
                connection.execute(insert(ARTIFACTS).values(row))
        return set(contents)

    def get(self, connection: Connection, study_id: int, fingerprint: str) -> bytes:
        """Return an artifact.

        Raises:
            StorageError: there is none, or it is missing or damaged.
        """
        query = select(ARTIFACTS).where(
            ARTIFACTS.c.study_id == study_id, ARTIFACTS.c.fingerprint == fingerprint
        )
        rows = read_rows(connection, query, _place_of)
        if not rows:
            raise StorageError(
                f"no artifact is stored for the weights {fingerprint}; only solutions that take "
                "long to build have one, build the others from their recipe"
            )
        (content, path, digest) = rows[0]
        where = "in the database" if path is None else str(self._path(path))
        if path is not None:
            content = self._read(path, fingerprint)
        if _digest(content) != digest:
            raise StorageError(
                f"the artifact of the weights {fingerprint}, {where}, is damaged; put it back from "
                "a backup, or run its study under another name to make it again"
            )
        return bytes(content)

    def sizes(self, connection: Connection, study_id: int) -> dict[str, int]:
        """Return the bytes of each stored artifact by fingerprint."""
        query = _of(study_id, ARTIFACTS.c.fingerprint, ARTIFACTS.c.size_bytes)
        return dict(read_rows(connection, query, lambda row: (row.fingerprint, row.size_bytes)))

    def drop_unused(self, connection: Connection, study_id: int) -> None:
        """Delete the rows that neither an evaluation nor a held outcome refers to."""
        unused = delete(ARTIFACTS).where(ARTIFACTS.c.study_id == study_id)
        for table in (EVALUATIONS, HELD):
            used = select(table.c.artifact).where(
                table.c.study_id == study_id, table.c.artifact.is_not(None)
            )
            unused = unused.where(ARTIFACTS.c.fingerprint.not_in(used))
        connection.execute(unused)

    def clean(self, connection: Connection, study: str) -> None:
        """Remove the files of a study that no row refers to. Its writer alone may do so.

        Raises:
            StorageError: one cannot be removed.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        query = select(STUDIES.c.id, STUDIES.c.uid).where(STUDIES.c.name == study)
        found = connection.execute(query).one_or_none()
        if found is None or not (folder := self.folder / found.uid).is_dir():
            return
        paths = set(connection.execute(_of(found.id, ARTIFACTS.c.path)).scalars())
        try:
            for path in folder.iterdir():
                if f"{found.uid}/{path.name}" not in paths:
                    path.unlink()
        except OSError as error:
            raise StorageError(f"cannot clean the folder {folder}: {error.strerror}") from error

    def _row(self, connection: Connection, study_id: int, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        row: dict[str, Any] = {"size_bytes": len(content), "digest": digest}
        if self.folder is None or len(content) <= IN_DATABASE_BYTES:
            return row | {"content": content, "path": None}
        uid = select(STUDIES.c.uid).where(STUDIES.c.id == study_id)
        # Named by its content: what another crash left under this name is the same.
        name = f"{connection.execute(uid).scalar_one()}/{digest}.moeash"
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except (OSError, ExportError) as error:
            raise StorageError(f"the artifact cannot be stored: {error}") from error
        return row | {"content": None, "path": name}

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise StorageError(
                f"the artifact {name} lies in a folder; say in which with {MOEASH_ARTIFACTS}"
            )
        return self.folder / name

    def _read(self, name: str, fingerprint: str) -> bytes:
        path = self._path(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise StorageError(
                f"the artifact of the weights {fingerprint} cannot be read from {path}: "
                f"{error.strerror}; the folder {self.folder} belongs to its database, keep the "
                "two together"
            ) from error


def _place_of(row: Row[Any]) -> tuple[bytes, str | None, str]:
    """Return an artifact's content, where it lies instead, and its digest."""
    if (row.content is None) == (row.path is None):
        raise ValueError("it lies neither in the database nor in a file, or in both")
    if row.path is not None and not _PATH.fullmatch(row.path):
        raise ValueError(
            f"path is {row.path!r:.60} and should be a name in the folder of artifacts"
        )
    return row.content or b"", row.path, row.digest


def _of(study_id: int, *columns: Any) -> Any:
    return select(*columns).where(ARTIFACTS.c.study_id == study_id)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
