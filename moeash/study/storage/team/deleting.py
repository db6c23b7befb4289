"""A study leaves the database with all it had: what was stored of it, and its launches."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from moeash.errors import StudyLockedError
from moeash.study.storage.engines.database import Database
from moeash.study.storage.engines.postgres import lock_launches
from moeash.study.storage.tables import LAUNCHES, STUDIES


def delete_study(database: Database, name: str) -> Sequence[str]:
    """Delete a study, its runs and its exports, all or nothing; whoever calls holds it for writing.

    A launch that stayed would be listed as a study that was asked for, and its exports would be
    those of the next study of this name.

    Args:
        database: that has it.
        name: of the study, which need not be stored.

    Returns:
        The folders of its launches, on the machines that started them.

    Raises:
        StudyLockedError: a run or an export of it is queued or runs.
    """
    of_it = LAUNCHES.c.study == name

    def work(connection: Connection) -> list[str]:
        if database.path is None:
            lock_launches(connection)
        query = select(LAUNCHES.c.id, LAUNCHES.c.kind, LAUNCHES.c.state, LAUNCHES.c.folder)
        found = connection.execute(query.where(of_it)).fetchall()
        for row in found:
            if row.state != "ended":
                what = "export" if row.kind == "export" else "launch"
                stands = "is queued" if row.state == "queued" else "runs"
                raise StudyLockedError(
                    f"{what} {row.id} of study {name!r} {stands}; wait for it to end, or stop it, "
                    "before you delete the study"
                )
        connection.execute(delete(LAUNCHES).where(of_it))
        connection.execute(delete(STUDIES).where(STUDIES.c.name == name))
        return [row.folder for row in found if row.folder is not None]

    return database.write(name, work)
