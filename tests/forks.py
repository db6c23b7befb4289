"""Python processes that begin with everything imported.

They are processes like any other, with a number, pipes, and an end by kill -9. Only the seconds
that importing torch takes are spent once, by the process that they are forked from.
"""

import ctypes
import os
import signal
import sys
import textwrap
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Timer

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preloaded"])

MOEASH = "from moeash.cli.main import main\nmain()\n"
"""What an installed ``moeash`` is."""

PATIENCE_S = 120.0


CLONE_NEWNET = 0x40000000


def _run(
    code: str,
    argv: list[str],
    cwd: str,
    environ: dict[str, str],
    netns: str,
    out: Connection,
    err: Connection,
) -> None:
    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    if not Path(netns).samefile("/proc/self/ns/net"):
        with Path(netns).open() as place:
            assert ctypes.CDLL(None).setns(place.fileno(), CLONE_NEWNET) == 0
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    # Whoever starts the tests in the background has Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = argv
    exec(compile(code, "<fork>", "exec"), {"__name__": "__main__"})


class Fork:
    """``subprocess.Popen([sys.executable, "-c", code, *arguments])``, with text from both pipes.

    Args:
        netns: name of the network namespace it is in; default: that of the tests.
    """

    def __init__(
        self,
        code: str,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        netns: str | None = None,
    ):
        readers, writers = zip(*(CONTEXT.Pipe(duplex=False) for _ in range(2)), strict=True)
        argv = ["moeash", *map(str, arguments)]
        environ = dict(os.environ if env is None else env)
        # The tests may have moved to another network since there is a process to fork from.
        network = f"/var/run/netns/{netns}" if netns else f"/proc/{os.getpid()}/ns/net"
        self._process = CONTEXT.Process(
            target=_run,
            args=(textwrap.dedent(code), argv, str(cwd or Path.cwd()), environ, network, *writers),
        )
        self._process.start()
        for writer in writers:
            writer.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(r.fileno())) for r in readers)
        for reader in readers:
            reader.close()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number where one ended it."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """Return what is left on both pipes once it has ended; kill it if it does not."""
        timer = Timer(timeout, self.kill)
        timer.start()
        with ThreadPoolExecutor(2) as pool:
            out, err = pool.map(lambda pipe: pipe.read(), (self.stdout, self.stderr))
        self._process.join()
        timer.cancel()
        self.stdout.close()
        self.stderr.close()
        return out, err

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *_: object) -> None:
        """End it, whatever it does."""
        self.kill()
        self._process.join()
        self.stdout.close()
        self.stderr.close()
