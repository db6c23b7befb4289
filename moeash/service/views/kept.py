"""What was made of studies, kept while people look at them."""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

from moeash.study.storage.records import StudyRecord

T = TypeVar("T")

MOST = 32
"""Studies of which something is kept."""


class Kept(Generic[T]):
    """A value of each of the studies that were asked for last. Threads may share it."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[int, str], T] = OrderedDict()
        self._alone = threading.Lock()

    def get(self, record: StudyRecord) -> T | None:
        """Return what is kept of a study."""
        with self._alone:
            return self._values.get(_key(record))

    def put(self, record: StudyRecord, value: T) -> None:
        """Keep a value of a study, and let go of that of the study asked for longest ago."""
        with self._alone:
            self._values[_key(record)] = value
            self._values.move_to_end(_key(record))
            while len(self._values) > MOST:
                self._values.popitem(last=False)


def _key(record: StudyRecord) -> tuple[int, str]:
    return record.id, record.created_at  # SQLite gives the id of a deleted study again
