"""Many who listen at once, and some who do not read what they asked for."""

import asyncio
import contextlib
import itertools
import re
import resource
import socket
from pathlib import Path

import pytest

from moeash.study.events import Note
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import facts
from tests.service.test_serving import Served
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

CLIENTS, EVENTS, BATCH = 1000, 150, 10
NEEDED_FILES = 3 * CLIENTS
WHOLE = re.compile(rb"id: (\d+)\nevent: note\ndata: [^\n]*\n\n")


@pytest.fixture
def many_files():
    """Lets this process, and what it starts, have a socket for each client."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < NEEDED_FILES:
        pytest.skip(f"a process may open {before[1]} files here, and {NEEDED_FILES} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], NEEDED_FILES), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def served(tmp_path, many_files):
    service = Served(tmp_path)
    yield service
    service.close()


@pytest.fixture
def study(served):
    """The storage of the service, and a study in it."""
    storage = SqlStorage(served.folder / "moeash.db")
    yield storage, storage.create_study(facts()).id
    storage.close()


class Listener:
    """Reads a stream as bytes: a thousand proper clients would take longer than the service.

    Attributes:
        ids: of the events received, in order.
    """

    def __init__(self, served, leaves_after):
        self._served = served
        self._leaves_after = leaves_after
        self.ids = []

    async def listen(self, ready):
        """Read, leave once in the middle, come back, and read to the last event."""
        while not self.ids or self.ids[-1] < EVENTS:
            await self._connect(ready)

    async def _connect(self, ready):
        last = self.ids[-1] if self.ids else 0
        reader, writer = await asyncio.open_connection("127.0.0.1", self._served.port)
        try:
            writer.write(
                "GET /api/v1/events HTTP/1.1\r\n"
                f"Host: 127.0.0.1:{self._served.port}\r\n"
                f"Authorization: {self._served.headers['Authorization']}\r\n"
                f"Last-Event-ID: {last}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            ready()
            left = b""
            while not self.ids or self.ids[-1] < EVENTS:
                size = int(await reader.readuntil(b"\r\n"), 16)
                left += (await reader.readexactly(size + 2))[:-2]
                for found in WHOLE.finditer(left):
                    self.ids.append(int(found[1]))
                    if len(self.ids) == self._leaves_after:
                        return
                left = left[left.rfind(b"\n\n") + 2 :]
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def test_a_thousand_listeners_get_every_event_once_and_in_order(served, study):
    storage, study_id = study

    async def everybody():
        connected, all_here = itertools.count(1), asyncio.Event()

        def ready():
            if next(connected) == CLIENTS:
                all_here.set()

        listeners = [Listener(served, 20 + i % 100) for i in range(CLIENTS)]
        async with asyncio.timeout(240), asyncio.TaskGroup() as group:
            for i, listener in enumerate(listeners):
                group.create_task(listener.listen(ready))
                if i % 50 == 49:
                    await asyncio.sleep(0.05)
            await all_here.wait()
            for first in range(0, EVENTS, BATCH):
                notes = [Note(f"{n} " + "x" * 200) for n in range(first, first + BATCH)]
                await asyncio.to_thread(storage.add_events, study_id, notes)
                await asyncio.sleep(0.05)
        return listeners

    listeners = asyncio.run(everybody())
    assert [i for i, one in enumerate(listeners) if one.ids != list(range(1, EVENTS + 1))] == []


def memory_of(pid):
    """Bytes of a process that are in memory."""
    status = Path("/proc", str(pid), "status").read_text()
    return 1024 * int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1])


@pytest.fixture
def sockets():
    """Makes sockets, and closes them whatever happens."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.socket())


def test_who_never_reads_costs_the_server_no_memory(served, study, sockets):
    storage, study_id = study
    n_events, text, n_idle = 6_000, "x" * 2000, 20
    for _ in range(n_idle):
        one = sockets()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", served.port))
        one.sendall(
            f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
            f"Authorization: {served.headers['Authorization']}\r\n\r\n".encode()
        )
        assert one.recv(12) == b"HTTP/1.1 200"
    storage.add_events(study_id, [Note("first")])
    before = memory_of(served.process.pid)
    most = before
    for _ in range(0, n_events, 500):
        storage.add_events(study_id, [Note(text)] * 500)
        most = max(most, memory_of(served.process.pid))
    with served.client.stream("GET", "/events", headers={"Last-Event-ID": "0"}) as answer:
        seen = re.compile(rf"id: {n_events + 1}$")
        assert any(seen.match(line) for line in answer.iter_lines()), "others are served"
    wait_until(lambda: served.get("/studies")["total"] == 1)
    most = max(most, memory_of(served.process.pid))
    print(f"\n{n_idle} idle listeners, {n_events * len(text) / 2**20:.0f} MiB of events for each: ")
    print(f"{before / 2**20:.0f} MiB before, {most / 2**20:.0f} MiB at most")
    # A ring of 4,096 such events takes 9 MB, its successor as much; all that is due takes 240.
    assert most - before < 80 * 2**20
