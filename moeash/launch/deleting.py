"""A study is deleted: what is stored of it, and the files of its launches on this machine."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from moeash.launch.process import LAUNCHES, Processes
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.deleting import delete_study as delete_rows

_OWN_FOLDER = re.compile(r"[0-9]+(-[0-9]+)?")


def delete_study(
    storage: SqlStorage, processes: Processes, name: str, outputs: Iterable[Path] = ()
) -> None:
    """Delete a study with all it had: evaluations, notes, runs, exports, logs and files.

    Args:
        storage: that has it, or has its launches alone.
        processes: whose folder has the files of its launches.
        name: of the study.
        outputs: folders in which studies have folders of their names.

    Raises:
        StudyLockedError: it runs, or a run or an export of it is queued or runs.
    """
    processes.look_after()  # what has ended meanwhile holds nobody up
    with storage.lock(name):
        folders = delete_rows(storage.database, name)
        for folder in map(Path, folders):
            # A database may come from anybody: only folders that were made for launches go.
            if folder.parent == processes.folder / LAUNCHES and _OWN_FOLDER.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        for parent in outputs:
            if (parent / name).parent == parent and name.strip("."):
                shutil.rmtree(parent / name, ignore_errors=True)
