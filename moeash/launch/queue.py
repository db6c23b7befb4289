"""What waits for its turn: studies one after another, exports beside them.

Runs and exports wait in queues of their own: an export takes a minute and must not wait for a study
of a week. Each server starts at most so many of either on its machine; any number of servers, on
any number of machines, may share a database.
"""

from collections.abc import Sequence
from dataclasses import replace

from moeash.errors import InputError
from moeash.launch.base import Export, Launch
from moeash.launch.process import Processes, unlaunched
from moeash.study.storage.team.launch import Kind, LaunchRecord
from moeash.study.storage.team.launches import Launches


class Queue:
    """Starts launches when their turn has come.

    Attributes:
        processes: starts and ends them.
        launches: the table of them.
        max_running: studies at a time on this machine.
        max_exports: exports at a time on this machine.
        allow_modules: modules whose functions exports may run where a stored study names them.
    """

    def __init__(
        self,
        processes: Processes,
        *,
        max_running: int = 1,
        max_exports: int = 2,
        allow_modules: Sequence[str] = (),
    ) -> None:
        self.processes = processes
        self.launches: Launches = processes.launches
        self.max_running = max_running
        self.max_exports = max_exports
        self.allow_modules = tuple(allow_modules)

    def enqueue(self, launch: Launch | Export, requested_by: str) -> LaunchRecord:
        """Queue a study's run, or an export; the next :meth:`tick` starts what may start.

        Raises:
            StudyLockedError: the study is queued or runs already.
        """
        kind: Kind = "run" if isinstance(launch, Launch) else "export"
        if isinstance(launch, Export):
            launch = replace(launch, allow_modules=self.allow_modules)
        return self.launches.add(kind, launch.study, launch.request(), requested_by)

    def stop(self, study: str) -> LaunchRecord | None:
        """Ask for the end of a study's run, without waiting for it.

        What waits in the queue has ended at once.

        Returns:
            The launch; None when no launch of it runs.

        Raises:
            InputError: it is run by a process that was not launched.
        """
        record = self.processes.record(study)
        if record is None or record.ended:
            holder = self.launches.holder(study)
            if holder is not None and not self.processes.stop_job(study):
                raise InputError(unlaunched(study, holder))
            return None
        self.launches.ask_stop(record.id)
        self.processes.look_after()
        return self.launches.get(record.id)

    def tick(self) -> None:
        """Look after what runs, and start what may start. To be called about once a second.

        Raises:
            StorageError: the database does not answer; call again later.
        """
        self.processes.look_after()
        limits: dict[Kind, int] = {"run": self.max_running, "export": self.max_exports}
        for kind, most in limits.items():
            while self.processes.start_next(kind, most) is not None:
                pass

    def positions(self) -> dict[int, int]:
        """Return the place in its queue, from 1 on, of each launch that waits."""
        return self.launches.positions()
