"""Processes of a test's own that do not import torch first.

One server of the session has imported the package and done nothing else; every process is a fork
of it. It is a process like any other: a number and streams of its own, and any end, kill -9 too.
"""

import multiprocessing
import os
import signal
import sys

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["moeash.api", "moeash.cli.studies", "sklearn.datasets"])


class Fork:
    """A process that runs the code of ``python -c``, with the names of ``subprocess.Popen``.

    Ctrl-C ends it, whether or not whoever started the tests has it ignored.
    """

    def __init__(self, code, *arguments):
        readers, writers = zip(*(FORKS.Pipe(duplex=False) for _ in range(2)), strict=True)
        argv = ["-c", *map(str, arguments)]
        self.process = FORKS.Process(target=_run, args=(code, argv, dict(os.environ), writers))
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill
        self.stdout, self.stderr = (os.fdopen(os.dup(each.fileno())) for each in readers)
        for end in (*readers, *writers):
            end.close()

    @property
    def returncode(self):
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self):
        """Return what is left to read, when it has ended."""
        with self.stdout, self.stderr:
            left = self.stdout.read(), self.stderr.read()
        self.process.join()
        return left


def _run(code, argv, environment, writers):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    for stream, end in zip((sys.stdout, sys.stderr), writers, strict=True):
        os.dup2(end.fileno(), stream.fileno())
        end.close()
    sys.argv = argv
    exec(code, {"__name__": "__main__"})
