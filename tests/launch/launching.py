"""What tests of launches share: cheap commands, and whole servers on one database."""

import shlex
import subprocess
import sys
import textwrap
from dataclasses import replace

from moeash.launch.base import Launch
from moeash.launch.process import Processes
from moeash.launch.queue import Queue

LAUNCH = Launch("digits", 'name = "digits"\n')


def shell(line):
    """The command of any launch: a line of shell."""
    return lambda record, folder: ["sh", "-c", line]


SERVER = """
    import sys, time
    from moeash.launch.process import Processes
    from moeash.launch.queue import Queue
    from moeash.study.storage.sql import SqlStorage

    database, files, line = sys.argv[1:]
    own = Processes(SqlStorage(database).database, files, command=lambda *_: ["sh", "-c", line])
    queue = Queue(own, max_running=3)
    while queue.launches.active():
        queue.tick()
        time.sleep(0.01)
"""


def servers(place, tmp_path, n=2):
    line = f"echo $MOEASH_LAUNCH >> {shlex.quote(str(tmp_path / 'order'))}; sleep 0.02"
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVER), place, str(tmp_path / "files"), line],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(n)
    ]


def two_servers_start_each_once(database, tmp_path):
    own = Queue(Processes(database, tmp_path / "files"))
    for n in range(20):
        own.enqueue(replace(LAUNCH, study=f"s{n}"), f"who{n % 2}")
    for server in servers(database.place, tmp_path):
        _, said = server.communicate(timeout=60)
        assert (server.returncode, said) == (0, "")
    ids = [int(line) for line in (tmp_path / "order").read_text().split()]
    assert sorted(ids) == list(range(1, 21))
    newest = own.launches.newest()
    assert all(record.ended for record in newest.values())
    assert {record.folder for record in newest.values()} == {
        str(tmp_path / "files" / "launches" / str(n)) for n in range(1, 21)
    }
