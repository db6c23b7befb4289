"""Solutions as documents, kept while people look at them: complete evaluations never change.

A front of some hundred solutions takes a tenth of a second to read and to put into words, and a
page asks again after every generation, of which it knows all but a few.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moeash.service.views.documents import SolutionDocument, solution_document
from moeash.study.facts import StudyFacts
from moeash.study.solution import Solution
from moeash.study.storage.sql import SqlStorage
from moeash.study.study import Study

KEPT = 32
"""Studies whose solutions are kept."""

MOST = 5000
"""Solutions kept of a study; at 4 kB each, 20 MB."""


@dataclass(frozen=True)
class Shown:
    """A solution, and its document as one on the front."""

    solution: Solution
    document: SolutionDocument


@dataclass(frozen=True)
class _Known:
    facts: StudyFacts
    shown: Mapping[int, Shown]


class Solutions:
    """The solutions of the studies that were asked for last. Threads may share it."""

    def __init__(self, storage: SqlStorage) -> None:
        self._storage = storage
        self._kept: OrderedDict[tuple[int, str], _Known] = OrderedDict()
        self._alone = threading.Lock()

    def of_front(self, study: Study, numbers: Sequence[int]) -> list[Shown]:
        """Return solutions of the front by their numbers, smallest file first."""
        # SQLite gives the id of a deleted study again.
        key = (study.record.id, study.record.created_at)
        with self._alone:
            known = self._kept.get(key)
        shown = {} if known is None or known.facts != study.facts else dict(known.shown)
        missing = [number for number in numbers if number not in shown]
        if missing:
            for record in self._storage.evaluations(study.record.id, numbers=missing):
                solution = Solution(study.facts, record)
                document = solution_document(solution, (solution.id,))
                shown[solution.id] = Shown(solution, document)
        found = [shown[number] for number in numbers if number in shown]
        if len(shown) > MOST:
            shown = {one.solution.id: one for one in found}
        with self._alone:
            self._kept[key] = _Known(study.facts, shown)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return sorted(found, key=lambda one: (one.solution.size_bytes, -one.solution.metric))
