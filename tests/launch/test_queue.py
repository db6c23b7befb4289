"""Whose turn it is, with real processes, on both databases."""

import shlex
from dataclasses import replace

import pytest

from moeash.launch.base import Export
from moeash.launch.queue import Queue
from moeash.study.storage.sql import SqlStorage
from tests.launch.launching import LAUNCH, shell, two_servers_start_each_once
from tests.study.storage.server import postgres_server
from tests.waiting import wait_until


def test_what_waits_is_cancelled_by_a_stop(processes):
    queue = Queue(processes(shell("exec sleep 60")))
    for study in ("one", "two", "three"):
        queue.enqueue(replace(LAUNCH, study=study), "ann")
    queue.tick()
    assert queue.positions() == {2: 1, 3: 2}
    assert queue.stop("two").message == "stopped before it began"
    assert queue.positions() == {3: 1}
    queue.stop("one")
    wait_until(lambda: queue.tick() or queue.processes.state("three").name == "running")
    assert queue.processes.state("one").name == "stopped"


@pytest.mark.slow
def test_a_queue_runs_as_many_as_it_may_in_fair_order(processes, tmp_path):
    order = tmp_path / "order"
    line = f"echo $MOEASH_LAUNCH >> {shlex.quote(str(order))}; sleep 0.05"
    queue = Queue(processes(shell(line)), max_running=2)
    for who in ("ann", "bob"):
        for n in range(10):
            queue.enqueue(replace(LAUNCH, study=f"{who}{n}"), who)
    export = queue.enqueue(Export("ann0"), "ann")
    queue.tick()
    assert queue.launches.get(export.id).state == "running"  # beside the studies, not behind them

    def done():
        queue.tick()
        running = [r for r in queue.launches.active("run") if r.state == "running"]
        assert len(running) <= 2
        return not queue.launches.active()

    wait_until(done)
    ids = [int(line) for line in order.read_text().split() if int(line) != export.id]
    assert sorted(ids) == list(range(1, 21))
    whose = ["ann" if id <= 10 else "bob" for id in ids]
    for n in range(2, 20, 2):
        assert abs(whose[:n].count("ann") - n // 2) <= 1


@pytest.mark.slow
def test_two_servers_on_one_database_start_each_launch_once(database, tmp_path):
    two_servers_start_each_once(database, tmp_path)


@pytest.mark.postgres
def test_two_servers_on_one_postgresql_start_each_launch_once(tmp_path):
    with postgres_server() as server:
        storage = SqlStorage(server.url)
        two_servers_start_each_once(storage.database, tmp_path)
        storage.close()


def test_an_export_may_run_the_modules_that_the_server_allows_and_no_others(processes):
    queue = Queue(processes(shell("true")), allow_modules=["mine"])
    record = queue.enqueue(Export("digits", allow_modules=("os",)), "ann")
    assert record.request["allow_modules"] == ["mine"]
