"""Solutions as documents, kept while people look at them: complete evaluations never change.

A front of some hundred solutions takes a tenth of a second to read and to put into words, and a
page asks again after every generation, of which it knows all but a few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moeash.service.views.documents import SolutionDocument, solution_document
from moeash.service.views.kept import Kept
from moeash.study.facts import StudyFacts
from moeash.study.solution import Solution
from moeash.study.storage.sql import SqlStorage
from moeash.study.study import Study

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
        self._kept: Kept[_Known] = Kept()

    def of_front(self, study: Study, numbers: Sequence[int]) -> list[Shown]:
        """Return solutions of the front by their numbers, smallest file first."""
        known = self._kept.get(study.record)
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
        self._kept.put(study.record, _Known(study.facts, shown))
        return sorted(found, key=lambda one: (one.solution.size_bytes, -one.solution.metric))
