"""Which study needs an uploaded file: one that runs or waits, by the paths that its spec names."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from moeash.errors import SpecError, StudyNotFoundError
from moeash.study.spec.identity import PATHS
from moeash.study.spec.reading import plain_of_text
from moeash.study.storage.base import Storage
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing, Wanted

MOST = 1000
"""Studies that run at once and are looked at; a machine runs a handful."""


class Uses:
    """What the studies and exports of one storage read."""

    def __init__(self, storage: Storage, listing: Listing, launches: Launches) -> None:
        self._storage = storage
        self._listing = listing
        self._launches = launches

    def of(self, path: Path) -> str | None:
        """Return a study that runs, waits or is being exported and reads a file; None: none does.

        Args:
            path: of the file, without links.
        """
        for name, spec in self._specs():
            for table, key in PATHS:
                found = spec.get(table)
                given = found.get(key) if isinstance(found, Mapping) else None
                if isinstance(given, str) and _holds(Path(given), path):
                    return name
        return None

    def _specs(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for launch in self._launches.active():
            if launch.kind == "run":
                with suppress(SpecError):
                    yield launch.study, plain_of_text(str(launch.request.get("spec", "")))
                # The paths that the service has checked, each set by a TOML text of its own.
                for setting in launch.request.get("settings", ()):
                    with suppress(tomllib.TOMLDecodeError, TypeError):
                        yield launch.study, tomllib.loads(setting)
            else:
                with suppress(StudyNotFoundError):
                    yield launch.study, self._storage.study(launch.study).facts.spec
        running = self._listing.studies(Wanted(status="running"), limit=MOST)
        for name in running.names:
            with suppress(StudyNotFoundError):
                yield name, self._storage.study(name).facts.spec


def _holds(given: Path, path: Path) -> bool:
    with suppress(OSError, RuntimeError, ValueError):
        given = given.resolve()
    return given == path or given in path.parents
