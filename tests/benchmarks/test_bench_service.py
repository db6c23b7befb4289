"""Time and memory of the service on a study of 50,000 evaluations, printed; none asserted on time.

Run with ``pytest tests/benchmarks/test_bench_service.py -m benchmark -n0 -s``. The same requests of
optuna-dashboard: ``studies/comparison/peer_optuna_dashboard.py``.
"""

import os
import shutil
import statistics
import threading
import time
from datetime import datetime
from pathlib import Path

import httpx
import numpy as np
import pytest

from moeash.study.events import Note
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import facts
from tests.service.browser.served import CHROMIUM_ASKS_NOBODY, CHROMIUM_SAYS, INK, browsing
from tests.service.test_crowd import memory_of
from tests.service.test_serving import Served, longer

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]

REQUESTS = 40
EVENTS, BATCH = 10_000, 100
LISTENERS, ROUNDS, EVALUATIONS = 10, 3, 200
CHARTS = 5

PATHS = {
    "list of studies": "/studies",
    "study": "/studies/many",
    "front": "/studies/many/front",
    "points of the chart": "/studies/many/points",
    "100 evaluations, largest metric first": "/studies/many/evaluations?sort=metric&order=desc",
    "a thousand new points": "/studies/many/points?after=49000",
}


@pytest.fixture
def serve(tmp_path):
    """Starts services in processes of their own, and ends them."""
    made = []

    def make(**options):
        made.append(Served(tmp_path, **options))
        return made[-1]

    yield make
    for service in made:
        service.close()


def test_requests_about_a_long_study(database, serve):
    served = serve(storage=database)
    print()
    for name, path in PATHS.items():
        seconds = []
        for _ in range(1 + REQUESTS):
            start = time.perf_counter()
            answer = served.client.get(path)
            seconds.append(time.perf_counter() - start)
            assert answer.status_code == 200
        p50, p95 = 1000 * np.quantile(seconds[1:], [0.5, 0.95])
        print(
            f"{name:38} first {1000 * seconds[0]:6.1f} ms, p50 {p50:6.1f} ms, p95 {p95:6.1f} ms, "
            f"{len(answer.content):8,} B"
        )


def test_first_chart_of_a_long_study(database, serve):
    """From an empty browser's first request to points that can be seen."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or pytest.skip("no chromium on PATH")
    served = serve(storage=database)
    origin = f"http://127.0.0.1:{served.port}"
    took = []
    with sync_playwright() as playwright:
        arguments = [*CHROMIUM_SAYS, *CHROMIUM_ASKS_NOBODY]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        for _ in range(1 + CHARTS):
            with browsing(browser, origin) as page:
                page.context.set_extra_http_headers(served.headers)
                start = time.perf_counter()
                page.goto(f"{origin}/studies/many", wait_until="commit")
                page.wait_for_function(INK, polling=20)
                took.append(time.perf_counter() - start)
        browser.close()
    p50, most = statistics.median(took[1:]), max(took[1:])
    print(f"\nfirst chart: cold {took[0]:.2f} s, then p50 {p50:.2f} s, at most {most:.2f} s")


def test_memory_over_ten_thousand_events(serve):
    served = serve()
    storage = SqlStorage(served.folder / "moeash.db")
    study = storage.create_study(facts()).id
    heard = threading.Event()

    def listen():
        with served.client.stream("GET", "/events") as answer:
            heard.set()
            for line in answer.iter_lines():
                if line == f"id: {2 * EVENTS}":
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    heard.wait()
    memory = []
    for n in range(2 * EVENTS // BATCH):
        storage.add_events(study, [Note(f"{n} " + "x" * 200)] * BATCH)
        if n % 20 == 19:
            served.get("/studies")
            memory.append(memory_of(served.process.pid) / 2**20)
    listener.join()
    storage.close()
    print(f"\nMiB after every {20 * BATCH} events: ", *(f"{m:.1f}" for m in memory))
    print(f"growth over the last {EVENTS}: {memory[-1] - memory[len(memory) // 2 - 1]:.1f} MiB")


def test_what_listeners_cost_a_study(serve):
    """Pairs of a study that is watched by ten pages, and one that is not."""
    served = serve()
    took, cpu = {0: [], LISTENERS: []}, {0: [], LISTENERS: []}
    for round_ in range(ROUNDS):
        for n in sorted(took, reverse=round_ % 2 == 1):  # in turns: the first one is not favoured
            name = f"s{round_}x{n}"
            stop = threading.Event()
            threads = [threading.Thread(target=watch, args=(served, name, stop)) for _ in range(n)]
            before = cpu_of_children_s(served.process.pid)
            served.post("/studies", {"toml": longer(name, EVALUATIONS)})
            for thread in threads:
                thread.start()
            served.until(name, "finished")
            stop.set()
            for thread in threads:
                thread.join()
            took[n].append(course_s(served, name))
            while cpu_of_children_s(served.process.pid) == before:
                time.sleep(0.05)  # finished, and not yet taken in by the service
            cpu[n].append(cpu_of_children_s(served.process.pid) - before)
    print()
    for what, seconds in (("wall time", took), ("its processor time", cpu)):
        for n, each in seconds.items():
            words = " ".join(f"{s:.2f}" for s in each)
            print(f"{what}, {n:2} listeners: median {statistics.median(each):.2f} s of {words}")
        ratios = [b / a for a, b in zip(seconds[0], seconds[LISTENERS], strict=True)]
        words = " ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{what}, ratios of pairs: median {statistics.median(ratios):.3f} of {words}")


def cpu_of_children_s(pid):
    """Processor seconds of a process's children that have ended: of the studies it ran."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def watch(served, name, stop):
    """Listen as a page does, and ask for new points when something was evaluated."""
    url = f"{served.client.base_url}studies/{name}"
    last, asked = 0, 0.0
    with (
        httpx.Client(headers=served.headers, timeout=30) as client,
        client.stream("GET", f"{url}/events", params={"after": 0}) as answer,
    ):
        for line in answer.iter_lines():
            if stop.is_set() or line == "event: ended":
                return
            if line == "event: evaluated" and time.monotonic() - asked > 1:
                asked = time.monotonic()
                found = client.get(f"{url}/points", params={"after": last}).json()
                last = found.get("last", 0)


def course_s(served, name):
    """Seconds from when a study was opened to its end, without the start of its process."""
    found = served.get(f"/studies/{name}/history", kind=["opened", "ended"])["items"]
    first, last = (datetime.fromisoformat(found[i]["at"]) for i in (0, -1))
    return (last - first).total_seconds()
