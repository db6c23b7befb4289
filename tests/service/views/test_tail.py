import asyncio
import contextlib
import json
import threading
import time

import pytest

from moeash.service.views import tail as tail_module
from moeash.service.views.tail import Tail
from moeash.study.events import Doing, Note
from moeash.study.storage.records import EventRecord
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.stream import Stream, StreamedEvent
from tests.contracts.storage import facts

PATIENCE_S = 60


@pytest.fixture
def storage(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    yield storage
    storage.close()


def fields(chunk):
    lines = [line.partition(": ") for line in chunk.decode().splitlines() if line]
    return {name: value for name, _, value in lines}


@contextlib.asynccontextmanager
async def running(storage_or_stream, **options):
    stream = storage_or_stream
    if isinstance(stream, SqlStorage):
        stream = Stream(stream.database)
    tail = Tail(stream, **{"gaps": False, "poll_s": 0.01, **options})
    tail.start(asyncio.get_running_loop())
    try:
        yield tail
    finally:
        await asyncio.to_thread(tail.close)


async def take(stream, n):
    """The next n events, comments and hints left out."""
    found = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < n:
            chunk = await anext(stream)
            found += [fields(event) for event in chunk.split(b"\n\n") if b"event:" in event]
    return found[:n]


def texts(events):
    return [json.loads(event["data"])["text"] for event in events]


def test_what_is_new_arrives_and_what_was_before_does_not(storage):
    a, b = (storage.create_study(facts(name=name)) for name in "ab")
    storage.add_events(a.id, [Note("before")])

    async def listen():
        async with running(storage) as tail:
            everything, only_b = tail.listen(None, None), tail.listen("b", None)
            assert b"retry: 2000" in await anext(everything)
            await anext(only_b)
            waiting = asyncio.create_task(take(everything, 2)), asyncio.create_task(take(only_b, 1))
            await asyncio.sleep(0.1)
            storage.add_events(a.id, [Note("one")])
            storage.add_events(b.id, [Note("two\nlines: 1")])
            return await asyncio.gather(*waiting)

    everything, only_b = asyncio.run(listen())
    assert texts(everything) == ["one", "two\nlines: 1"]
    assert texts(only_b) == ["two\nlines: 1"]
    assert [json.loads(e["data"])["study"] for e in everything] == ["a", "b"]
    assert int(everything[0]["id"]) < int(everything[1]["id"])


def test_what_is_stored_after_the_first_byte_arrives(storage):
    """However long the listener takes to ask for more: a busy server may come back to it late."""
    study = storage.create_study(facts(name="a"))

    async def listen():
        async with running(storage) as tail:
            stream = tail.listen("a", None)
            assert b"retry: 2000" in await anext(stream)
            storage.add_events(study.id, [Note("early")])
            return await take(stream, 1)

    assert texts(asyncio.run(listen())) == ["early"]


@pytest.mark.parametrize("ring", [10, 4096])
def test_who_comes_back_misses_nothing_and_gets_nothing_twice(storage, monkeypatch, ring):
    monkeypatch.setattr(tail_module, "RING", ring)
    monkeypatch.setattr(tail_module, "PAGE", 7)
    a, b = (storage.create_study(facts(name=name)) for name in "ab")

    def write(first, last):
        for i in range(first, last):
            storage.add_events((a if i % 3 else b).id, [Note(str(i))])

    async def listen():
        write(0, 40)
        async with running(storage) as tail:
            last, found, of_a = 0, [], []
            for round_ in range(6):
                await asyncio.to_thread(write, 40 + 10 * round_, 50 + 10 * round_)
                events = await take(tail.listen(None, last), 15)
                found += texts(events)
                last = int(events[-1]["id"])
            of_a = texts(await take(tail.listen("a", 0), 60))
            assert tail.n_listeners <= 8
            return found, of_a

    found, of_a = asyncio.run(listen())
    assert found == [str(i) for i in range(90)]
    assert of_a == [str(i) for i in range(100) if i % 3][:60]


def test_a_listener_that_does_not_read_holds_nothing_and_is_served_later(storage, monkeypatch):
    monkeypatch.setattr(tail_module, "RING", 20)
    study = storage.create_study(facts())

    async def listen():
        async with running(storage) as tail:
            slow = tail.listen(None, 0)
            await anext(slow)
            for i in range(150):
                storage.add_events(study.id, [Note(str(i))])
            while tail.position != 150:
                await asyncio.sleep(0.01)
            assert tail.n_kept == 20
            return texts(await take(slow, 150))

    assert asyncio.run(listen()) == [str(i) for i in range(150)]


def test_passing_events_are_told_without_an_id_and_once(storage):
    study = storage.create_study(facts())
    storage.set_activity(study.id, Doing("loading", 1, 4))

    async def listen():
        async with running(storage) as tail:
            stream = tail.listen("digits", 0)
            first = await take(stream, 1)
            await asyncio.sleep(0.1)
            storage.set_activity(study.id, Doing("loading", 2, 4))
            return first + await take(stream, 1)

    events = asyncio.run(listen())
    assert texts(events) == ["loading, 1 of 4", "loading, 2 of 4"]
    assert all("id" not in event and event["event"] == "doing" for event in events)


class Committed:
    """A stream whose rows appear as they are committed, like those of PostgreSQL."""

    def __init__(self):
        self.rows = {}
        self.lock = threading.Lock()

    def commit(self, id_):
        record = EventRecord(id_, "2026-01-01T00:00:00.000+00:00", "note", {"text": str(id_)})
        with self.lock:
            self.rows[id_] = StreamedEvent("digits", record)

    def last_id(self):
        return 0

    def events(self, *, after, limit, study=None, upto=None):
        with self.lock:
            ids = sorted(i for i in self.rows if i > after and (upto is None or i <= upto))
            return [self.rows[i] for i in ids[:limit]]

    def passing(self):
        return []


@pytest.mark.slow
def test_an_id_that_is_committed_late_is_not_missed_and_one_that_never_comes_is_given_up(
    monkeypatch,
):
    monkeypatch.setattr(tail_module, "GAP_S", 0.6)
    rows = Committed()

    async def listen():
        async with running(rows, gaps=True) as tail:
            stream = tail.listen(None, 0)
            for id_ in (1, 2, 4):
                rows.commit(id_)
            first = await take(stream, 2)
            await asyncio.sleep(0.1)
            rows.commit(3)
            late = await take(stream, 2)
            began = time.monotonic()
            for id_ in (6, 7, 9):
                rows.commit(id_)
            return texts(first + late + await take(stream, 3)), time.monotonic() - began

    found, waited = asyncio.run(listen())
    assert found == ["1", "2", "3", "4", "6", "7", "9"]
    assert waited > 0.6


def test_a_quiet_stream_says_that_it_lives(storage, monkeypatch):
    monkeypatch.setattr(tail_module, "KEEPALIVE_S", 0.05)

    async def listen():
        async with running(storage) as tail:
            stream = tail.listen(None, None)
            return [await anext(stream) for _ in range(3)]

    assert asyncio.run(listen())[1:] == [b": still here\n\n"] * 2
