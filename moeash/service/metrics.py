"""Numbers for Prometheus: what is stored, asked for at each scrape, and how long requests take.

Labels are bounded: routes are those of the application, and studies the newest ones, so that a
storage of thousands of studies does not become as many time series.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from moeash.study.storage.access.secrets import present, written
from moeash.study.storage.records import StudySummary
from moeash.study.storage.team.counting import Counting
from moeash.study.storage.team.listing import Listing, Wanted

MOST_STUDIES = 50
"""Studies that have time series: those that were written to last, of those not archived."""

BUSY_S = 300.0
"""Time over which busy workers are averaged: storage hears of an evaluation when it has ended."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
EXPORT_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)

Summaries = Callable[[Sequence[str]], Mapping[str, StudySummary]]
"""Takes names of studies and returns the summaries of those that are stored."""


class Metrics:
    """Everything that is measured of one service."""

    def __init__(self, listing: Listing, counting: Counting, summaries: Summaries) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = Histogram(
            "moeash_request_seconds",
            "How long requests took.",
            ["method", "route", "status"],
            buckets=REQUEST_S,
            registry=self._registry,
        )
        self._exports = Histogram(
            "moeash_export_seconds",
            "How long exports took that have ended since the service was started.",
            ["status"],
            buckets=EXPORT_S,
            registry=self._registry,
        )
        self._counting = counting
        self._since = written(present())
        self._seen: deque[int] = deque(maxlen=10_000)
        self._lock = threading.Lock()
        self._registry.register(_Stored(listing, counting, summaries))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; see :data:`moeash.service.protection.requests.Observe`."""
        method = method if method in METHODS else "other"
        self._requests.labels(method, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Return all numbers as Prometheus reads them.

        Raises:
            StorageError: storage does not answer.
        """
        with self._lock:
            for export in self._counting.ended_exports(self._since):
                if export.id not in self._seen:
                    self._seen.append(export.id)
                    status = "finished" if export.succeeded else "failed"
                    self._exports.labels(status).observe(export.seconds)
        return generate_latest(self._registry)


class _Stored(Collector):
    """What is stored, as it is when it is asked for."""

    def __init__(self, listing: Listing, counting: Counting, summaries: Summaries) -> None:
        self._listing = listing
        self._counting = counting
        self._summaries = summaries

    def collect(self) -> Iterable[Metric]:
        """Yield the numbers."""
        names = self._listing.studies(Wanted(), order="updated", limit=MOST_STUDIES).names
        summaries = self._summaries(names)
        ids = [summary.record.id for summary in summaries.values()]
        yield from _of_evaluations(summaries)
        yield from self._of_fronts(summaries, self._counting.fronts(ids))
        yield self._of_workers(summaries)
        yield from self._of_launches()

    @staticmethod
    def _of_fronts(
        summaries: Mapping[str, StudySummary], fronts: Mapping[int, int]
    ) -> Iterable[Metric]:
        volume = GaugeMetricFamily(
            "moeash_hypervolume", "Of the front after the last generation.", labels=["study"]
        )
        front = GaugeMetricFamily(
            "moeash_front_solutions", "On the front after the last generation.", labels=["study"]
        )
        best = GaugeMetricFamily(
            "moeash_best_bytes", "Of the smallest wanted solution.", labels=["study"]
        )
        status = GaugeMetricFamily(
            "moeash_study_status", "1 for where the study stands.", labels=["study", "status"]
        )
        for name, summary in summaries.items():
            if summary.hypervolume is not None:
                volume.add_metric([name], summary.hypervolume)
            if summary.record.id in fronts:
                front.add_metric([name], fronts[summary.record.id])
            if summary.smallest_bytes is not None:
                best.add_metric([name], summary.smallest_bytes)
            status.add_metric([name, summary.status], 1)
        yield from (volume, front, best, status)

    def _of_workers(self, summaries: Mapping[str, StudySummary]) -> Metric:
        workers = GaugeMetricFamily(
            "moeash_workers",
            f"Of running studies, by what they do; averaged over {BUSY_S:g} seconds.",
            labels=["study", "state"],
        )
        ids = {s.record.id: name for name, s in summaries.items() if s.status == "running"}
        live = self._listing.newest(list(ids), "workers")
        busy = self._counting.busy(list(ids), until=present(), window_s=BUSY_S)
        for number, name in ids.items():
            n = live.get(number, {}).get("workers", 0)
            at_work = min(float(n), busy.get(number, 0.0))
            workers.add_metric([name, "busy"], at_work)
            workers.add_metric([name, "idle"], n - at_work)
        return workers

    def _of_launches(self) -> Iterable[Metric]:
        found = self._counting.launches()
        for state, name, text in (
            ("queued", "moeash_queue_length", "Launches that wait for their turn."),
            ("running", "moeash_running", "Launches that run."),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["kind"])
            for kind in ("run", "export"):
                gauge.add_metric([kind], found.get((kind, state), 0))
            yield gauge


def _of_evaluations(summaries: Mapping[str, StudySummary]) -> Iterable[Metric]:
    counts = CounterMetricFamily(
        "moeash_evaluations", "Stored, by stage and status.", labels=["study", "stage", "status"]
    )
    failures = CounterMetricFamily(
        "moeash_failures",
        "Stored, by whether trying again may help.",
        labels=["study", "kind"],
    )
    for name, summary in summaries.items():
        for count in summary.counts:
            counts.add_metric([name, count.stage, count.status], count.n)
        failed = summary.n(status="failed")
        retriable = sum(count.n_retriable for count in summary.counts if count.status == "failed")
        failures.add_metric([name, "retriable"], retriable)
        failures.add_metric([name, "lasting"], failed - retriable)
    yield from (counts, failures)
