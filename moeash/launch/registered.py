"""What a launched process records of itself: that it runs, and at its end how it ended.

Whoever started it may be killed at any moment, so what is known of a launch never depends on its
starter. A process that finds its launch taken by another one, or no longer wanted, does not run.
"""

import os
import signal

from moeash.errors import InputError, StorageError, StudyLockedError
from moeash.launch.identity import Identity
from moeash.study.opening import DEFAULT_STORAGE
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.launch import LaunchRecord
from moeash.study.storage.team.launches import STOPPED, Launches

MOEASH_LAUNCH = "MOEASH_LAUNCH"
"""Environment variable: number of the launch that a process is."""

_TRIES = 20


class Registration:
    """A launch that this process has made its own."""

    def __init__(self, launches: Launches, record: LaunchRecord) -> None:
        self._launches = launches
        self._record = record

    def end(self, exit_code: int, message: str | None) -> None:
        """Say how this process ends.

        Raises:
            StorageError: it cannot be stored; whoever looks for this process finds it gone.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway
        self._launches.end(self._record.id, exit_code, message, expected=self._record)


def register() -> Registration | None:
    """Make the launch named in the environment this process's own; None when none is named.

    The name is taken out of the environment, so that what this process starts has none.

    Raises:
        InputError: the name is no number.
        StudyLockedError: another process is this launch, or it is no longer wanted.
        StorageError: the launch is not in the database that ``MOEASH_STORAGE`` names.
    """
    name = os.environ.pop(MOEASH_LAUNCH, None)
    if name is None:
        return None
    if not name.isascii() or not name.isdigit():
        raise InputError(f"{MOEASH_LAUNCH} is {name!r} and should be the number of a launch")
    storage = SqlStorage(os.environ.get("MOEASH_STORAGE") or DEFAULT_STORAGE, create=False)
    launches = Launches(storage.database)
    mine = Identity.mine()
    for _ in range(_TRIES):
        record = launches.get(int(name))
        _check(record, mine)
        if "stop" in (record.place or {}):
            launches.end(record.id, None, STOPPED, expected=record)
            raise StudyLockedError(f"launch {record.id} was {STOPPED}")
        if Identity.read(record.place) == mine:
            return Registration(launches, record)
        # Its starter may write down the same at this very moment; then it is read once more.
        launches.move(record, {**(record.place or {}), "process": mine.as_dict()})
    raise StorageError(f"launch {name} keeps changing in {storage.url}; start it again")


def _check(record: LaunchRecord, mine: Identity) -> None:
    if record.state != "running":
        raise StudyLockedError(
            f"launch {record.id} of study {record.study!r} is {record.state}, so this process, "
            "which was started for it, is not needed"
        )
    other = Identity.read(record.place)
    if other is None or other == mine:
        return
    if other.is_alive or not other.is_here:
        raise StudyLockedError(
            f"launch {record.id} of study {record.study!r} is process {other.pid} on "
            f"{other.host} already"
        )
