"""Pages of studies, kept as long as nothing is stored and nobody who holds a study dies."""

from collections.abc import Callable, Hashable, Mapping

from moeash.service.views.documents import StudyPage
from moeash.study.storage.engines.database import Database
from moeash.study.storage.engines.stamping import Recent

MOST_PAGES = 50

Made = tuple[StudyPage, Mapping[str, str | None]]
"""A page, and who holds the studies that it depends on."""


class Resting:
    """Pages of one database by what was asked for. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: Recent[Made] = Recent(MOST_PAGES)

    def page(self, key: Hashable, make: Callable[[], Made]) -> StudyPage:
        """Return a page: the one of before, or a new one.

        Args:
            key: what was asked for.
            make: reads the page.
        """
        stamp = self._database.stamp()  # before anything is read
        known = self._known.get(key, stamp)
        if known is not None:
            page, holders = known
            if holders == self._database.holders(tuple(holders)):
                return page
        made = make()
        self._known.keep(key, stamp, made)
        return made[0]
