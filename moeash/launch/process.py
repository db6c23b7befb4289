"""Studies and exports as processes of this machine, in sessions of their own.

A process is started as a person would start it, with its output in a file of its launch's folder,
and then belongs to nobody: it outlives whoever started it, and whoever has the database finds it by
its launch. At any moment its starter, itself, or both may be killed. What is stored by then says
what to do next: a launch that was claimed by a starter that is gone goes back into the queue, one
whose process is gone without a word has ended, and one whose process runs is left alone.
"""

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from moeash.errors import BackendError, InputError, MoeashError, StudyLockedError
from moeash.launch.base import Launch, State
from moeash.launch.commands import LOG, OUT, SPEC, command_of, stop_command
from moeash.launch.identity import Identity, host
from moeash.launch.logs import follow as follow_log
from moeash.launch.logs import last_lines, read_piece
from moeash.launch.registered import MOEASH_LAUNCH
from moeash.study.storage.engines.database import Database
from moeash.study.storage.team.launch import INTERRUPTED, NOT_STARTED, Kind, LaunchRecord
from moeash.study.storage.team.launches import Launches

MOEASH_FOLDER = "MOEASH_FOLDER"
"""Environment variable: where the folders of launches are."""

LAUNCHES = "launches"
"""In that folder: a folder for each launch."""

STOP_WAIT_S = 30.0
POLL_S = 0.1
ANSWER_S = 60.0
"""How long another machine is given to end what runs there."""

Command = Callable[[LaunchRecord, Path], Sequence[str]]


def folder_of(database: Database, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return where files are kept: as given, as ``MOEASH_FOLDER`` says, or beside the database."""
    chosen = folder or os.environ.get(MOEASH_FOLDER)
    if chosen:
        return Path(chosen).absolute()
    if database.path is not None:
        return database.path.with_name(f"{database.path.name}.files")
    return Path("moeash-files").absolute()


class Processes:
    """Launches as processes of this machine; a :class:`moeash.launch.base.Launcher`.

    Attributes:
        launches: the table of them.
        folder: their folders are in ``launches/`` of it.
        address: of the Ray cluster on which studies run; None: on this machine.
        children: what this process started and has not seen end yet.
    """

    def __init__(
        self,
        database: Database,
        folder: str | os.PathLike[str] | None = None,
        *,
        address: str | None = None,
        command: Command | None = None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            database: of the launches, and of the studies.
            folder: for their files; see :func:`folder_of`.
            address: of a Ray cluster's dashboard: runs then follow a job there.
            command: what a launch is; for tests.
        """
        self.launches = Launches(database)
        self.folder = folder_of(database, folder)
        self._storage = database.place
        self.address = address
        self._command = command
        self._token = secrets.token_hex(8)  # tells claims of this object from another's
        self._alone = threading.RLock()
        self.children: dict[Identity, subprocess.Popen[bytes]] = {}

    # ------------------------------------------------------------------ what everybody asks

    def start(self, launch: Launch, requested_by: str = "terminal") -> bool:
        """Run a study, or continue it, at once; return whether it had to be started."""
        self.look_after()
        try:
            record = self.launches.add("run", launch.study, launch.request(), requested_by)
        except StudyLockedError:
            return False
        with self._alone:
            claimed = self.launches.claim(record.id, self._launcher("run"), self._place("run"))
            refusal = None if claimed is None else self._spawn(claimed)
        if refusal is not None:
            raise BackendError(f"study {launch.study!r}: {refusal}")
        return True

    def start_next(self, kind: Kind, most: int) -> LaunchRecord | None:
        """Start the launch whose turn it is; None when none waits, or ``most`` run here."""
        with self._alone:
            launcher = self._launcher(kind)
            record = self.launches.claim_next(kind, launcher, self._place(kind), most=most)
            if record is not None:
                self._spawn(record)
        return record

    def stop(self, study: str, wait_s: float = STOP_WAIT_S) -> State:
        """End the run of a study and wait until it has ended; everything evaluated is stored."""
        record = self._known(study)
        if record.ended:
            self._refuse_unlaunched(study)
            return State.of(record)
        record = self.launches.ask_stop(record.id)
        deadline = time.monotonic() + wait_s
        while True:
            self.look_after()
            record = self.launches.get(record.id)
            process = Identity.read(record.place)  # it says how it ended a moment before it is gone
            if record.ended and (process is None or not process.is_alive):
                return State.of(record)
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        where = (record.place or {}).get("host")
        raise BackendError(
            f"study {study!r} was asked to end and has not within {wait_s:g} s; look at its log"
            f"{_way_out(process)}"
            if where == host()
            else f"study {study!r} runs on {where}, which has not answered within {wait_s:g} s; "
            "stop it there, or here again later: it is given up when nobody holds the study"
        )

    def state(self, study: str) -> State | None:
        """Return where a study stands; None when it was never started."""
        record = self.record(study)
        return None if record is None else State.of(record)

    def record(self, study: str) -> LaunchRecord | None:
        """Return the last launch of a study, as it stands now; None when there is none."""
        self.look_after()
        return self.launches.newest([study]).get(study)

    def place(self, study: str) -> Mapping[str, Any]:
        """Return number, process and folder of a study's last launch."""
        record = self.record(study)
        process = None if record is None else Identity.read(record.place)
        return {
            "launch": None if record is None else record.id,
            "process": None if process is None else process.pid,
            "folder": None if record is None else record.folder,
        }

    def log(self, study: str, *, follow: bool = False) -> Iterator[str]:
        """Yield what a study has printed, in pieces; with ``follow`` until it has ended."""
        record = self._known(study)
        while record.folder is None and follow and not record.ended:
            time.sleep(POLL_S)
            record = self._known(study)
        if record.folder is None:
            return
        where = (record.place or {}).get("host")
        if where not in (None, host()):
            raise BackendError(f"the log of study {study!r} is on {where}: {record.folder}")
        path = Path(record.folder, LOG)
        if follow:
            yield from follow_log(path, lambda: self._has_ended(record.id))
            return
        start = 0
        while (piece := read_piece(path, start)).text:
            start = piece.next
            yield piece.text

    def stop_job(self, study: str) -> bool:
        """Ask a cluster to end a job that nobody follows; return whether there is a cluster."""
        if self.address is None:
            return False
        with self._alone:
            parent = self.folder / "stops"
            _make_private(self.folder, parent)
            self._popen(stop_command(study, self.address), parent)
        return True

    # ------------------------------------------------------------------ looking after them

    def look_after(self) -> None:
        """Note what has ended without a word, put back what never began, pass on stops.

        Safe at any time, in any number of processes.
        """
        with self._alone:
            gone = [identity for identity, child in self.children.items() if _over(child)]
            for record in self.launches.active():
                if record.state == "running":
                    self._look_at(record)
            for identity in gone:
                del self.children[identity]

    def _look_at(self, record: LaunchRecord) -> None:
        process = Identity.read(record.place)
        starter = Identity.read(record.place, "starter")
        known = process or starter
        if known is None:
            self.launches.end(
                record.id, None, "it cannot be told which process it is", expected=record
            )
        elif not known.is_here:
            self._give_up(record, known)
        elif process is None:
            # Nothing of this object's own is half started while it looks.
            if (record.place or {}).get("by") == self._token or not known.is_alive:
                self.launches.put_back(record)
        elif not process.is_alive:
            self._note_end(record, process)
        elif record.stop_asked_s is not None and self.launches.take_stop(record):
            self._end(record, process)

    def _give_up(self, record: LaunchRecord, known: Identity) -> None:
        """End a launch of a machine that does not answer, once nobody can be running it."""
        asked = record.stop_asked_s
        if asked is None or asked < ANSWER_S:
            return
        if record.kind == "run" and self.launches.holder(record.study) is not None:
            return
        message = f"given up: {known.host}, where it ran, has not answered"
        self.launches.end(record.id, None, message, expected=record)

    def _end(self, record: LaunchRecord, process: Identity) -> None:
        address = (record.place or {}).get("address")
        if address is None:
            process.terminate()
        else:  # the job ends, and then whoever follows it
            folder = Path(record.folder or self.folder)
            self._popen(stop_command(record.study, str(address)), folder)

    def _note_end(self, record: LaunchRecord, process: Identity) -> None:
        code = self._exit_code(process)
        stopped = record.stop_asked_s is not None
        if code == 0:
            self.launches.end(record.id, 0, None, expected=record)
        elif record.launcher == "ray" and not stopped and (code is None or code > 128):
            self.launches.put_back(record)  # the job itself goes on: follow it again
        elif stopped and code in (None, INTERRUPTED, 128 + signal.SIGTERM):
            self.launches.end(record.id, INTERRUPTED, "stopped", expected=record)
        else:
            self.launches.end(record.id, code, _last_words(record, process, code), expected=record)

    def _exit_code(self, process: Identity) -> int | None:
        """Return how a process that is gone has ended, as shells count; None when nobody knows."""
        child = self.children.get(process)
        if child is not None:
            code = child.wait()
            return code if code >= 0 else 128 - code
        if Identity.of(process.pid) == process:  # an orphan that became ours waits to be seen
            with suppress(ChildProcessError):
                found, status = os.waitpid(process.pid, os.WNOHANG)
                if found:
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code
        return None

    # ------------------------------------------------------------------ starting

    def _launcher(self, kind: Kind) -> str:
        return "ray" if kind == "run" and self.address is not None else "process"

    def _place(self, kind: Kind) -> dict[str, Any]:
        place = {"host": host(), "starter": Identity.mine().as_dict(), "by": self._token}
        return place if self._launcher(kind) == "process" else {**place, "address": self.address}

    def _spawn(self, record: LaunchRecord) -> str | None:
        """Start a launch that is claimed; return why it could not be, after it has ended."""
        try:
            folder = self._make_folder(record)
            if not self.launches.move(record, record.place or {}, folder=str(folder)):
                return None  # somebody thought this process gone, and has put it back
            command = self._command_of(record, folder)
            working = record.request.get("folder") or folder
            child = self._popen(command, folder, launch=record.id, working=Path(working))
        except (MoeashError, OSError) as error:
            message = f"it could not be started: {' '.join(str(error).split())}"
            self.launches.end(record.id, NOT_STARTED, message, expected=record)
            return message
        # The process says so itself, but later: until then others would not know it.
        started = replace(record, folder=str(folder))
        self.launches.move(started, {**(record.place or {}), "process": child.as_dict()})
        return None

    def _command_of(self, record: LaunchRecord, folder: Path) -> Sequence[str]:
        if self._command is not None:
            return self._command(record, folder)
        return command_of(record, folder, self.address if record.kind == "run" else None)

    def _make_folder(self, record: LaunchRecord) -> Path:
        """Make a folder nobody else has, for this user's eyes alone, and put the spec there."""
        parent = self.folder / LAUNCHES
        _make_private(self.folder, parent)
        n = 1
        while True:
            folder = parent / (str(record.id) if n == 1 else f"{record.id}-{n}")
            try:
                folder.mkdir(mode=0o700)
                break
            except FileExistsError:  # an earlier start, or another database's
                n += 1
        (folder / OUT).mkdir(mode=0o700)
        if record.kind == "run":
            (folder / SPEC).write_text(str(record.request.get("spec")), encoding="utf-8")
        return folder

    def _popen(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        launch: int | None = None,
        working: Path | None = None,
    ) -> Identity:
        environment = os.environ | {"MOEASH_STORAGE": self._storage, "PYTHONUNBUFFERED": "1"}
        environment.pop(MOEASH_LAUNCH, None)
        if launch is not None:
            environment[MOEASH_LAUNCH] = str(launch)
        handle = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                cwd=working or folder,
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(handle)
        identity = Identity.of(child.pid)
        assert identity is not None  # nobody has waited for it
        self.children[identity] = child
        return identity

    # ------------------------------------------------------------------ below

    def _known(self, study: str) -> LaunchRecord:
        record = self.record(study)
        if record is None:
            self._refuse_unlaunched(study)
            raise InputError(f"study {study!r} was never launched from this storage")
        return record

    def _refuse_unlaunched(self, study: str) -> None:
        holder = self.launches.holder(study)
        if holder is not None:
            raise InputError(unlaunched(study, holder))

    def _has_ended(self, id: int) -> bool:
        self.look_after()
        return self.launches.get(id).ended


def _way_out(process: Identity | None) -> str:
    """Say how to end a process that hears nothing, as one in a long call of a library may."""
    if process is None or not process.is_alive:
        return ""
    return f", or end process {process.pid} with kill -9: everything evaluated is stored"


def unlaunched(study: str, holder: str) -> str:
    """Say that a study is run by somebody who did not launch it."""
    return f"study {study!r} is run by {holder}, which was not launched; end it there with Ctrl-C"


def _make_private(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _over(child: "subprocess.Popen[bytes]") -> bool:
    return child.poll() is not None


def _last_words(record: LaunchRecord, process: Identity, code: int | None) -> str:
    said = "" if record.folder is None else last_lines(Path(record.folder, LOG))
    if process.boot != Identity.mine().boot:
        how = "the machine was started again while it ran"
    elif code is None:
        how = "its process ended without a word"
    elif code > 128:
        how = f"its process was ended by signal {code - 128}"
    else:
        return said or f"its process ended with code {code}"
    return f"{how}; it said last: {said}" if said else how
