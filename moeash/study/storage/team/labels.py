"""What people say of studies: notes, tags, pinned solutions, and what is out of the way."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from moeash.study.storage.engines.database import Database
from moeash.study.storage.reading import read_rows
from moeash.study.storage.rows import stored_text
from moeash.study.storage.tables import LABELS


@dataclass(frozen=True)
class StudyLabels:
    """What is said of one study.

    Attributes:
        notes: Markdown.
        tags: sorted words.
        pins: numbers of solutions, in the order they were pinned.
        archived: left out of lists unless asked for.
    """

    notes: str = ""
    tags: tuple[str, ...] = ()
    pins: tuple[int, ...] = ()
    archived: bool = False


class Labels:
    """Labels of the studies of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, study_ids: Collection[int]) -> Mapping[int, StudyLabels]:
        """Return the labels of studies; those of which nothing was said are left out."""
        query = select(LABELS).where(LABELS.c.study_id.in_(list(study_ids)))
        return dict(self._database.read(lambda c: read_rows(c, query, _labels_of)))

    def put(self, study_id: int, labels: StudyLabels) -> None:
        """Say something of a study, in the place of what was said."""
        values = {
            "study_id": study_id,
            "notes": stored_text(labels.notes),
            "tags": sorted({stored_text(tag) for tag in labels.tags}),
            "pins": list(labels.pins),
            "archived": labels.archived,
        }
        said_before = delete(LABELS).where(LABELS.c.study_id == study_id)

        def work(connection: Connection) -> None:
            connection.execute(said_before)
            connection.execute(insert(LABELS).values(values))

        self._database.write(None, work)


def _labels_of(row: Row[Any]) -> tuple[int, StudyLabels]:
    return row.study_id, StudyLabels(row.notes, tuple(row.tags), tuple(row.pins), row.archived)
