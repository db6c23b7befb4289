"""Real nodes on this machine: `ray start --block` processes that can be killed like machines."""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import waiting
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))

PATIENCE_S = 300.0
"""Nodes and workers of Ray start, and are given up, more slowly than what else is waited for."""

wait_until = functools.partial(waiting.wait_until, patience_s=PATIENCE_S)


def ray_command():
    """The ray command, which may live beside another interpreter that this one sees."""
    return [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


class Node:
    """One `ray start --block`, and everything it started."""

    def __init__(self, arguments, environment, prefix=()):
        # A short path: sockets have at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))
        self.log = (self.folder / "log").open("w")
        command = [*ray_command(), "start", "--block", "--temp-dir", str(self.folder), *arguments]
        # The agent's own default is taken where another Ray runs, and jobs start through it.
        command.append(f"--dashboard-agent-listen-port={free_port()}")
        self.process = subprocess.Popen(
            [*prefix, *command],
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def pids(self):
        """Every process of the node: its descendants, by parent."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += parents.get(pid, [])
        return found

    def check(self):
        """Say what it said when it has ended by itself, which nobody wants."""
        assert self.process.poll() is None, (self.folder / "log").read_text()

    def kill(self):
        """Pull the plug: every process at once."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


class Cluster:
    """A head and further nodes; one CPU each."""

    def __init__(self, environment, *, dashboard=False, head_cpus=1, more=lambda port: []):
        self.environment = environment
        self.port, self.dashboard_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"
        arguments = ["--head", f"--port={self.port}", f"--num-cpus={head_cpus}", "--num-gpus=0"]
        arguments += ["--object-store-memory=134217728", f"--ray-client-server-port={free_port()}"]
        arguments += (
            ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}"]
            if dashboard
            else ["--include-dashboard=false"]
        )
        self.nodes = [Node([*arguments, *more(self.port)], environment)]
        wait_until(lambda: self._is_up(dashboard))

    def _is_up(self, dashboard):
        self.nodes[0].check()
        return _accepts(self.port) and (not dashboard or _accepts(self.dashboard_port))

    def add_node(self):
        node = Node(
            [f"--address={self.address}", "--num-cpus=1", "--object-store-memory=134217728"],
            self.environment,
        )
        self.nodes.append(node)
        return node

    def close(self):
        for node in reversed(self.nodes):
            node.kill()


def _accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
