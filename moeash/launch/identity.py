"""Which process: a number alone says nothing, because the kernel gives it again.

A process is known by its machine, the machine's boot, its number, and the tick of that boot at
which it began. Nothing is ever signalled that does not agree in all four.
"""

import os
import select
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeash.errors import BackendError

_GONE = ("Z", "X", "x")  # ended, and perhaps not waited for yet


@dataclass(frozen=True)
class Identity:
    """A process, never another one.

    Attributes:
        host: name of its machine.
        boot: of the machine: random, and new after each start.
        pid: its number.
        started: when it began, in clock ticks since the boot.
    """

    host: str
    boot: str
    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """Return the process of this machine that has this number; None when there is none."""
        found = _stat(pid)
        return None if found is None else cls(host(), boot(), pid, found[1])

    @classmethod
    def mine(cls) -> "Identity":
        """Return this process."""
        found = cls.of(os.getpid())
        assert found is not None  # it runs
        return found

    @classmethod
    def read(cls, place: Mapping[str, Any] | None, key: str = "process") -> "Identity | None":
        """Return the process in the place of a launch; None when it has none, or nonsense."""
        values = (place or {}).get(key)
        if not isinstance(values, Mapping):
            return None
        texts = [values.get(name) for name in ("host", "boot")]
        numbers = [values.get(name) for name in ("pid", "started")]
        if not all(isinstance(text, str) for text in texts):
            return None
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            return None
        return cls(values["host"], values["boot"], values["pid"], values["started"])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == host()

    @property
    def is_alive(self) -> bool:
        """Whether it runs still. Of another machine's process nobody here can tell: False."""
        return self.is_here and self.boot == boot() and _is_running(self.pid, self.started)

    def terminate(self) -> bool:
        """Send SIGTERM; return whether it was there to receive it.

        The number is held open before it is looked at, so that it cannot become another process's
        between looking and sending.
        """
        if not (self.is_here and self.boot == boot()):
            return False
        with _held(self.pid) as handle:
            if handle is None or not _is_running(self.pid, self.started):
                return False
            try:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
            except ProcessLookupError:
                return False
            except PermissionError as error:
                raise BackendError(
                    f"process {self.pid} is another user's; only that user may end it"
                ) from error
            return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it has ended."""
        with _held(self.pid) as handle:
            if handle is not None and self.is_alive:
                ended = select.poll()
                ended.register(handle, select.POLLIN)
                ended.poll(1000 * timeout_s)
        return not self.is_alive


def host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()


def boot() -> str:
    """Return what names this boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise BackendError(
            "studies are launched on Linux, whose /proc tells processes apart; here use moeash run"
        ) from error


@contextmanager
def _held(pid: int) -> Iterator[int | None]:
    """Yield a handle of whatever process has this number now; None when there is none."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _is_running(pid: int, started: int) -> bool:
    found = _stat(pid)
    return found is not None and found[1] == started and found[0] not in _GONE


def _stat(pid: int) -> tuple[str, int] | None:
    """Return the state of a process and the tick at which it began."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Its name stands in parentheses and may hold anything, parentheses too.
    fields = text.rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])
