"""Whether the Ray on this machine lives: without its raylet a driver is ended from native code.

When its raylet has died, Ray ends the driver at the next touch of shared memory, or after 15
seconds, with exit code 1 and without a word from Python. So whoever has lost a worker, or is about
to share something, asks here first, while there is still time to say so or to start another Ray.
Where there was none, :mod:`moeash.backends.last_words` says it.
"""

import socket

import ray

from moeash.errors import BackendError

ANSWER_S = 1.0


class RayLost(BackendError):  # noqa: N818
    """The Ray on this machine is gone."""


class Raylet:
    """The raylet this driver is connected to."""

    def __init__(self) -> None:
        """Look it up; Ray must be connected."""
        own = ray.get_runtime_context().get_node_id()
        paths = [n.get("RayletSocketName") for n in ray.nodes() if n["NodeID"] == own]
        self._path: str | None = paths[0] if paths else None

    @property
    def lives(self) -> bool:
        """Whether it takes connections. It logs each one, so ask only where there is a reason."""
        if not self._path:
            return True
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            try:
                connection.connect(self._path)
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except OSError:  # busy, which is not dead
                return True
        return True

    def check(self) -> None:
        """Make sure that it lives.

        Raises:
            RayLost: it does not.
        """
        if not self.lives:
            raise RayLost(
                "the Ray on this machine is gone: its raylet died (killed, out of memory, or "
                "stopped by somebody)"
            )
