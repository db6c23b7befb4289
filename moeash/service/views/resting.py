"""Pages of studies, kept as long as nothing is stored and nobody who holds a study dies."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from moeash.service.views.documents import StudyPage
from moeash.study.storage.engines.database import Database
from moeash.study.storage.engines.stamping import Stamp

MOST_PAGES = 50


@dataclass(frozen=True)
class _Known:
    """A page, the state of the database that it was read in, and who held its studies then."""

    stamp: Stamp
    holders: Mapping[str, str | None]
    page: StudyPage


class Resting:
    """Pages of one database by what was asked for. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[Hashable, _Known] = {}

    def page(
        self,
        key: Hashable,
        make: Callable[[], tuple[StudyPage, Mapping[str, str | None]]],
    ) -> StudyPage:
        """Return a page: the one of before, or a new one.

        Args:
            key: what was asked for.
            make: reads the page; returns it, and who holds the studies that it depends on.
        """
        stamp = self._database.stamp()  # before anything is read
        known = self._known.get(key)
        if known is not None and known.stamp == stamp:
            present = self._database.holders(tuple(known.holders))
            if known.holders == present:
                return known.page
        page, holders = make()
        if stamp is not None:
            self._known[key] = _Known(stamp, holders, page)
        for other in list(self._known)[:-MOST_PAGES]:
            self._known.pop(other, None)
        return page
