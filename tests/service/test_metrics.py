import pytest
from prometheus_client.parser import text_string_to_metric_families

from moeash.service.metrics import MOST_STUDIES, Metrics
from moeash.service.routes import metrics as route
from moeash.study.events import WorkersChanged
from moeash.study.storage.records import GenerationRecord
from moeash.study.storage.team.counting import Counting
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing
from tests.contracts.storage import COMPLETE, FAILED, STOPPED, add, facts, replace
from tests.service.serving import Service

LABELS = ("study", "method", "route", "stage", "state", "kind", "status", "le")


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path, observe=lambda *values: service.metrics.observe(*values))
    storage = service.storage
    service.metrics = Metrics(
        Listing(storage.database),
        Counting(storage.database),
        lambda names: {s.record.facts.name: s for s in storage.summaries(names)},
    )
    service.framework.include_router(route.router(service.auth, service.metrics))
    yield service
    service.close()


def scrape(service):
    """Every number, by name and values of its labels."""
    answer = service.client().get("/metrics", headers=service.bearer("viewer"))
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return {
        (
            sample.name.removeprefix("moeash_"),
            *(sample.labels[name] for name in LABELS if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_only_viewers_see_numbers(service):
    assert service.client().get("/metrics").status_code == 401


def test_numbers_are_those_of_what_is_stored(service):
    storage = service.storage
    study = storage.create_study(facts(name="dig its"))
    add(storage, study, 1, outcome=COMPLETE)
    add(storage, study, 2, outcome=STOPPED)
    add(storage, study, 3, outcome=replace(FAILED, retriable=False))
    add(storage, study, 4, outcome=replace(FAILED, retriable=True))
    storage.put_generation(study.id, GenerationRecord(1, 0.25, 4, 1, 9, 1.0))
    found = scrape(service)
    assert found["evaluations_total", "dig its", "search", "complete"] == 1
    assert found["evaluations_total", "dig its", "search", "failed"] == 2
    assert found["failures_total", "dig its", "retriable"] == 1
    assert found["failures_total", "dig its", "lasting"] == 1
    assert found["hypervolume", "dig its"] == 0.25
    assert found["front_solutions", "dig its"] == 1
    assert found["study_status", "dig its", "crashed"] == 1


def test_workers_of_a_running_study_are_busy_or_idle(service):
    storage = service.storage
    study = storage.create_study(facts(name="a"))
    storage.add_events(study.id, [WorkersChanged(3)])
    add(storage, study, 1, outcome=replace(COMPLETE, duration_s=450.0))
    assert not any(key[0] == "workers" for key in scrape(service)), "nobody holds it"
    with storage.lock("a"):
        found = scrape(service)
    assert found["workers", "a", "busy"] == 1 and found["workers", "a", "idle"] == 2


def test_the_queue_and_exports_are_counted_once(service):
    launches = Launches(service.storage.database)
    launches.add("run", "a", {}, "x")
    export = launches.add("export", "a", {}, "x")
    launches.claim(export.id, "process", {})
    found = scrape(service)
    assert found["queue_length", "run"] == 1 and found["queue_length", "export"] == 0
    assert found["running", "export"] == 1 and ("export_seconds_count", "finished") not in found
    launches.end(export.id, 0, None)
    for _ in range(2):
        assert scrape(service)["export_seconds_count", "finished"] == 1


def test_requests_are_timed_by_route_and_status(service):
    service.client().get("/api/v1/session")
    service.client().get("/nothing/here")
    service.client().request("BREW", "/api/v1/session")
    found = scrape(service)
    assert found["request_seconds_count", "GET", "/api/v1/session", "401"] == 1
    assert found["request_seconds_count", "GET", "(none)", "404"] == 1
    assert any(key[:2] == ("request_seconds_count", "other") for key in found)


@pytest.mark.slow
def test_time_series_are_bounded_whatever_is_stored_or_asked_for(service):
    for n in range(MOST_STUDIES + 5):
        service.storage.create_study(facts(name=f"s{n}"))
        service.client().get(f"/x/{n}")
    found = scrape(service)
    studies = [key for key in found if key[0] == "study_status"]
    assert len(studies) == MOST_STUDIES
    assert ("study_status", f"s{MOST_STUDIES + 4}", "crashed") in studies
    assert len({key[2] for key in found if key[0] == "request_seconds_count"}) == 1
